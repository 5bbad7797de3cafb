package updater_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roost/updater"
	"roost/updater/kept"
)

// TestStateComesBack: whatever way the new version is left, the old one finds the format that it knows.
func TestStateComesBack(t *testing.T) {
	for name, b := range journeys() {
		m := start(t)
		set(m, name, b)
		journey(t, m, name)
		if want := map[string]string{"2": "2"}[m.version]; m.spoilt != "" || want != "" && m.tree.Dirs[database] != want {
			t.Errorf("%s: %s; %s finds %v", name, m.spoilt, m.version, m.tree.Dirs)
		}
	}
}

func TestNoRoomForState(t *testing.T) {
	m := start(t)
	m.tree.Room = 0
	err := m.updater.Update(context.Background(), "2", false)
	if !errors.Is(err, kept.ErrNoRoom) || !strings.Contains(err.Error(), "cannot update to edge 2: a copy of "+database) {
		t.Errorf("got %v", err)
	}
	want(t, m, "phase idle")
	// The root stays, so no state is at risk.
	if err := m.updater.Update(context.Background(), "1.1", false); err != nil {
		t.Error(err)
	}
}

// TestRoomGoes: what fitted when it was asked for does not any more when it is armed.
func TestRoomGoes(t *testing.T) {
	m := start(t)
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.tree.Room = 0
	m.work(t)
	want(t, m, "runs 1", "phase failed", "a copy of "+database, "[edge_1.efi]")
}

// TestGrace: until an hour after the commit a return finds the state of before; then it is refused.
func TestGrace(t *testing.T) {
	m := start(t)
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 2", "committed")
	copies := func() bool {
		_, found, _ := m.tree.Size("/var/lib/roost/kept")
		return found
	}
	synctest.Test(t, func(t *testing.T) {
		base, begun := m.updater.Now(), time.Now()
		m.updater.Now = func() time.Time { return base.Add(time.Since(begun)) }
		if err := m.updater.Start(t.Context()); err != nil { // its channels belong in here
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), kept.Grace-time.Second)
		defer stop()
		if err := m.updater.Run(ctx); err != nil || !copies() {
			t.Errorf("before its time: %v, there %v", err, copies())
		}
		ctx, stop = context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := m.updater.Run(ctx); err != nil || copies() {
			t.Errorf("after its time: %v, there %v", err, copies())
		}
	})
	err := m.updater.Rollback(context.Background())
	if !errors.Is(err, kept.ErrNoCopy) || !strings.Contains(err.Error(), "cannot roll back edge 2: "+database) {
		t.Errorf("got %v", err)
	}
	want(t, m, "runs 2", "committed")
	if m.updater.Status().Phase != updater.Committed {
		t.Error("a refusal changed something")
	}
}
