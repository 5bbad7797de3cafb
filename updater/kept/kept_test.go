package kept

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"roost/images"
	"roost/images/durable/durabletest"
	"roost/updater/kept/kepttest"
)

var (
	oldRelease = Release{RootHash: "old", Version: "1"}
	newRelease = Release{RootHash: "new", Version: "2"}
	declared   = []images.StateDir{
		{Path: "/var/lib/db", Rollback: "restore"}, {Path: "/var/lib/db/log", Rollback: "restore"}, {Path: "/var/lib/fresh", Rollback: "restore"},
		{Path: "/var/lib/cache", Rollback: "drop"}, {Path: "/var/lib", Rollback: "drop"}, {Path: "/var/lib/own", Rollback: "keep"},
	}
)

// machine is a disk with a store on it, as one boot has it.
type machine struct {
	disk *durabletest.Disk
	tree *kepttest.Tree
}

func newMachine() *machine {
	disk := durabletest.New()
	return &machine{disk, kepttest.New(disk, map[string]string{"/var/lib/db": "1", "/var/lib/cache": "1", "/var/lib/own": "1"})}
}

func (m *machine) restart(seed uint64) *machine {
	disk := m.disk.Restart(seed)
	return &machine{disk, m.tree.Restart(disk, seed)}
}

func (m *machine) store(dirs []images.StateDir) (*Store, error) {
	journal, err := m.disk.Dir("journal")
	clock := time.Unix(1_800_000_000, 0)
	now := func() time.Time { clock = clock.Add(3 * time.Second); return clock }
	return &Store{Journal: journal, Tree: m.tree, Area: "/var/lib/roost/kept", Declared: dirs, Now: now, Log: slog.New(slog.DiscardHandler)}, err
}

// start boots a release; its units then write their own format everywhere, and the new one makes what the old did not have.
func (m *machine) start(r Release) error {
	s, err := m.store(declared)
	if err != nil {
		return err
	}
	if _, err := s.Boot(r.RootHash); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib/db", "/var/lib/cache", "/var/lib/own"} {
		if err := m.tree.Write(dir, string(r.Version)); err != nil {
			return err
		}
	}
	if r == newRelease {
		return m.tree.Write("/var/lib/fresh", "2")
	}
	return nil
}

func TestNext(t *testing.T) {
	for _, test := range []struct {
		record  *Record
		running string
		want    step
	}{
		{nil, "new", nothing},
		{&Record{Phase: Wanted}, "new", take},
		{&Record{Phase: Wanted}, "old", nothing},
		{&Record{Phase: Wanted}, "third", nothing},
		{&Record{Phase: Kept}, "new", nothing}, // the second try of a trial, or long after
		{&Record{Phase: Kept}, "old", putBack},
		{&Record{Phase: Kept}, "third", nothing},
		{&Record{Phase: Returning}, "old", putBack},
		{&Record{Phase: Returning}, "new", putBack},
		{&Record{Phase: Returning}, "third", putBack},
	} {
		if test.record != nil {
			test.record.Target, test.record.From = newRelease, oldRelease
		}
		if got := test.record.next(test.running); got != test.want {
			t.Errorf("%+v running %s: %v, want %v", test.record, test.running, got, test.want)
		}
	}
}

func TestDeclare(t *testing.T) {
	r := &Record{Restore: []Restored{{Path: "/var/lib/older"}}, Drop: []string{"/var/lib/cache"}}
	r.declare(declared)
	if got, want := fmt.Sprint(r.Restore, r.Drop), "[{/var/lib/db false} {/var/lib/fresh false} {/var/lib/older false}] [/var/lib/cache]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestReturn goes to the new release, back, and there again.
func TestReturn(t *testing.T) {
	m := newMachine()
	s, err := m.store(declared)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Prepare(oldRelease, newRelease), m.start(oldRelease), m.start(newRelease), m.start(newRelease)); err != nil {
		t.Fatal(err)
	}
	if got := m.tree.Dirs["/var/lib/db"]; got != "2" {
		t.Errorf("the new release finds %q", got)
	}
	r, err := s.Record()
	if err != nil || r.Phase != Kept || r.Bytes != 1 || r.Seconds != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.Returnable(newRelease, oldRelease); err != nil {
		t.Error(err)
	}
	for range 2 { // with nothing on record to do, nothing is done
		if _, err := s.Boot("old"); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(m.tree.Dirs["/var/lib/db"], m.tree.Dirs["/var/lib/own"]); got != "12" {
			t.Errorf("the old release finds %q, want its own database and what all share", got)
		}
		for _, dir := range []string{"/var/lib/fresh", "/var/lib/cache"} {
			if text, found := m.tree.Dirs[dir]; found {
				t.Errorf("the old release finds %s with %q", dir, text)
			}
		}
	}
	if err := s.Tidy(); err != nil {
		t.Fatal(err)
	}
	if _, found, _ := m.tree.Size(s.Area); found {
		t.Errorf("left behind: %v", m.tree.Dirs)
	}
	if err := m.start(newRelease); err != nil {
		t.Fatal(err)
	}
	if err := m.start(oldRelease); err != nil || m.tree.Dirs["/var/lib/own"] != "1" {
		t.Fatal(err, m.tree.Dirs)
	}
	// Once it is forgotten nothing comes back, and the machine says so before it goes.
	if err := errors.Join(s.Prepare(oldRelease, newRelease), m.start(newRelease), s.Forget()); err != nil {
		t.Fatal(err)
	}
	if err := s.Returnable(newRelease, oldRelease); !errors.Is(err, ErrNoCopy) || !strings.Contains(err.Error(), "/var/lib/db") {
		t.Errorf("return without a copy: %v", err)
	}
	if _, found, _ := m.tree.Size(s.Area); found {
		t.Errorf("left behind: %v", m.tree.Dirs)
	}
	if _, err := s.Boot("old"); err != nil || m.tree.Dirs["/var/lib/db"] != "2" {
		t.Error(err, m.tree.Dirs)
	}
	if err := (&Store{Journal: s.Journal, Tree: m.tree}).Returnable(newRelease, oldRelease); err != nil {
		t.Errorf("return of a release that declares nothing: %v", err)
	}
}

