package install_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"roost/images"
	"roost/images/disk"
	"roost/images/disk/esp"
	"roost/images/imagestest"
	"roost/images/rootfs"
	"roost/updater/boot"
	"roost/updater/install"
	"roost/updater/slot"
)

const mib = 1 << 20

// release returns a release with a real hash tree, and its parts.
func release(t testing.TB) install.Request {
	t.Helper()
	r := imagestest.Release("edge", "7")
	parts := map[images.Kind][]byte{}
	for _, kind := range images.Kinds() {
		parts[kind] = imagestest.Content(r, kind)
	}
	h := rootfs.NewHasher(bytes.Repeat([]byte{3}, 32), [16]byte{4})
	if _, err := h.Write(parts[images.KindRoot]); err != nil {
		t.Fatal(err)
	}
	tree, err := h.Tree()
	if err != nil {
		t.Fatal(err)
	}
	var verity bytes.Buffer
	if _, err := tree.WriteTo(&verity); err != nil {
		t.Fatal(err)
	}
	parts[images.KindVerity] = verity.Bytes()
	r.Verity = images.Part{Digest: images.DigestOf(verity.Bytes()), Size: int64(verity.Len())}
	r.RootHash = tree.RootHash()
	r.Needs = images.Needs{Slot: 1 * mib, Verity: 1 * mib, ESP: 40 * mib, Disk: 200 * mib}
	return install.Request{
		Manifest: images.DigestOf([]byte("manifest")), Release: *r, Seed: []byte("approval 1"),
		Files: []install.File{{Path: "lib/roost/identity/host-id", Mode: 0o644, Data: []byte("h1\n")}, {Path: "lib/roost/identity/node.key", Mode: 0o600, Data: []byte("secret\n")}},
		Open: func(_ context.Context, kind images.Kind) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(parts[kind])), nil
		},
	}
}

func blank(t testing.TB, size int64) (*install.Installer, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	device, closer, err := slot.OpenDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
	variables := filepath.Join(dir, "efivars")
	if err := os.Mkdir(variables, 0o755); err != nil {
		t.Fatal(err)
	}
	return &install.Installer{Path: path, Device: device, Formatter: install.Ext4{Dir: dir}, Variables: &boot.Variables{Dir: variables},
		Log: slog.New(slog.DiscardHandler)}, path
}

