package linux

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGrowExt4 grows a real file system in a file, twice, and checks it.
func TestGrowExt4(t *testing.T) {
	for _, tool := range []string{"mkfs.ext4", "resize2fs", "e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs e2fsprogs")
		}
	}
	m := tree(t, map[string]string{"dev/state": ""})
	path := filepath.Join(m.Root, "dev/state")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if err := os.Truncate(path, 96<<20); err != nil {
		t.Fatal(err)
	}
	run("mkfs.ext4", "-q", "-F", "-L", "state", path, "65536k")
	if size, _, err := ext4Size(path); size != 64<<20 || err != nil {
		t.Fatalf("made %d bytes, %v", size, err)
	}
	for _, want := range []struct {
		size  int64
		grown bool
	}{{64 << 20, false}, {96 << 20, true}, {96 << 20, false}, {32 << 20, false}} { // never shrunk
		grown, err := m.GrowExt4(t.Context(), "dev/state", want.size)
		if err != nil || grown != want.grown {
			t.Errorf("to %d MiB: grown %v, %v", want.size>>20, grown, err)
		}
	}
	if size, _, err := ext4Size(path); size != 96<<20 || err != nil {
		t.Errorf("after all %d bytes, %v", size, err)
	}
	run("e2fsck", "-fn", path)
	if _, err := m.GrowExt4(t.Context(), "dev/null", 1); err == nil {
		t.Error("what holds no file system grew")
	}
}

func FuzzParseExt4(f *testing.F) {
	f.Add([]byte{})
	super := make([]byte, 1024)
	super[56], super[57], super[4] = 0x53, 0xef, 9
	f.Add(super)
	f.Fuzz(func(t *testing.T, super []byte) {
		size, block, err := parseExt4(super)
		if err == nil && (size < 0 || block < 1024 || size%block != 0) {
			t.Errorf("%d bytes in blocks of %d", size, block)
		}
	})
}
