package appliance

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"roost/appliance/linux"
	"roost/images"
	"roost/images/durable"
	"roost/updater/kept"
)

// TestState boots a machine, with real files, into a new release and back.
func TestState(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	boot := func(origin, rootHash string) {
		t.Helper()
		write("run/roost/boot.json", fmt.Sprintf(`{"origin":%q,"rootHash":%q,"disk":"/dev/vda"}`, origin, rootHash))
		if err := State(root, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	database := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(root, "var/lib/db/table"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write(images.ComponentsPath, `[{"name":"db","state":[{"path":"/var/lib/db","rollback":"restore"},{"path":"/var/cache/db","rollback":"drop"}]}]`)
	write("var/lib/db/table", "one")
	boot("disk", "one")
	journal, err := durable.Open(filepath.Join(root, stateDir), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	store, err := keptState(root, &linux.Boot{Origin: "disk"}, journal, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Prepare(kept.Release{RootHash: "one", Version: "1"}, kept.Release{RootHash: "two", Version: "2"}); err != nil {
		t.Fatal(err)
	}
	for _, origin := range []string{"network", "iso", "container"} {
		boot(origin, "two")
		if r, err := store.Record(); err != nil || r.Phase != kept.Wanted {
			t.Errorf("%s: %+v, %v", origin, r, err)
		}
	}
	boot("disk", "two")
	write("var/lib/db/table", "two")
	write("var/lib/db/new", "two")
	write("var/cache/db/x", "two")
	boot("disk", "two")
	if got := database(); got != "two" {
		t.Errorf("the new release finds %q", got)
	}
	boot("disk", "one")
	if got := database(); got != "one" {
		t.Errorf("the old release finds %q", got)
	}
	for _, name := range []string{"var/lib/db/new", "var/cache/db"} {
		if exists(filepath.Join(root, name)) {
			t.Errorf("the old release finds %s", name)
		}
	}
	if err := store.Tidy(); err != nil || exists(filepath.Join(root, keptDir)) {
		t.Errorf("copies stay: %v", err)
	}
}

func TestKeptFor(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "run/roost"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := keptFor(root); got != 0 {
		t.Error(got)
	}
	if err := noteKept(root, 1600*time.Millisecond); err != nil || keptFor(root) != 2*time.Second {
		t.Error(err, keptFor(root))
	}
	if err := os.WriteFile(filepath.Join(root, keptFile), []byte("-5"), 0o600); err != nil || keptFor(root) != 0 {
		t.Error(err, keptFor(root))
	}
}