func TestInstall(t *testing.T) {
	i, path := blank(t, 200*mib)
	var stages []install.Stage
	i.Progress = func(stage install.Stage, _, _ int64) {
		if !slices.Contains(stages, stage) {
			stages = append(stages, stage)
		}
	}
	r := release(t)
	if err := i.Install(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	if len(stages) != 5 {
		t.Errorf("stages %v", stages)
	}
	if text := judge(t, path, r); text != "bootable" {
		t.Errorf("the disk is %s", text)
	}
	if out := run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	entries, err := os.ReadDir(i.Variables.Dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("EFI variables %v, %v; want three options and their order", entries, err)
	}
	state := partition(t, path, disk.State)
	if out := run(t, "e2fsck", "-fn", state); !strings.Contains(out, "state") {
		t.Errorf("e2fsck: %s", out)
	}
	if out := run(t, "debugfs", "-R", "stat /lib/roost/identity/node.key", state); !strings.Contains(out, "Mode:  0600") || !strings.Contains(out, "User:     0") {
		t.Errorf("node.key: %s", out)
	}
	if out := run(t, "debugfs", "-R", "cat /lib/roost/slots.json", state); !strings.Contains(out, r.Release.RootHash) || !strings.Contains(out, string(r.Manifest)) {
		t.Errorf("slots.json: %s", out)
	}
	if out := run(t, "dumpe2fs", "-h", state); !strings.Contains(out, "Block count:              "+stateBlocks(t, state)+"\n") {
		t.Errorf("the last 32 MiB of the state partition are not free: %s", out)
	}
	if bytes.Contains(espBytes(t, path), []byte("secret")) {
		t.Error("a secret is on the EFI system partition")
	}
}

// judge says what a disk would do: "nothing" to boot, "bootable" when everything is there, else what is wrong.
func judge(t testing.TB, path string, r install.Request) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	table, err := disk.Read(f, info.Size())
	if err != nil {
		return "nothing"
	}
	a, ok := table.Find(disk.ESPA)
	if !ok {
		return "nothing"
	}
	volume, err := esp.Read(f, a.Offset, a.Size)
	if err != nil {
		return "nothing"
	}
	for _, name := range []string{esp.FallbackLoader, esp.UKIDirectory + "/edge_7.efi"} {
		kind := map[bool]images.Kind{true: images.KindLoader, false: images.KindUKI}[name == esp.FallbackLoader]
		file, err := volume.Open(name)
		if err != nil {
			return "nothing"
		}
		want := r.Release.Part(kind)
		data, err := io.ReadAll(io.LimitReader(file, want.Size)) // the reader may give the rest of the last sector too
		if err != nil || images.DigestOf(data) != want.Digest {
			return "nothing" // the firmware refuses it
		}
	}
	device, closer, err := slot.OpenDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	slots := slot.Disk{Device: device}
	held, err := slots.Slots()
	if err != nil || held[0].RootHash != r.Release.RootHash {
		return "bootable without a root"
	}
	if err := slots.Check(context.Background(), slot.A, r.Release.RootHash); err != nil {
		return "bootable with a damaged root"
	}
	state, _ := table.Find(disk.State)
	magic := make([]byte, 2)
	if _, err := f.ReadAt(magic, state.Offset+1080); err != nil || magic[0] != 0x53 {
		return "bootable without a state"
	}
	return "bootable"
}

func partition(t testing.TB, path, name string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	table, err := disk.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	p, _ := table.Find(name)
	out := filepath.Join(t.TempDir(), name)
	w, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := io.Copy(w, io.NewSectionReader(f, p.Offset, p.Size)); err != nil {
		t.Fatal(err)
	}
	return out
}

// stateBlocks is the number of 4 KiB blocks in a file but for its last 32 MiB.
func stateBlocks(t testing.TB, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.FormatInt((info.Size()-32*mib)>>12, 10)
}

func espBytes(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(partition(t, path, disk.ESPA))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// TestNotBlank makes disks with what people have on disks: each is refused by name, untouched, and taken with Wipe.
func TestNotBlank(t *testing.T) {
	for name, test := range map[string]struct {
		make func(t *testing.T, path string)
		want string
	}{
		"GPT": {func(t *testing.T, path string) { run(t, "sgdisk", "-n", "1:0:+10M", "-c", "1:precious", path) }, `"precious"`},
		"MBR": {func(t *testing.T, path string) {
			sector := make([]byte, 512)
			sector[446+4], sector[446+13], sector[510], sector[511] = 0x83, 8, 0x55, 0xaa
			put(t, path, 0, sector)
		}, "type 83"},
		"ext4":      {func(t *testing.T, path string) { run(t, "mkfs.ext4", "-q", "-F", path, "100M") }, "ext4"},
		"FAT":       {func(t *testing.T, path string) { run(t, "mkfs.vfat", path) }, "FAT"},
		"LUKS":      {func(t *testing.T, path string) { put(t, path, 0, []byte("LUKS\xba\xbe\x00\x02")) }, "LUKS"},
		"swap":      {func(t *testing.T, path string) { run(t, "mkswap", path) }, "swap"},
		"LVM":       {func(t *testing.T, path string) { put(t, path, 512, []byte("LABELONE................LVM2 001")) }, "LVM"},
		"ISO":       {func(t *testing.T, path string) { put(t, path, 32769, []byte("CD001")) }, "ISO"},
		"btrfs":     {func(t *testing.T, path string) { put(t, path, 65600, []byte("_BHRfS_M")) }, "btrfs"},
		"bluestore": {func(t *testing.T, path string) { put(t, path, 0, []byte("bluestore block device\n")) }, "Ceph"},
	} {
		t.Run(name, func(t *testing.T) {
			i, path := blank(t, 200*mib)
			test.make(t, path)
			if info, _ := os.Stat(path); info.Size() != 200*mib {
				t.Fatalf("the disk has %d bytes", info.Size())
			}
			r := release(t)
			whole := i.Device
			i.Device = &dying{Device: whole} // would tell of any write
			err := i.Install(context.Background(), r)
			if !errors.Is(err, install.ErrNotBlank) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
			i.Device, r.Wipe = whole, true
			if err := i.Install(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			if text := judge(t, path, r); text != "bootable" {
				t.Errorf("after wiping the disk is %s", text)
			}
		})
	}
}

func put(t testing.TB, path string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

func TestTooSmall(t *testing.T) {
	i, _ := blank(t, 190*mib)
	if err := i.Install(context.Background(), release(t)); !errors.Is(err, install.ErrTooSmall) {
		t.Errorf("got %v", err)
	}
}

// TestBadParts: whatever part is wrong, the disk does not become bootable.
func TestBadParts(t *testing.T) {
	for _, kind := range images.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			i, path := blank(t, 200*mib)
			r := release(t)
			good := r.Open
			r.Open = func(ctx context.Context, k images.Kind) (io.ReadCloser, error) {
				if k == kind {
					return io.NopCloser(strings.NewReader("not it")), nil
				}
				return good(ctx, k)
			}
			if err := i.Install(context.Background(), r); err == nil || !strings.Contains(err.Error(), string(kind)) {
				t.Errorf("got %v", err)
			}
			if text := judge(t, path, r); text != "nothing" {
				t.Errorf("the disk is %s", text)
			}
		})
	}
}

