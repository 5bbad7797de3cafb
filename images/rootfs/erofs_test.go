package rootfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"roost/images/rootfs"
)

var epoch = time.Date(2026, 11, 1, 10, 0, 0, 123456789, time.UTC)

func file(path string, content []byte) rootfs.Entry {
	return rootfs.Entry{Path: path, Mode: rootfs.TypeRegular | 0o644, Time: epoch, Size: int64(len(content)), Open: opener(content)}
}

func opener(content []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
}

func directory(path string) rootfs.Entry {
	return rootfs.Entry{Path: path, Mode: rootfs.TypeDirectory | 0o755, Time: epoch}
}

// zoo returns one of every kind, at the sizes where the format changes its mind.
func zoo() []rootfs.Entry {
	entries := []rootfs.Entry{directory("."), directory("empty"), directory("many"), directory("a"), directory("a/b"), directory("a/b/c"), directory("a.b")}
	for i, n := range []int{0, 1, 63, 64, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 12345, 1<<20 + 17, 5 << 20} {
		e := file(fmt.Sprintf("size-%d", n), noise(byte(i), n))
		e.UID, e.GID = uint32(i*1000), uint32(70000+i)
		entries = append(entries, e)
	}
	for i := range 700 { // several blocks of directory entries
		entries = append(entries, file(fmt.Sprintf("many/%0*d", 1+i%60, i), noise(byte(i), i%5*1500)))
	}
	entries = append(entries, file("a/b/c/deep", []byte("deep")), file("a/+sorts before the dots", nil), file("a/ÿ-last", []byte("x")),
		file("a/"+strings.Repeat("n", 255), []byte("long name")))
	for i := range 2 {
		e := file(fmt.Sprintf("same-%d", i), noise(77, 3*4096+100))
		e.Content = "sha256:77"
		entries = append(entries, e)
	}
	capable := file("capable", noise(5, 5000))
	capable.Mode = rootfs.TypeRegular | 0o4755
	capable.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.note": "x", "trusted.overlay.opaque": "y"}
	crowded := file("crowded", noise(6, 4000)) // attributes push the tail out
	crowded.Xattrs = map[string]string{"user.big": strings.Repeat("v", 1000)}
	link := rootfs.Entry{Path: "link", Mode: rootfs.TypeSymlink | 0o777, Target: "a/b/c/deep", Time: epoch}
	longLink := rootfs.Entry{Path: "long-link", Mode: rootfs.TypeSymlink | 0o777, Target: strings.Repeat("t/", 2030), Time: epoch}
	device := rootfs.Entry{Path: "device", Mode: rootfs.TypeChar | 0o660, Major: 511, Minor: 70000, Time: epoch, GID: 6}
	disk := rootfs.Entry{Path: "disk", Mode: rootfs.TypeBlock | 0o600, Major: 8, Minor: 17, Time: epoch}
	fifo := rootfs.Entry{Path: "fifo", Mode: rootfs.TypeFIFO | 0o600, Time: epoch}
	socket := rootfs.Entry{Path: "socket", Mode: rootfs.TypeSocket | 0o600, Time: epoch}
	hard := rootfs.Entry{Path: "a/another-name", Link: "capable"}
	return append(entries, hard, capable, crowded, link, longLink, device, disk, fifo, socket)
}

func image(t testing.TB, entries []rootfs.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	size, err := rootfs.Write(&b, entries, rootfs.Options{Label: "test", UUID: uuid, Time: epoch})
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(b.Len()) || size%block != 0 {
		t.Errorf("wrote %d bytes, said %d", b.Len(), size)
	}
	return b.Bytes()
}

