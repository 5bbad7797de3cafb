package updater_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roost/images"
	"roost/updater"
	"roost/updater/boot"
	"roost/updater/boot/boottest"
	"roost/updater/slot"
)

// start returns a machine that is up.
func start(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	if !m.on(t, 0) {
		t.Fatal("does not come up")
	}
	return m
}

func want(t *testing.T, m *machine, text ...string) {
	t.Helper()
	got := m.describe()
	for _, line := range text {
		if !strings.Contains(got, line) {
			t.Errorf("%q is not in\n%s", line, got)
		}
	}
}

func TestUpdate(t *testing.T) {
	m := start(t)
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 2", "committed", "slots: a=1 b=2", "[edge_1.efi edge_2.efi]")
	if m.boots != 2 {
		t.Errorf("%d boots, want 2", m.boots)
	}
	// There already.
	if err := m.updater.Update(context.Background(), "2", false); err != nil || m.updater.Status().Phase != updater.Committed {
		t.Errorf("the same again: %v, %s", err, m.describe())
	}
	// On the way back nothing is fetched.
	if err := m.updater.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 1", "rolled-back", "left: requested, rolled back on request", "last words of boot-2", "refused: 2, requested", "edge_2+0-1.efi")
	if err := m.updater.Update(context.Background(), "2", false); !errors.Is(err, updater.ErrFailedBefore) {
		t.Errorf("a version that was left: %v", err)
	}
	if err := m.updater.Clear(manifest("2")); err != nil {
		t.Fatal(err)
	}
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 2", "committed")
	if m.slots.written != 1 {
		t.Errorf("the slot was written %d times, want once: it held the release already", m.slots.written)
	}
}

func TestEvidence(t *testing.T) {
	for name, test := range map[string]struct {
		behaviour
		want []string
	}{
		"gate": {behaviour{failing: []string{"daemon"}}, []string{"left: gate, held before the update and not after it: daemon, tries 1",
			"gate daemon: daemon is broken", "last words of boot-2", "refused: 2, gate"}},
		"panic":    {behaviour{outcome: boot.Reset}, []string{"left: panic, the kernel panicked; 2 boot attempts used up, tries 2", "Kernel panic - not syncing"}},
		"firmware": {behaviour{outcome: boot.Refused}, []string{"left: firmware, the firmware did not load the kernel image"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			m.behaviours["2"] = test.behaviour
			if err := m.updater.Update(context.Background(), "2", false); err != nil {
				t.Fatal(err)
			}
			m.work(t)
			want(t, m, append(test.want, "runs 1", "rolled-back")...)
			if err := m.updater.Rollback(context.Background()); !errors.Is(err, updater.ErrNoFallback) {
				t.Errorf("rolling back to the failed version: %v", err)
			}
		})
	}
}

// TestDifferentialGates: what did not hold before need not hold after, and does not condemn the new version.
func TestDifferentialGates(t *testing.T) {
	m := start(t)
	m.behaviours["1"] = behaviour{failing: []string{"daemon"}}
	m.behaviours["2"] = behaviour{failing: []string{"daemon"}}
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 2", "committed")
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*machine)
		want   error // nil: any
	}{
		"unsigned":           {func(m *machine) { m.missing = []string{"2"} }, nil},
		"not there":          {func(m *machine) { delete(m.documents, "2") }, nil},
		"other architecture": {edit(func(r *images.Release) { r.Architecture = "arm64" }), updater.ErrArchitecture},
		"other name":         {edit(func(r *images.Release) { r.Name = "core" }), updater.ErrName},
		"older":              {edit(func(r *images.Release) { r.Version = "0.5" }), updater.ErrOlder},
		"rebuilt":            {edit(func(r *images.Release) { r.Version = "1" }), updater.ErrRebuilt},
		"root too large":     {edit(func(r *images.Release) { r.Root.Size = 1<<20 + 1 }), updater.ErrDoesNotFit},
		"verity too large":   {edit(func(r *images.Release) { r.Verity.Size = 1<<20 + 1 }), updater.ErrDoesNotFit},
		"ESP too small":      {func(m *machine) { m.esp.Capacity = 1 << 20 }, updater.ErrDoesNotFit},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			test.change(m)
			err := m.updater.Update(context.Background(), "2", false)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			want(t, m, "phase idle", "[edge_1.efi]")
			if m.slots.written != 0 {
				t.Error("a slot was written")
			}
		})
	}
}

func edit(f func(*images.Release)) func(*machine) {
	return func(m *machine) {
		r := m.documents["2"]
		f(&r)
		m.documents["2"] = r
	}
}

