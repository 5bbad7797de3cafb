package appliance

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"roost/images/disk"
)

// TestGrow has the disk under a state partition grow, by a loop device, and cuts the work off after the partition table was
// written. The partition is mounted where this process may resize what is mounted, which containers often forbid.
func TestGrow(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for loop devices")
	}
	image := filepath.Join(t.TempDir(), "disk")
	layout := disk.Layout{ESP: 1 << 20, Slot: 1 << 20, Verity: 1 << 20}
	before, after := layout.MinSize()+200<<20, layout.MinSize()+600<<20
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := layout.Table(before, 512, []byte("seed"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(before); err != nil {
		t.Fatal(err)
	}
	if err := table.Write(f, before); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	node, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Skip("no loop device to be had here")
	}
	loop := strings.TrimSpace(string(node))
	t.Cleanup(func() { run("losetup", "--detach", loop) })
	state, _ := table.Find(disk.State)
	part := partition(loop, state.Number)
	run("addpart", loop, strconv.Itoa(state.Number), strconv.FormatInt(state.Offset/512, 10), strconv.FormatInt(state.Size/512, 10))
	t.Cleanup(func() { run("delpart", loop, strconv.Itoa(state.Number)) })
	run("mkfs.ext4", "-q", "-F", "-b", "4096", part, "100m")
	dir := t.TempDir()
	if mayResizeMounted(t) {
		run("mount", part, dir)
		t.Cleanup(func() { run("umount", dir) })
	}

	root := t.TempDir()
	record, _ := json.Marshal(map[string]string{"origin": "disk", "disk": loop})
	for _, d := range []string{"run/roost", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "run/roost/boot.json"), record, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{loop, part} {
		if err := os.Symlink(link, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/sys", filepath.Join(root, "sys")); err != nil {
		t.Fatal(err)
	}
	check := func(size int64) {
		t.Helper()
		if err := Grow(t.Context(), root, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		have, err := disk.Read(f, size)
		if err != nil || have.FromBackup {
			t.Fatalf("table: %+v, %v", have, err)
		}
		p, _ := have.Find(disk.State)
		if end := p.Offset + p.Size; end > size-(1<<20) || end < size-(3<<20) {
			t.Errorf("the state partition ends at %d of %d", end, size)
		}
		const block = 4096
		blocks := run("dumpe2fs", "-h", part)
		if want := (p.Size - disk.StateTail) / block; !strings.Contains(strings.ReplaceAll(blocks, " ", ""), "Blockcount:"+strconv.FormatInt(want, 10)+"\n") {
			t.Errorf("want %d blocks of %d:\n%s", want, block, blocks)
		}
	}
	check(before) // made smaller than it may be
	if err := f.Truncate(after); err != nil {
		t.Fatal(err)
	}
	run("losetup", "--set-capacity", loop)
	// The power goes after the table was written: at the next boot only kernel and file system are behind.
	table.ExtendState(after)
	if err := table.Write(f, after); err != nil {
		t.Fatal(err)
	}
	check(after)
	check(after) // and nothing more
	run("sgdisk", "-v", image)
}

func mayResizeMounted(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