// TestMount lets the kernel read the image and compares everything it shows.
func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting an image needs root")
	}
	entries := zoo()
	path := filepath.Join(t.TempDir(), "image")
	writeFile(t, path, image(t, entries))
	if out := run(t, "fsck.erofs", "-d3", path); !strings.Contains(out, "No error found") && !strings.Contains(out, "No errors found") {
		t.Errorf("fsck.erofs: %s", out)
	}
	mount := t.TempDir()
	run(t, "mount", "-t", "erofs", "-o", "ro,loop", path, mount)
	t.Cleanup(func() { run(t, "umount", mount) })

	seen := 0
	if err := filepath.WalkDir(mount, func(string, fs.DirEntry, error) error { seen++; return nil }); err != nil {
		t.Fatal(err)
	}
	if seen != len(entries) {
		t.Errorf("the kernel shows %d objects, %d were put in", seen, len(entries))
	}
	for _, e := range entries {
		at := filepath.Join(mount, e.Path)
		if e.Link != "" {
			var a, b unix.Stat_t
			if err := errors.Join(unix.Lstat(at, &a), unix.Lstat(filepath.Join(mount, e.Link), &b)); err != nil || a.Ino != b.Ino || a.Nlink != 2 {
				t.Errorf("%s: inode %d with %d names, %s has %d (%v)", e.Path, a.Ino, a.Nlink, e.Link, b.Ino, err)
			}
			continue
		}
		compare(t, at, e)
	}
	out := run(t, "blkid", "-p", path)
	for _, want := range []string{`LABEL="test"`, `UUID="01234567-89ab-cdef-0123-456789abcdef"`, `TYPE="erofs"`} {
		if !strings.Contains(out, want) {
			t.Errorf("blkid does not say %s: %s", want, out)
		}
	}
}

