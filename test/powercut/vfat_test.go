package powercut_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"roost/test/powercut"
)

// TestVFAT lets fsck and mtools judge what the writer makes of a volume that mkfs made.
func TestVFAT(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fat")
	host(t, "mkfs.vfat", "-C", "-F", "32", "-s", "1", path, "34000")
	host(t, "mmd", "-i", path, "::/EFI", "::/EFI/Linux")
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	disk := powercut.NewRecorder(bytes.NewReader(image), int64(len(image)))
	v, err := powercut.OpenVFAT(disk, 0, int64(len(image)), "EFI/Linux")
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{}
	for n := range 12 { // the directory grows past its first cluster
		name := "edge_2026.11." + string(rune('a'+n)) + ".efi"
		content := strings.Repeat(name, 100*n)
		f, err := v.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, content); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		switch n % 3 {
		case 0:
			to := strings.Replace(name, ".efi", "+2-0.efi", 1)
			if err := v.Rename(name, to); err != nil {
				t.Fatal(err)
			}
			contents[to] = content
		case 1:
			if err := v.Remove(name); err != nil {
				t.Fatal(err)
			}
		default:
			contents[name] = content
		}
	}
	if _, err := v.Create("edge_2026.11.c.efi"); err != nil { // made empty
		t.Fatal(err)
	}
	contents["edge_2026.11.c.efi"] = ""
	after := make([]byte, len(image))
	if _, err := disk.ReadAt(after, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, after, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsck.vfat", "-n", path).CombinedOutput(); err != nil && !onlySummary(string(out)) {
		t.Errorf("fsck.vfat: %v\n%s", err, out)
	}
	names, err := v.Names()
	if err != nil || len(names) != len(contents) {
		t.Errorf("names %q, %v; want %d", names, err, len(contents))
	}
	for name, want := range contents {
		if got := host(t, "mtype", "-i", path, "::/EFI/Linux/"+name); got != want {
			t.Errorf("%s: %d bytes by mtools, want %d", name, len(got), len(want))
		}
		r, err := v.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want || !slices.Contains(names, name) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}

// onlySummary reports whether the count of free clusters, which is a hint, is all that fsck found.
func onlySummary(out string) bool {
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		known := []string{"fsck.fat ", "Free cluster summary", "  Auto-correcting", "Leaving filesystem unchanged", ": "}
		if strings.TrimSpace(line) != "" && !slices.ContainsFunc(known, func(k string) bool { return strings.Contains(line, k) }) {
			return false
		}
	}
	return true
}

func host(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}

// TestFsckTellsTwinsApart cuts a rename where Linux has written the new name and not yet taken the old one away. Both names
// then have one chain of clusters. What fsck makes of it before the partition is mounted must leave one of them whole, so
// that the updater finds it by its digest.
func TestFsckTellsTwinsApart(t *testing.T) {
	m := newMachine(t, 0)
	two := m.two
	f, err := m.volume.Create("edge_2.new")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(two.file); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := m.volume.Rename("edge_2.new", "edge_2+2-0.efi"); err != nil {
		t.Fatal(err)
	}
	r := &powercut.Rebuilder{Log: m.recorder.Log, Base: newMachine(t, 0).recorder, Size: m.recorder.Size()}
	twins := 0
	for cut := 1; cut <= len(m.recorder.Log.Entries); cut++ {
		image := r.Image(powercut.State{Cut: cut})
		volume, err := powercut.OpenVFAT(image, m.esp.Offset, m.esp.Size, "EFI/Linux")
		if err != nil {
			t.Fatal(err)
		}
		if names, _ := volume.Names(); !slices.Contains(names, "edge_2.new") || !slices.Contains(names, "edge_2+2-0.efi") {
			continue
		}
		twins++
		data := make([]byte, m.esp.Size)
		if _, err := image.ReadAt(data, m.esp.Offset); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "esp")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command("fsck.vfat", "-a", path).CombinedOutput() // its status says that it repaired
		if out2, err := exec.Command("fsck.vfat", "-n", path).CombinedOutput(); err != nil {
			t.Fatalf("not clean after fsck:\n%s\nthen\n%s", out, out2)
		}
		whole := 0
		for _, name := range []string{"edge_2.new", "edge_2+2-0.efi"} {
			if host(t, "mtype", "-i", path, "::/EFI/Linux/"+name) == string(two.file) {
				whole++
			}
		}
		if whole == 0 || host(t, "mtype", "-i", path, "::/EFI/Linux/edge_1.efi") != string(m.one.file) {
			t.Errorf("cut %d: %d names are whole after fsck:\n%s", cut, whole, out)
		}
	}
	if twins == 0 {
		t.Error("no cut leaves two names")
	}
}