func TestSameRoot(t *testing.T) {
	m := newMachine()
	s, err := m.store(declared)
	if err != nil {
		t.Fatal(err)
	}
	kernel := Release{RootHash: "old", Version: "1.1"}
	if err := errors.Join(s.Prepare(oldRelease, kernel), s.Returnable(kernel, oldRelease)); err != nil {
		t.Error(err)
	}
	if r, err := s.Record(); r != nil || err != nil {
		t.Errorf("%+v, %v: the same programs need no copy", r, err)
	}
}

func TestNoRoom(t *testing.T) {
	m := newMachine()
	m.tree.Room = 1 << 20
	s, err := m.store(declared)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"asked":    s.Check,
		"armed":    func() error { return s.Prepare(oldRelease, newRelease) },
		"at boot":  func() error { _, err := s.Boot("new"); return err },
		"declared": (&Store{Tree: m.tree, Declared: declared}).Check,
	} {
		if name == "at boot" {
			_ = s.Prepare(oldRelease, newRelease) // says so too, and leaves the record
		}
		err := f()
		if !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), "/var/lib/db (0.0 MB)") || !strings.Contains(err.Error(), "67.1 MB of /var") || !strings.Contains(err.Error(), "1.0 MB are free") {
			t.Errorf("%s: %v", name, err)
		}
	}
	outcome, err := s.Boot("new")
	if r, _ := s.Record(); !outcome.Exposed || err == nil || r.Phase != Wanted || r.Trouble != err.Error() {
		t.Errorf("%+v, %v, %+v", outcome, err, r)
	}
	if err := (&Store{Tree: m.tree}).Check(); err != nil {
		t.Errorf("nothing is declared: %v", err)
	}
}

// TestPowerCut cuts the power at every operation of a whole update and return, and of the recovery. Whatever survives, each
// release finds each directory whole, and the old one finds its own.
func TestPowerCut(t *testing.T) {
	for _, journey := range []string{"return", "forget", "again"} {
		for first := 1; ; first++ {
			done := false
			for seed := range uint64(6) {
				for _, second := range []int{0, 1, 2, 3, 5, 8, 13} {
					done = cutTwice(t, journey, first, second, seed)
				}
			}
			if t.Failed() {
				return
			}
			if done {
				t.Logf("%s: %d operations", journey, first-1)
				break
			}
		}
	}
}

func cutTwice(t *testing.T, journey string, first, second int, seed uint64) (done bool) {
	t.Helper()
	m := newMachine()
	m.disk.CutAt(first, seed%2 == 0)
	touched, err := travel(m, journey)
	done = err == nil
	if !done && !errors.Is(err, durabletest.ErrPowerCut) {
		t.Fatalf("%s, cut at %d: %v", journey, first, err)
	}
	m = m.restart(seed)
	if second > 0 {
		m.disk.CutAt(second, false)
		_ = m.boot(oldRelease)
		m = m.restart(seed + 1)
	}
	if err := m.boot(oldRelease); err != nil {
		t.Fatalf("%s, cut at %d and %d, seed %d: the old release: %v", journey, first, second, seed, err)
	}
	forgotten := journey == "forget" && touched
	if got := m.tree.Dirs["/var/lib/db"]; got != "1" && !(forgotten && got == "2") {
		t.Errorf("%s, cut at %d and %d, seed %d: the old release finds %q in %v", journey, first, second, seed, got, m.tree.Dirs)
	}
	if got := m.tree.Dirs["/var/lib/fresh"]; got != "" && !forgotten {
		t.Errorf("%s, cut at %d and %d, seed %d: the old release finds what it never had: %q", journey, first, second, seed, got)
	}
	return done
}

// boot is start without units.
func (m *machine) boot(r Release) error {
	s, err := m.store(declared)
	if err != nil {
		return err
	}
	_, err = s.Boot(r.RootHash)
	return err
}

// travel reports whether the copy may be gone on purpose.
func travel(m *machine, journey string) (forgotten bool, err error) {
	s, err := m.store(declared)
	if err != nil {
		return false, err
	}
	for _, step := range []func() error{
		func() error { return s.Prepare(oldRelease, newRelease) }, func() error { return m.start(newRelease) },
	} {
		if err := step(); err != nil {
			return false, err
		}
	}
	switch journey {
	case "forget":
		return true, s.Forget()
	case "again": // back, tidied, there once more, and back
		for _, step := range []func() error{func() error { return m.boot(oldRelease) }, s.Tidy, func() error { return s.Prepare(oldRelease, newRelease) },
			func() error { return m.start(newRelease) }, s.Tidy} {
			if err := step(); err != nil {
				return false, err
			}
		}
	}
	return false, m.boot(oldRelease)
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"phase":"kept","target":{"rootHash":"a"},"restore":[{"path":"/var/lib/db"}],"drop":["/var/cache"]}`))
	f.Add([]byte(`{"phase":"wanted","drop":["/etc"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		for _, dir := range r.paths() {
			if !strings.HasPrefix(dir, "/var/") || strings.Contains(dir, "..") && strings.Contains(dir, "/../") {
				t.Errorf("a record names %q", dir)
			}
		}
	})
}