func compare(t *testing.T, at string, e rootfs.Entry) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		t.Errorf("%s: %v", e.Path, err)
		return
	}
	if st.Mode != e.Mode || st.Uid != e.UID || st.Gid != e.GID || st.Mtim.Nano() != e.Time.UnixNano() {
		t.Errorf("%s: mode %o owner %d:%d time %d, want %o %d:%d %d", e.Path, st.Mode, st.Uid, st.Gid, st.Mtim.Nano(), e.Mode, e.UID, e.GID, e.Time.UnixNano())
	}
	switch e.Mode & rootfs.TypeMask {
	case rootfs.TypeRegular:
		got, err := os.ReadFile(at)
		var want []byte
		if e.Size > 0 {
			r, _ := e.Open()
			want, _ = io.ReadAll(r)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: reads %d bytes, want %d, %v", e.Path, len(got), e.Size, err)
		}
	case rootfs.TypeSymlink:
		if got, err := os.Readlink(at); err != nil || got != e.Target {
			t.Errorf("%s: points to %.20q, %v", e.Path, got, err)
		}
	case rootfs.TypeChar, rootfs.TypeBlock:
		if unix.Major(st.Rdev) != e.Major || unix.Minor(st.Rdev) != e.Minor {
			t.Errorf("%s: device %d:%d", e.Path, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
	}
	for name, want := range e.Xattrs {
		b := make([]byte, 2000)
		n, err := unix.Lgetxattr(at, name, b)
		if err != nil || string(b[:n]) != want {
			t.Errorf("%s: attribute %s is %q, %v", e.Path, name, b[:max(n, 0)], err)
		}
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	entries := zoo()
	want := image(t, entries)
	for seed := range uint64(3) {
		shuffled := slices.Clone(entries)
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if !bytes.Equal(image(t, shuffled), want) {
			t.Error("entries in another order give another image")
		}
	}
}

func TestSharedContentIsStoredOnce(t *testing.T) {
	entries := []rootfs.Entry{directory(".")}
	for i := range 10 {
		e := file(fmt.Sprint(i), noise(1, 1<<20))
		e.Content = "one"
		entries = append(entries, e)
	}
	if got := len(image(t, entries)); got > 1<<20+16<<10 {
		t.Errorf("ten names for one MiB take %d bytes", got)
	}
}

func TestWriteRefuses(t *testing.T) {
	broken := errors.New("medium error")
	short := file("short", make([]byte, 10))
	short.Size = 5000
	long := file("long", make([]byte, 10))
	long.Size = 9
	tests := []struct {
		name    string
		entries []rootfs.Entry
		want    string
	}{
		{"nothing", nil, "no root directory"},
		{"no root", []rootfs.Entry{file("a", nil)}, "no directory"},
		{"root is a file", []rootfs.Entry{file(".", nil)}, "root"},
		{"twice", []rootfs.Entry{directory("."), file("a", nil), file("a", nil)}, "twice"},
		{"no parent", []rootfs.Entry{directory("."), file("a/b", nil)}, "in no directory"},
		{"parent is a file", []rootfs.Entry{directory("."), file("a", nil), file("a/b", nil)}, "in no directory"},
		{"dangling link", []rootfs.Entry{directory("."), {Path: "a", Link: "b"}}, "another name"},
		{"link to directory", []rootfs.Entry{directory("."), directory("b"), {Path: "a", Link: "b"}}, "another name"},
		{"absolute", []rootfs.Entry{directory("."), file("/a", nil)}, "not a path"},
		{"dots", []rootfs.Entry{directory("."), file("a/../b", nil)}, "not a path"},
		{"long name", []rootfs.Entry{directory("."), file(strings.Repeat("n", 256), nil)}, "not a path"},
		{"no type", []rootfs.Entry{directory("."), {Path: "a", Mode: 0o644}}, "no type"},
		{"empty link", []rootfs.Entry{directory("."), {Path: "a", Mode: rootfs.TypeSymlink | 0o777}}, "target"},
		{"odd attribute", []rootfs.Entry{directory("."), {Path: "a", Mode: rootfs.TypeFIFO, Xattrs: map[string]string{"odd.name": ""}}}, "attribute"},
		{"many attributes", []rootfs.Entry{directory("."), {Path: "a", Mode: rootfs.TypeFIFO, Xattrs: map[string]string{"user.a": strings.Repeat("x", 4096)}}}, "too many"},
		{"short content", []rootfs.Entry{directory("."), short}, "ends after 10 of 5000"},
		{"long content", []rootfs.Entry{directory("."), long}, "longer than 9"},
		{"broken content", []rootfs.Entry{directory("."), {Path: "a", Mode: rootfs.TypeRegular, Size: 9000, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(iotest.ErrReader(broken)), nil
		}}}, broken.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := rootfs.Write(io.Discard, tt.entries, rootfs.Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Write returned %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := rootfs.Write(io.Discard, []rootfs.Entry{directory(".")}, rootfs.Options{Label: strings.Repeat("x", 17)}); err == nil {
		t.Error("a label of 17 bytes was accepted")
	}
}

// TestRandomTrees writes trees of random shape; fsck.erofs reads every byte of them.
func TestRandomTrees(t *testing.T) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 7))
		entries := []rootfs.Entry{directory(".")}
		directories := []string{"."}
		for i := range 400 {
			name := filepath.Join(directories[random.IntN(len(directories))], fmt.Sprintf("%d-%s", i, strings.Repeat("x", random.IntN(200))))
			if random.IntN(5) == 0 && strings.Count(name, "/") < 6 {
				entries, directories = append(entries, directory(name)), append(directories, name)
				continue
			}
			e := file(name, noise(byte(i), random.IntN(3)*random.IntN(9000)))
			if random.IntN(3) == 0 {
				e.Xattrs = map[string]string{"user.x": strings.Repeat("y", random.IntN(4000))}
			}
			entries = append(entries, e)
		}
		path := filepath.Join(t.TempDir(), "image")
		writeFile(t, path, image(t, entries))
		out := filepath.Join(t.TempDir(), "out")
		run(t, "fsck.erofs", "--extract="+out, path)
		for _, e := range entries {
			if e.Mode&rootfs.TypeMask != rootfs.TypeRegular {
				continue
			}
			r, _ := e.Open()
			want, _ := io.ReadAll(r)
			if got, err := os.ReadFile(filepath.Join(out, e.Path)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("seed %d: %s: %d bytes, want %d, %v", seed, e.Path, len(got), len(want), err)
			}
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	entries := []rootfs.Entry{directory(".")}
	content := noise(1, 64<<10)
	for i := range 4000 {
		entries = append(entries, file(fmt.Sprint(i), content))
	}
	b.SetBytes(4000 * 64 << 10)
	for b.Loop() {
		h := rootfs.NewHasher(salt, uuid)
		if _, err := rootfs.Write(h, entries, rootfs.Options{}); err != nil {
			b.Fatal(err)
		}
		if _, err := h.Tree(); err != nil {
			b.Fatal(err)
		}
	}
}
