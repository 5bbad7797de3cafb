package appliance

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/linux"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/durable"
	"roost/updater"
	"roost/updater/slot"
)

// contained is the daemon of a container that runs the root image of the given hash.
func contained(t *testing.T, rootHash string) *daemon {
	t.Helper()
	root := t.TempDir()
	d := &daemon{root: root, boot: &linux.Boot{Origin: "container", RootHash: rootHash}, bootID: "b1", log: slog.New(slog.DiscardHandler)}
	for dir, path := range map[**durable.Dir]string{&d.state: stateDir, &d.identity: identityDir} {
		opened, err := durable.Open(filepath.Join(root, path), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		*dir = opened
	}
	return d
}

// granted is a release that any reference finds.
type granted struct{ source *updater.Source }

func (g granted) Open(context.Context, string) (*updater.Source, error) { return g.source, nil }

func TestContainerSettles(t *testing.T) {
	key, err := trust.Enrol(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := &api.Assignment{Schema: 1, Site: "lab", Host: "6c6f0000-0000-4000-8000-000000000001", Name: "w1", Disk: linux.ContainerState, Controllers: []string{"https://c:7443"}}
	source := &updater.Source{Manifest: images.DigestOf([]byte("one"))}
	source.Release = images.Release{Name: "edge", Version: "1.0", RootHash: "aa", Gates: []images.Gate{{Name: "units", Kind: "units"}}}

	if err := contained(t, "bb").settle(key, a, source); !errors.Is(err, linux.ErrContainer) || !strings.Contains(err.Error(), "another root image") {
		t.Errorf("another release: %v", err)
	}
	d := contained(t, "aa")
	for range 2 { // a crash repeats it
		if err := d.settle(key, a, source); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := trust.LoadIdentity(d.identity); err != nil || id == nil || id.Assignment.Name != "w1" {
		t.Errorf("identity: %+v, %v", id, err)
	}
	if gates, err := d.gatesOf(updater.State{}); err != nil || len(gates) != 1 {
		t.Errorf("gates: %v, %v", gates, err)
	}
	if list, err := (slot.Records{Dir: d.state}).List(); err != nil || len(list) != 1 || list[0].Manifest != source.Manifest || list[0].RootHash != "aa" {
		t.Errorf("records: %+v, %v", list, err)
	}
	a.Disk = "/dev/loop3"
	if err := d.adopt(t.Context(), key, a, nil, nil); !errors.Is(err, linux.ErrContainer) || !strings.Contains(err.Error(), "--disk /var") {
		t.Errorf("a disk: %v", err)
	}
}

// TestContainerRefusesUpdates asks the real engine for what needs slots.
func TestContainerRefusesUpdates(t *testing.T) {
	d := contained(t, "aa")
	source := &updater.Source{Manifest: images.DigestOf([]byte("two")), Release: images.Release{Name: "edge", Version: "2.0", Architecture: "amd64", RootHash: "bb"}}
	slots, esp, closer, err := d.openDisk()
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	engine, _, err := openEngine(d, slots, esp, granted{source}, &Gates{System: &fakeSystem{}})
	if err != nil {
		t.Fatal(err)
	}
	d.machine = linux.Machine{}
	if err := engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const want = "this machine is a container of the lab: it has no slots"
	for what, err := range map[string]error{"update": engine.Update(t.Context(), "edge@x", true), "rollback": engine.Rollback(t.Context())} {
		if !errors.Is(err, updater.ErrNoSlots) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if state := engine.Status(); state.Phase != updater.Idle {
		t.Errorf("a refusal changes the state: %+v", state)
	}
}
