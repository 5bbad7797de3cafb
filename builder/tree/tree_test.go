package tree_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/builder/tree"
	"roost/images"
)

// file, dir and link make entries whose content is their text.
func file(path, text string) tree.Entry {
	return tree.Entry{Path: path, Type: tree.File, Mode: 0o644, Blob: images.DigestOf([]byte(text)), Size: int64(len(text))}
}
func dir(path string) tree.Entry { return tree.Entry{Path: path, Type: tree.Directory, Mode: 0o755} }
func link(path, target string) tree.Entry {
	return tree.Entry{Path: path, Type: tree.Symlink, Mode: 0o777, Target: target}
}

// make fails the test unless the entries are a tree.
func mustTree(t *testing.T, entries ...tree.Entry) tree.Tree {
	t.Helper()
	made, err := tree.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func paths(entries []tree.Entry) string {
	var p []string
	for _, e := range entries {
		p = append(p, e.Path)
	}
	return strings.Join(p, " ")
}

func TestNewRefuses(t *testing.T) {
	setuid := file("/a", "x")
	setuid.Mode = 0o100644
	sized := dir("/d")
	sized.Size = 1
	unsorted := file("/a", "x")
	unsorted.Xattrs = []tree.Xattr{{Name: "user.b"}, {Name: "user.a"}}
	moded := link("/l", "a")
	moded.Mode = 0o755
	for name, c := range map[string]struct {
		entries []tree.Entry
		want    string
	}{
		"twice":            {[]tree.Entry{dir("/"), file("/a", "x"), file("/a", "y")}, "twice"},
		"no parent":        {[]tree.Entry{dir("/"), file("/a/b", "x")}, "parent"},
		"parent is a file": {[]tree.Entry{dir("/"), file("/a", ""), file("/a/b", "x")}, "parent"},
		"no root":          {[]tree.Entry{file("/a", "x")}, "parent"},
		"relative":         {[]tree.Entry{dir("/"), file("a", "x")}, "absolute"},
		"unclean":          {[]tree.Entry{dir("/"), file("/a/../b", "x")}, "clean"},
		"type bits":        {[]tree.Entry{dir("/"), setuid}, "permission bits"},
		"empty target":     {[]tree.Entry{dir("/"), link("/a", "")}, "target"},
		"no type":          {[]tree.Entry{dir("/"), {Path: "/a"}}, "unknown"},
		"directory size":   {[]tree.Entry{dir("/"), sized}, "content"},
		"attribute order":  {[]tree.Entry{dir("/"), unsorted}, "order"},
		"symlink mode":     {[]tree.Entry{dir("/"), moded}, "mode"},
		"root is a link":   {[]tree.Entry{link("/", "a")}, "root"},
	} {
		if _, err := tree.New(c.entries); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestResolve(t *testing.T) {
	tr := mustTree(t, dir("/"), link("/bin", "usr/bin"), dir("/usr"), dir("/usr/bin"), file("/usr/bin/sh", "#"),
		link("/usr/bin/up", "../../bin/sh"), link("/abs", "/usr/bin/up"), link("/loop", "loop"), link("/out", "../../../bin"))
	for p, want := range map[string]string{
		"/bin/sh":      "/usr/bin/sh true",
		"/abs":         "/usr/bin/sh true",
		"/bin/none":    "/usr/bin/none false",
		"/out/sh":      "/usr/bin/sh true",
		"/":            "/ true",
		"/none/a/../b": "/none/b false",
	} {
		at, exists, err := tr.Resolve(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if got := at + map[bool]string{true: " true", false: " false"}[exists]; got != want {
			t.Errorf("Resolve(%q) = %s, want %s", p, got, want)
		}
	}
	if _, _, err := tr.Resolve("/loop"); err == nil {
		t.Error("a loop of symlinks resolved")
	}
}

func TestUnder(t *testing.T) {
	tr := mustTree(t, dir("/"), dir("/a"), file("/a-b", ""), file("/a/x", ""), dir("/a/y"), file("/a/y/z", ""), file("/a0", ""))
	for d, want := range map[string]string{
		"/a":   "/a/x /a/y /a/y/z",
		"/a/y": "/a/y/z",
		"/":    "/a /a-b /a/x /a/y /a/y/z /a0",
		"/no":  "",
	} {
		if got := paths(tr.Under(d)); got != want {
			t.Errorf("Under(%q) = %q, want %q", d, got, want)
		}
	}
}

func TestOverlay(t *testing.T) {
	lower := mustTree(t, dir("/"), link("/lib", "usr/lib"), dir("/usr"), dir("/usr/lib"), file("/usr/lib/a", "old"), file("/same", "s"), dir("/d"))
	owned := dir("/d")
	owned.UID, owned.Mode = 7, 0o700
	upper := mustTree(t, dir("/"), owned, dir("/lib"), file("/lib/a", "new"), file("/lib/b", "b"), file("/same", "s"))
	got, conflicts, err := lower.Overlay(upper)
	if err != nil {
		t.Fatal(err)
	}
	if p := paths(got.Entries()); p != "/ /d /lib /same /usr /usr/lib /usr/lib/a /usr/lib/b" {
		t.Errorf("paths %s", p)
	}
	if a, _ := got.Lookup("/usr/lib/a"); a.Blob != images.DigestOf([]byte("new")) {
		t.Error("the upper file did not win")
	}
	if d, _ := got.Lookup("/d"); d.UID != 0 || d.Mode != 0o755 {
		t.Errorf("the shared directory became %o of %d", d.Mode, d.UID)
	}
	if len(conflicts) != 1 || conflicts[0].Path != "/usr/lib/a" {
		t.Errorf("conflicts %v, want one at /usr/lib/a", conflicts)
	}
	if _, _, err := lower.Overlay(mustTree(t, dir("/"), file("/usr", "x"))); err == nil {
		t.Error("a file replaced a directory with content")
	}
}

func TestChanges(t *testing.T) {
	a := mustTree(t, dir("/"), file("/gone", "x"), file("/kept", "x"), file("/new", "1"))
	b := mustTree(t, dir("/"), file("/added", "x"), file("/kept", "x"), file("/new", "2"))
	changed, removed := a.Changes(b)
	if got := paths(changed) + "; " + strings.Join(removed, " "); got != "/added /new; /gone" {
		t.Errorf("changes %s", got)
	}
}

func TestRemove(t *testing.T) {
	tr := mustTree(t, dir("/"), dir("/doc"), dir("/doc/a"), file("/doc/a/README", ""), file("/doc/a/copyright", ""), dir("/doc/b"), file("/x", ""))
	got := tr.Remove(func(p string) bool {
		return p == "/" || strings.HasPrefix(p, "/doc") && !strings.HasSuffix(p, "copyright")
	})
	if p := paths(got.Entries()); p != "/ /doc /doc/a /doc/a/copyright /x" {
		t.Errorf("what stays is %s", p)
	}
	if _, err := tree.New(got.Entries()); err != nil {
		t.Error(err)
	}
}

func TestDraft(t *testing.T) {
	d := tree.NewDraft()
	for _, e := range []tree.Entry{file("/a/b/c", "1"), link("/l", "a/b"), file("/l/d", "2")} {
		if err := d.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(d.Paths(), " "); got != "/ /a /a/b /a/b/c /a/b/d /l" {
		t.Fatalf("paths %s", got)
	}
	if err := d.Put(file("/a/b", "")); err == nil {
		t.Error("a file replaced a directory with content")
	}
	if err := d.Put(file("/a/b/c/e", "")); err == nil {
		t.Error("a file has a child")
	}
	if err := d.Move("/a/b", "/z/y"); err != nil {
		t.Fatal(err)
	}
	if err := d.Move("/z", "/z/y/x"); err == nil {
		t.Error("a directory moved into itself")
	}
	if !d.Remove("/l") || d.Remove("/l") {
		t.Error("Remove does not tell what was there")
	}
	if got := strings.Join(d.Paths(), " "); got != "/ /a /z /z/y /z/y/c /z/y/d" {
		t.Errorf("paths %s", got)
	}
	if _, err := d.Tree(); err != nil {
		t.Error(err)
	}
}

// everything is a tree with each type and field in use.
func everything(t testing.TB) tree.Tree {
	capable := file("/bin/ping", "elf")
	capable.Mode = 0o4755
	capable.Xattrs = []tree.Xattr{{Name: "security.capability", Value: []byte{1, 0, 0, 2}}, {Name: "user.x", Value: []byte{}}}
	made, err := tree.New([]tree.Entry{dir("/"), dir("/bin"), capable, link("/b", "bin"), {Path: "/null", Type: tree.CharDevice, Mode: 0o666, Major: 1, Minor: 3},
		{Path: "/sda", Type: tree.BlockDevice, Mode: 0o660, GID: 6, Major: 8}, {Path: "/pipe", Type: tree.FIFO, Mode: 0o600, UID: 65534}, file("/empty", "")})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestEncodeDecode(t *testing.T) {
	tr := everything(t)
	got, err := tree.Decode(tr.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if changed, removed := tr.Changes(got); len(changed)+len(removed) != 0 || got.Digest() != tr.Digest() {
		t.Errorf("decoded tree differs: %v %v", changed, removed)
	}
	encoded := tr.Encode()
	for n := range encoded {
		if _, err := tree.Decode(encoded[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes decode", n, len(encoded))
		}
	}
	if _, err := tree.Decode(append(encoded, 0)); err == nil {
		t.Error("a tree with a byte after it decodes")
	}
}

// FuzzDecode: no input panics, and what decodes is canonical.
func FuzzDecode(f *testing.F) {
	f.Add(everything(f).Encode())
	f.Add([]byte("roost tree 1\n\x00"))
	f.Add([]byte("roost tree 1\n\x01\x00\x01/\x02\xed\x03\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := tree.Decode(b)
		if err == nil && !bytes.Equal(tr.Encode(), b) {
			t.Errorf("%q decodes but encodes to %q", b, tr.Encode())
		}
	})
}

func TestStore(t *testing.T) {
	s, err := tree.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 10, 1 << 20, 3<<20 + 1} {
		content := bytes.Repeat([]byte{byte(size), 7}, size/2+1)[:size]
		d, n, err := s.Put(bytes.NewReader(content))
		if err != nil || n != int64(size) || d != images.DigestOf(content) {
			t.Fatalf("Put of %d bytes = %s, %d, %v", size, d, n, err)
		}
		if got, err := s.ReadFile(d); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes came back as %d, %v", size, len(got), err)
		}
	}
	broken := errors.New("broken")
	if _, _, err := s.Put(io.MultiReader(strings.NewReader("x"), iotestErr{broken})); !errors.Is(err, broken) {
		t.Errorf("Put of a failing reader: %v", err)
	}
}

type iotestErr struct{ err error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.err }

func TestStoreFindsDamage(t *testing.T) {
	ctx := context.Background()
	s, err := tree.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.PutBytes([]byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	tr := mustTree(t, dir("/"), file("/f", "content"))
	key := images.DigestOf([]byte("key"))
	if err := s.SaveTree(key, tr); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.LoadTree(ctx, key); err != nil || !ok || got.Digest() != tr.Digest() {
		t.Fatalf("LoadTree = %v, %v", ok, err)
	}
	if err := os.WriteFile(s.Path(d), []byte("c0ntent"), 0o644); err != nil { // same size, other bytes
		t.Fatal(err)
	}
	if _, err := s.ReadFile(d); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged content was read: %v", err)
	}
	if _, ok, err := s.LoadTree(ctx, key); ok || err != nil {
		t.Errorf("a tree without its content was found: %v, %v", ok, err)
	}
	if _, ok, err := s.LoadTree(ctx, images.DigestOf([]byte("other"))); ok || err != nil {
		t.Errorf("a tree never saved was found: %v, %v", ok, err)
	}
}

func TestNewSorts(t *testing.T) {
	entries := everything(t).Entries()
	reversed := slices.Clone(entries)
	slices.Reverse(reversed)
	if mustTree(t, reversed...).Digest() != everything(t).Digest() {
		t.Error("the order of entries shows in the digest")
	}
}

func TestPrune(t *testing.T) {
	ctx := context.Background()
	where := t.TempDir()
	s, err := tree.OpenStore(where)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]images.Digest{}
	for _, name := range []string{"old", "new"} {
		for _, content := range []string{name, "shared"} {
			if _, err := s.PutBytes([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		hourAgo := time.Now().Add(-time.Hour)
		if err := filepath.WalkDir(filepath.Join(where, "trees"), func(name string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(name, hourAgo, hourAgo))
		}); err != nil {
			t.Fatal(err)
		}
		keys[name] = images.DigestOf([]byte(name))
		if err := s.SaveTree(keys[name], mustTree(t, dir("/"), file("/f", name), file("/s", "shared"))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.PutBytes([]byte("named by nothing")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Scratch("left-"); err != nil {
		t.Fatal(err)
	}
	would, err := s.Prune(ctx, time.Now().Add(-time.Minute), true)
	if u, _ := s.Usage(); err != nil || u.Files != 6 {
		t.Errorf("a dry run leaves %d files, %v; want all 6", u.Files, err)
	}
	removed, err := s.Prune(ctx, time.Now().Add(-time.Minute), false)
	if removed != would {
		t.Errorf("Prune removed %v, a dry run promised %v", removed, would)
	}
	if err != nil || removed.Files != 3 {
		t.Errorf("Prune removed %d files, %v; want the old tree, its content and the unnamed one", removed.Files, err)
	}
	if _, ok, _ := s.LoadTree(ctx, keys["old"]); ok {
		t.Error("the old tree is still there")
	}
	if _, ok, err := s.LoadTree(ctx, keys["new"]); !ok || err != nil {
		t.Errorf("the new tree is gone: %v", err)
	}
	if u, err := s.Usage(); err != nil || u.Files != 3 {
		t.Errorf("%d files are left, %v; want one tree and two contents", u.Files, err)
	}
}
