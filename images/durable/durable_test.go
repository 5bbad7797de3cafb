package durable_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"roost/images/durable"
	"roost/images/durable/durabletest"
)

// TestContract runs one suite on a real directory and on the one that can crash.
func TestContract(t *testing.T) {
	media := map[string]func(t *testing.T) *durable.Dir{
		"disk": func(t *testing.T) *durable.Dir {
			return must(durable.Open(filepath.Join(t.TempDir(), "deep", "state"), 0o600))
		},
		"durabletest": func(t *testing.T) *durable.Dir { return must(durabletest.New().Dir("state")) },
	}
	for medium, open := range media {
		t.Run(medium, func(t *testing.T) {
			for name, test := range contract {
				t.Run(name, func(t *testing.T) { test(t, open(t)) })
			}
		})
	}
}

var contract = map[string]func(t *testing.T, d *durable.Dir){
	"read what is not there": func(t *testing.T, d *durable.Dir) {
		if _, err := d.Read("missing"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist", err)
		}
	},
	"write and replace": func(t *testing.T, d *durable.Dir) {
		for _, want := range []string{"one", "a longer second", "", "3"} {
			if err := d.Write("f", []byte(want)); err != nil {
				t.Fatal(err)
			}
			if got := must(d.Read("f")); string(got) != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	},
	"create is exclusive": func(t *testing.T, d *durable.Dir) {
		if err := d.Create("f", []byte("first")); err != nil {
			t.Fatal(err)
		}
		if err := d.Create("f", []byte("second")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("second create: got %v, want fs.ErrExist", err)
		}
		if got := must(d.Read("f")); string(got) != "first" {
			t.Errorf("got %q after a refused create, want %q", got, "first")
		}
		if got := must(d.List()); !slices.Equal(got, []string{"f"}) {
			t.Errorf("list after a refused create: %q", got)
		}
	},
	"remove twice": func(t *testing.T, d *durable.Dir) {
		if err := errors.Join(d.Write("f", nil), d.Remove("f"), d.Remove("f")); err != nil {
			t.Fatal(err)
		}
		if got := must(d.List()); len(got) != 0 {
			t.Errorf("list: %q, want none", got)
		}
	},
	"list is sorted": func(t *testing.T, d *durable.Dir) {
		if err := errors.Join(d.Write("b", nil), d.Write("a", nil), d.Write(".c", nil), d.Sync()); err != nil {
			t.Fatal(err)
		}
		if got := must(d.List()); !slices.Equal(got, []string{".c", "a", "b"}) {
			t.Errorf("list: %q", got)
		}
	},
	"failing source keeps the old": func(t *testing.T, d *durable.Dir) {
		if err := d.Write("f", []byte("old")); err != nil {
			t.Fatal(err)
		}
		broken := io.MultiReader(strings.NewReader("new"), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, err := d.WriteFrom("f", broken); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v, want the reader's error", err)
		}
		if got := must(d.Read("f")); string(got) != "old" {
			t.Errorf("got %q, want %q", got, "old")
		}
	},
	"names stay inside": func(t *testing.T, d *durable.Dir) {
		for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc/passwd", "a/", ".x.tmp", "a\x00b"} {
			_, readErr := d.Read(name)
			for _, err := range []error{readErr, d.Write(name, nil), d.Create(name, nil), d.Remove(name)} {
				if !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("name %q: got %v, want fs.ErrInvalid", name, err)
				}
			}
		}
	},
}

func TestOpenRemovesLeftoversAndSetsModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "state")
	d := must(durable.Open(path, 0o640))
	if err := d.Write("f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, ".f.tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(durable.Open(path, 0o640))
	if _, err := os.Stat(filepath.Join(path, ".f.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("leftover is still there: %v", err)
	}
	for name, want := range map[string]fs.FileMode{path: fs.ModeDir | 0o750, filepath.Join(path, "f"): 0o640} {
		if got := must(os.Stat(name)).Mode(); got != want {
			t.Errorf("mode of %s: %v, want %v", name, got, want)
		}
	}
	if _, err := durable.Open(filepath.Join(path, "f"), 0o600); err == nil {
		t.Error("a file was opened as a directory")
	}
}

func TestCreateDoesNotFollowSymlink(t *testing.T) {
	path := t.TempDir()
	d := must(durable.Open(path, 0o600))
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Symlink(outside, filepath.Join(path, ".f.tmp")); err != nil {
		t.Fatal(err)
	}
	if err := d.Write("f", []byte("x")); err == nil {
		t.Error("write went through a symbolic link")
	}
	if _, err := os.Stat(outside); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file outside was made: %v", err)
	}
}