// dying is a device that loses power at the n-th write or sync.
type dying struct {
	slot.Device
	left int
}

var errPower = errors.New("power cut")

func (d *dying) tick() error {
	if d.left--; d.left < 0 {
		return errPower
	}
	return nil
}

func (d *dying) WriteAt(p []byte, offset int64) (int, error) {
	if err := d.tick(); err != nil {
		return 0, err
	}
	return d.Device.WriteAt(p, offset)
}

func (d *dying) Sync() error {
	if err := d.tick(); err != nil {
		return err
	}
	return d.Device.Sync()
}

// TestCutAnywhere stops an installation at every write: the disk is bootable whole or not at all, and the same request
// finishes it without the right to wipe, while another request is refused once there is something.
func TestCutAnywhere(t *testing.T) {
	r := release(t)
	bootable := 0
	for n := 0; ; n++ {
		i, path := blank(t, 200*mib)
		whole := i.Device
		i.Device = &dying{Device: whole, left: n}
		err := i.Install(context.Background(), r)
		if err != nil && !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		switch text := judge(t, path, r); text {
		case "bootable":
			bootable++
		case "nothing":
			if bootable > 0 {
				t.Fatalf("cut at %d: bootable no more", n)
			}
		default:
			t.Fatalf("cut at %d: the disk is %s", n, text)
		}
		if err == nil {
			t.Logf("%d writes and syncs", n)
			break
		}
		i.Device = whole
		if err := i.Install(context.Background(), r); err != nil {
			t.Fatalf("cut at %d, again: %v", n, err)
		}
		if text := judge(t, path, r); text != "bootable" {
			t.Fatalf("cut at %d, again: the disk is %s", n, text)
		}
	}
	if bootable == 0 {
		t.Error("never bootable")
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte("LUKS\xba\xbe"), uint32(0))
	f.Add([]byte("CD001"), uint32(32769))
	f.Add([]byte("EFI PART"), uint32(512))
	f.Fuzz(func(t *testing.T, data []byte, offset uint32) {
		image := make([]byte, 128<<10)
		copy(image[int(offset)%len(image):], data)
		found, err := install.Inspect(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(image, make([]byte, len(image))) && len(found) > 0 {
			t.Errorf("zeros hold %q", found)
		}
	})
}
