package esp_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/images/disk/esp"
)

const (
	offset = 1 << 20
	size   = 64 << 20
)

var epoch = time.Date(2026, 11, 1, 12, 30, 8, 0, time.UTC)

// format makes a volume in the middle of a fresh file, optionally one full of old bytes.
func format(t *testing.T, dirty bool, files []esp.File) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if dirty {
		if _, err := f.Write(bytes.Repeat([]byte{0xa5}, offset+size)); err != nil {
			t.Fatal(err)
		}
	} else if err := f.Truncate(offset + size); err != nil {
		t.Fatal(err)
	}
	if err := esp.Format(f, offset, size, esp.Volume{Label: "ESP-A", Serial: 0xcafe1234, Time: epoch}, files); err != nil {
		t.Fatal(err)
	}
	return f
}

func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func bootFiles() []esp.File {
	loader := func() io.Reader { return bytes.NewReader(content(100_001)) }
	files := esp.Files(loader, "edge_2026.11.1+2-0.efi", bytes.NewReader(content(9<<20+7)))
	for _, n := range []string{"edge_2026.10.2.efi", "edge_2026.10.1.efi", "edge_2026.9.28+0-2.efi"} { // long names that share a short stem
		files = append(files, esp.File{Path: "EFI/Linux/" + n, Content: strings.NewReader(n)})
	}
	return files
}

func volume(t *testing.T, f *os.File) string {
	t.Helper()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFormat(t *testing.T) {
	for _, dirty := range []bool{false, true} {
		f := format(t, dirty, bootFiles())
		path := volume(t, f)
		out := run(t, "fsck.fat", "-n", "-v", path)
		for _, complaint := range []string{"Invalid", "Fixing", "differ", "Dirty"} {
			if strings.Contains(out, complaint) {
				t.Errorf("dirty=%v: fsck.fat says %q:\n%s", dirty, complaint, out)
			}
		}
		for name, want := range map[string][]byte{
			"EFI/BOOT/BOOTX64.EFI": content(100_001), "EFI/systemd/systemd-bootx64.efi": content(100_001),
			"loader/loader.conf": []byte(esp.Config), "EFI/Linux/edge_2026.11.1+2-0.efi": content(9<<20 + 7),
			"EFI/Linux/edge_2026.10.1.efi": []byte("edge_2026.10.1.efi"),
		} {
			if got := run(t, "mtype", "-i", path, "::"+name); got != string(want) {
				t.Errorf("dirty=%v: mtools reads %d bytes of %s, want %d", dirty, len(got), name, len(want))
			}
		}
	}
}

// TestSizes walks sizes around which the number of FAT sectors changes, and disks with large sectors; fsck.fat checks
// every one.
func TestSizes(t *testing.T) {
	type shape struct {
		size   int64
		sector int
	}
	shapes := []shape{{esp.MinSize, 512}, {64 << 20, 512}, {100 << 20, 512}, {260 << 20, 512}, {261 << 20, 512}, {300<<20 + 512, 512}, {512 << 20, 512}, {512 << 20, 4096}}
	for i := range int64(12) {
		shapes = append(shapes, shape{40<<20 + i*4096 + i*512, 512})
	}
	for _, x := range shapes {
		path := filepath.Join(t.TempDir(), "volume")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		spec := esp.Volume{Label: "X", Sector: x.sector}
		if err := errors.Join(f.Truncate(x.size), esp.Format(f, 0, x.size, spec, []esp.File{{"a/b", strings.NewReader("c")}}), f.Close()); err != nil {
			t.Fatal(err)
		}
		run(t, "fsck.fat", "-n", path)
	}
}

func TestSameInputSameBytes(t *testing.T) {
	a := volume(t, format(t, false, bootFiles()))
	b := volume(t, format(t, false, bootFiles()))
	if out, err := exec.Command("cmp", a, b).CombinedOutput(); err != nil {
		t.Errorf("two volumes of the same files differ: %s", out)
	}
	out := run(t, "mdir", "-i", a, "::EFI/Linux")
	if strings.Count(out, "2026-11-01  12:30") != 6 { // four files, "." and ".."
		t.Errorf("timestamps are not the ones asked for:\n%s", out)
	}
	if out := run(t, "mdir", "-i", a, "::"); !strings.Contains(out, "CAFE-1234") {
		t.Errorf("serial is not the one asked for:\n%s", out)
	}
}

func TestFormatStaysInside(t *testing.T) {
	f := format(t, false, bootFiles())
	head := make([]byte, offset)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(head, make([]byte, offset)) {
		t.Error("bytes before the volume changed")
	}
	if info, _ := f.Stat(); info.Size() != offset+size {
		t.Errorf("file grew to %d bytes", info.Size())
	}
}

func TestRead(t *testing.T) {
	f := format(t, false, bootFiles())
	volume, err := esp.Read(f, offset, size)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fs.ReadFile(volume, "EFI/Linux/edge_2026.11.1+2-0.efi")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content(9<<20+7)) {
		t.Error("read other bytes than were written")
	}
	entries, err := fs.ReadDir(volume, "EFI/Linux")
	if err != nil || len(entries) != 4 {
		t.Errorf("ReadDir gave %d entries, %v; want 4", len(entries), err)
	}
}

func TestFormatErrors(t *testing.T) {
	broken := errors.New("medium error")
	tests := []struct {
		name  string
		size  int64
		files []esp.File
		want  string
	}{
		{"too small", 16 << 20, nil, "cannot be FAT32"},
		{"too full", esp.MinSize, []esp.File{{"a", bytes.NewReader(content(esp.MinSize))}}, "no space"},
		{"bad path", size, []esp.File{{"/a", strings.NewReader("")}}, "not a path"},
		{"twice", size, []esp.File{{"a/b", strings.NewReader("")}, {"A/B", strings.NewReader("")}}, "twice"},
		{"file as directory", size, []esp.File{{"a", strings.NewReader("")}, {"a/b", strings.NewReader("")}}, "is a file"},
		{"bad name", size, []esp.File{{"a:b", strings.NewReader("")}}, "character"},
		{"bad source", size, []esp.File{{"a", fsReader{broken}}}, broken.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			err = esp.Format(f, 0, tt.size, esp.Volume{Label: "X"}, tt.files)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Format returned %v, want an error with %q", err, tt.want)
			}
		})
	}
}

type fsReader struct{ err error }

func (r fsReader) Read([]byte) (int, error) { return 0, r.err }

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
