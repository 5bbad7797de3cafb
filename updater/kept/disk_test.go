package kept

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDisk copies one of each kind of file and finds all of it in the copy.
func TestDisk(t *testing.T) {
	root := t.TempDir()
	d := Disk{Root: root}
	from := filepath.Join(root, "var/lib/db")
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	must(os.MkdirAll(filepath.Join(from, "sub/empty"), 0o755), os.WriteFile(filepath.Join(from, "sub/a"), []byte("text"), 0o640),
		os.Link(filepath.Join(from, "sub/a"), filepath.Join(from, "b")), os.Symlink("/nowhere", filepath.Join(from, "link")),
		unix.Mkfifo(filepath.Join(from, "pipe"), 0o600), os.Chmod(filepath.Join(from, "sub"), 0o2750))
	sparse, err := os.Create(filepath.Join(from, "sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("end"), 64<<20)
	must(err, sparse.Truncate(80<<20), sparse.Close())
	extended := unix.Lsetxattr(filepath.Join(from, "b"), "user.roost", []byte("x"), 0) == nil
	if os.Getuid() == 0 {
		must(os.Lchown(filepath.Join(from, "link"), 501, 502), os.Lchown(filepath.Join(from, "b"), 503, 504))
	}
	then := time.Unix(1_700_000_000, 12345)
	must(os.Chtimes(filepath.Join(from, "b"), then, then), os.Chtimes(from, then, then))

	before, found, err := d.Size("/var/lib/db")
	if err != nil || !found || before == 0 || before > 1<<20 {
		t.Fatalf("size %d, %v, %v", before, found, err)
	}
	must(d.Copy("/var/lib/db", "/var/kept/copy/0"), d.Sync())
	if after, _, err := d.Size("/var/kept/copy/0"); err != nil || after > before {
		t.Errorf("the copy takes %d bytes, the original %d: holes or links are lost (%v)", after, before, err)
	}
	to := filepath.Join(root, "var/kept/copy/0")
	for _, name := range []string{"", "sub", "sub/empty", "sub/a", "b", "link", "pipe", "sparse"} {
		var x, y unix.Stat_t
		must(unix.Lstat(filepath.Join(from, name), &x), unix.Lstat(filepath.Join(to, name), &y))
		if x.Mode != y.Mode || x.Uid != y.Uid || x.Gid != y.Gid || x.Mtim != y.Mtim || x.Nlink != y.Nlink || x.Mode&unix.S_IFMT == unix.S_IFREG && x.Size != y.Size {
			t.Errorf("%s: %+v became %+v", name, x, y)
		}
		if x.Mode&unix.S_IFMT == unix.S_IFREG {
			a, err := os.ReadFile(filepath.Join(from, name))
			must(err)
			if b, err := os.ReadFile(filepath.Join(to, name)); err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s: another content, %v", name, err)
			}
		}
	}
	if target, err := os.Readlink(filepath.Join(to, "link")); target != "/nowhere" {
		t.Error(target, err)
	}
	value := make([]byte, 8)
	if n, err := unix.Lgetxattr(filepath.Join(to, "b"), "user.roost", value); extended && (err != nil || string(value[:n]) != "x") {
		t.Errorf("extended attribute: %q, %v", value[:max(n, 0)], err)
	}

	if err := d.Copy("/var/lib/db", "/var/kept/copy/0"); err == nil {
		t.Error("a copy was made over another")
	}
	if err := d.Rename("/var/kept/copy/0", "/var/lib/db"); err == nil {
		t.Error("renamed onto what is there")
	}
	must(d.Rename("/var/lib/db", "/var/kept/left/0"), d.Rename("/var/kept/copy/0", "/var/lib/db"), d.Remove("/var/kept/left"), d.Remove("/var/kept/left"))
	if _, found, err := d.Size("/var/kept/left/0"); found || err != nil {
		t.Error(found, err)
	}
	if free, err := d.Free("/var/not/there"); err != nil || free <= 0 {
		t.Error(free, err)
	}
}