func TestMove(t *testing.T) {
	path := t.TempDir()
	from, to := filepath.Join(path, "a"), filepath.Join(path, "b")
	if err := errors.Join(os.WriteFile(from, []byte("new"), 0o600), os.WriteFile(to, []byte("old"), 0o600), durable.Move(from, to)); err != nil {
		t.Fatal(err)
	}
	if got := must(os.ReadFile(to)); string(got) != "new" {
		t.Errorf("got %q, want %q", got, "new")
	}
	if err := durable.Move(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("moving what is gone: %v, want fs.ErrNotExist", err)
	}
}

// TestEveryCut cuts the power at each operation of each change: the old content or the new one, and the new one once
// the call has returned.
func TestEveryCut(t *testing.T) {
	const absent = "<absent>"
	cases := []struct {
		name     string
		old, new string
		step     func(d *durable.Dir) error
	}{
		{"write new", absent, "new content", func(d *durable.Dir) error { return d.Write("f", []byte("new content")) }},
		{"replace", "old", "new content", func(d *durable.Dir) error { return d.Write("f", []byte("new content")) }},
		{"create", absent, "new content", func(d *durable.Dir) error { return d.Create("f", []byte("new content")) }},
		{"remove", "old", absent, func(d *durable.Dir) error { return d.Remove("f") }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			seen := map[string]int{}
			durabletest.EveryCut(t, func(disk *durabletest.Disk) error {
				d, err := disk.Dir("state")
				if err == nil && c.old != absent {
					err = d.Write("f", []byte(c.old))
				}
				return err
			}, func(disk *durabletest.Disk) error {
				d, err := disk.Dir("state")
				if err != nil {
					return err
				}
				return c.step(d)
			}, func(disk *durabletest.Disk, cut durabletest.Cut, done bool) {
				got := absent
				if data, err := must(disk.Dir("state")).Read("f"); err == nil {
					got = string(data)
				}
				seen[got]++
				if got != c.new && (done || got != c.old) {
					t.Errorf("%v: found %q, want %q (old %q, promised %t)", cut, got, c.new, c.old, done)
				}
			})
			if seen[c.old] == 0 || seen[c.new] == 0 {
				t.Errorf("found %v: cuts before and after the change were both expected", seen)
			}
		})
	}
}

// careless skips one of the syncs, to prove that EveryCut finds what each of them is for.
type careless struct {
	durable.Medium
	skipFile, skipDir bool
}

func (c careless) Sync() error {
	if c.skipDir {
		return nil
	}
	return c.Medium.Sync()
}

func (c careless) Create(name string) (durable.File, error) {
	f, err := c.Medium.Create(name)
	if c.skipFile && err == nil {
		f = carelessFile{f}
	}
	return f, err
}

type carelessFile struct{ durable.File }

func (carelessFile) Sync() error { return nil }

func TestEveryCutFindsMissingSyncs(t *testing.T) {
	for name, c := range map[string]careless{"file": {skipFile: true}, "directory": {skipDir: true}} {
		t.Run(name, func(t *testing.T) {
			broken := 0
			durabletest.EveryCut(t, func(disk *durabletest.Disk) error {
				return must(disk.Dir("state")).Write("f", []byte("old"))
			}, func(disk *durabletest.Disk) error {
				medium := c
				medium.Medium = disk.Medium("state")
				d, err := durable.On(medium)
				if err != nil {
					return err
				}
				return d.Write("f", []byte("new content"))
			}, func(disk *durabletest.Disk, _ durabletest.Cut, done bool) {
				got := string(must(must(disk.Dir("state")).Read("f")))
				if got != "new content" && (done || got != "old") {
					broken++
				}
			})
			if broken == 0 {
				t.Error("no cut showed the missing sync")
			}
		})
	}
}

func TestTickSharesTheOrderOfEvents(t *testing.T) {
	disk := durabletest.New()
	d := must(disk.Dir("a"))
	start := disk.Operations()
	if err := disk.Tick(); err != nil || disk.Operations() != start+1 {
		t.Fatalf("tick: %v, %d operations", err, disk.Operations()-start)
	}
	disk.CutAt(2, false)
	if err := disk.Tick(); err != nil {
		t.Errorf("operation before the cut: %v", err)
	}
	if err := d.Write("f", nil); !errors.Is(err, durabletest.ErrPowerCut) {
		t.Errorf("write after the cut: %v", err)
	}
	if _, err := d.Read("f"); !errors.Is(err, durabletest.ErrPowerCut) {
		t.Errorf("read after the cut: %v", err)
	}
	if got := must(must(disk.Restart(durabletest.Everything).Dir("a")).List()); len(got) != 0 {
		t.Errorf("after restart: %q, want none", got)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