func TestSecondUpdate(t *testing.T) {
	m := start(t)
	ctx := context.Background()
	if err := m.updater.Update(ctx, "2", false); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := m.updater.Update(ctx, "3", false); !errors.Is(err, updater.ErrBusy) {
			t.Fatalf("in %s: %v", m.updater.Status().Phase, err)
		}
		if err := m.updater.Update(ctx, "2", false); err != nil {
			t.Fatalf("the same again in %s: %v", m.updater.Status().Phase, err)
		}
		if _, err := m.updater.Advance(ctx); err != nil {
			t.Fatal(err)
		}
	}
	m.on(t, 0)
	m.work(t)
	want(t, m, "runs 2", "committed")
}

// TestFloor: the floor follows the release, but never above the version to fall back to.
func TestFloor(t *testing.T) {
	m := start(t)
	edit(func(r *images.Release) { r.Update.RollbackFloor = "2" })(m)
	for _, version := range []string{"2", "3"} {
		if err := m.updater.Update(context.Background(), version, false); err != nil {
			t.Fatal(err)
		}
		m.work(t)
	}
	want(t, m, "runs 3", "floor: 1\n")
	if err := m.updater.Update(context.Background(), "0.9", true); !errors.Is(err, updater.ErrFloor) {
		t.Errorf("below the floor, forced: %v", err)
	}
}

func TestWriteFails(t *testing.T) {
	m := start(t)
	m.slots.broken = errors.New("no space left on device")
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 1", "phase failed", "reason: no space left on device", "[edge_1.efi]")
	m.slots.broken = nil
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 2", "committed")
}

// TestReferenceMoved: the release behind a reference is another one when it comes to be read.
func TestReferenceMoved(t *testing.T) {
	m := start(t)
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.updater.Fetcher = moved{m}
	m.work(t)
	want(t, m, "phase failed", "asked for was "+string(manifest("2")))
}

type moved struct{ *machine }

func (m moved) Open(ctx context.Context, _ string) (*updater.Source, error) {
	return m.machine.Open(ctx, "3")
}

// TestDamagedJournal: a machine whose journal is damaged says so, and can be updated.
func TestDamagedJournal(t *testing.T) {
	for _, text := range []string{"{", `{"phase":"trial"}`, `{"phase":"returned","target":{},"from":{}}`, `{"phase":"rolling-back","target":{},"from":{}}`} {
		m := start(t)
		if err := m.updater.Journal.Write("update.json", []byte(text)); err != nil {
			t.Fatal(err)
		}
		m.on(t, 0)
		want(t, m, "phase failed", "the update journal was damaged")
		if err := m.updater.Update(context.Background(), "2", false); err != nil {
			t.Fatal(err)
		}
		m.work(t)
		want(t, m, "runs 2", "committed")
	}
}

// TestLostRecords: without slots.json the machine still knows what runs, from the partition.
func TestLostRecords(t *testing.T) {
	m := start(t)
	if err := m.updater.Journal.Remove("slots.json"); err != nil {
		t.Fatal(err)
	}
	if err := m.updater.Update(context.Background(), "2", false); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 2", "committed")
	if err := m.updater.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	m.work(t)
	want(t, m, "runs 1", "rolled-back")
	list, err := (slot.Records{Dir: m.updater.Journal}).List()
	if err != nil || len(list) != 2 {
		t.Errorf("records %+v, %v", list, err)
	}
}

// TestStaleUKI: the UKI of the slot that is overwritten goes before the slot does.
func TestStaleUKI(t *testing.T) {
	m := start(t)
	for _, version := range []string{"2", "3"} {
		if err := m.updater.Update(context.Background(), version, false); err != nil {
			t.Fatal(err)
		}
		m.work(t)
	}
	want(t, m, "runs 3", "slots: a=3 b=2", "[edge_2.efi edge_3.efi]")
}

// TestRun lets the loop itself work in bubble time: it waits for requests, pauses between rounds, and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		m.updater.Pause = time.Second
		m.behaviours["2"] = behaviour{failing: []string{"units"}}
		for range 3 { // three boots: the old, the new, the old again
			ctx, off := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- m.updater.Run(ctx) }()
			synctest.Wait()
			if m.boots == 1 {
				if err := m.updater.Update(ctx, "2", false); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * gateSeconds * time.Second)
			off()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if m.rebooting {
				m.on(t, 0)
				m.updater.Pause = time.Second
			}
		}
		want(t, m, "runs 1", "rolled-back", "left: gate")
	})
}

var _ updater.Boot = (*boot.Partition)(nil)
var _ updater.Boot = (*boottest.Partition)(nil)
var _ updater.Slots = (*slot.Disk)(nil)
