package media_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"roost/images/disk"
	"roost/images/disk/esp"
	"roost/images/disk/media"
	"roost/images/rootfs"
)

var layout = disk.Layout{ESP: 40 << 20, Slot: 16 << 20, Verity: 1 << 20}

// content is a release in bytes: a root image that mounts, its verity data, and noise for the programs.
type content struct {
	loader, uki, root, verity []byte
	hash                      string
}

func newContent(t *testing.T) content {
	t.Helper()
	c := content{loader: make([]byte, 100_000), uki: make([]byte, 3<<20+5)}
	random := rand.NewChaCha8([32]byte{1})
	random.Read(c.loader)
	random.Read(c.uki)
	big := make([]byte, 5<<20)
	random.Read(big[:1<<20]) // the rest stays zero: holes
	entries := []rootfs.Entry{
		{Path: ".", Mode: rootfs.TypeDirectory | 0o755},
		{Path: "big", Mode: rootfs.TypeRegular | 0o644, Size: int64(len(big)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(big)), nil }},
	}
	var root, verity bytes.Buffer
	h := rootfs.NewHasher(nil, [16]byte{1})
	if _, err := rootfs.Write(io.MultiWriter(&root, h), entries, rootfs.Options{}); err != nil {
		t.Fatal(err)
	}
	tree, err := h.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.WriteTo(&verity); err != nil {
		t.Fatal(err)
	}
	c.root, c.verity, c.hash = root.Bytes(), verity.Bytes(), tree.RootHash()
	return c
}

func (c content) parts() media.Parts {
	part := func(b []byte) media.Part { return media.Part{Content: bytes.NewReader(b), Size: int64(len(b))} }
	return media.Parts{Name: "edge", Version: "2026.11.1", RootHash: c.hash, Created: time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC),
		Loader: c.loader, UKI: part(c.uki), Root: part(c.root), Verity: part(c.verity)}
}

func create(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestDisk(t *testing.T) {
	c := newContent(t)
	f := create(t, "disk.raw")
	size := layout.MinSize() + 100<<20
	if err := media.WriteDisk(f, size, layout, c.parts()); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "sgdisk", "-v", f.Name()); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v: %s", out)
	}
	table, err := disk.Read(f, size)
	if err != nil {
		t.Fatal(err)
	}
	root, verity, err := disk.SlotGUIDs(c.hash)
	if err != nil {
		t.Fatal(err)
	}
	section := func(name string) *io.SectionReader {
		p, ok := table.Find(name)
		if !ok {
			t.Fatalf("no partition %s", name)
		}
		return io.NewSectionReader(f, p.Offset, p.Size)
	}
	a, _ := table.FindUUID(root)
	b, _ := table.FindUUID(verity)
	if a.Name != disk.RootA || b.Name != disk.VerityA {
		t.Errorf("the root hash finds %q and %q", a.Name, b.Name)
	}
	if err := rootfs.Verify(context.Background(), section(disk.RootA), section(disk.VerityA), c.hash); err != nil {
		t.Error(err)
	}
	mark := make([]byte, len(disk.FreshMark))
	if _, err := section(disk.State).ReadAt(mark, 0); err != nil || string(mark) != disk.FreshMark {
		t.Errorf("state starts with %q, %v", mark, err)
	}
	for _, name := range []string{disk.ESPA, disk.ESPB} {
		volume := create(t, name)
		if _, err := io.Copy(volume, section(name)); err != nil {
			t.Fatal(err)
		}
		run(t, "fsck.fat", "-n", volume.Name())
	}
	p, _ := table.Find(disk.ESPA)
	volume, err := esp.Read(f, p.Offset, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI": c.loader, "EFI/systemd/systemd-bootx64.efi": c.loader, "EFI/Linux/edge_2026.11.1.efi": c.uki, "loader/loader.conf": []byte(esp.Config),
	} {
		if got, err := fs.ReadFile(volume, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, want %d, %v", name, len(got), len(want), err)
		}
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != size || used > 12<<20 {
		t.Errorf("the image has %d bytes and takes %d, want a sparse file of %d", info.Size(), used, size)
	}
}

func TestSameInputSameBytes(t *testing.T) {
	c := newContent(t)
	for name, write := range map[string]func(*os.File) error{
		"disk": func(f *os.File) error { return media.WriteDisk(f, layout.MinSize(), layout, c.parts()) },
		"iso":  func(f *os.File) error { return media.WriteISO(f, c.parts()) },
	} {
		a, b := create(t, "a"), create(t, "b")
		if _, err := b.Write(bytes.Repeat([]byte{0xa5}, 30<<20)); err != nil { // what was there before must not matter
			t.Fatal(err)
		}
		if err := write(a); err != nil {
			t.Fatal(err)
		}
		zone := time.Local
		time.Local = time.FixedZone("elsewhere", 5*3600+45*60)
		err := write(b)
		time.Local = zone
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cmp", a.Name(), b.Name()).CombinedOutput(); err != nil {
			t.Errorf("two %s images of one release differ: %s", name, out)
		}
	}
}

func TestDiskRefuses(t *testing.T) {
	c := newContent(t)
	tests := []struct {
		name   string
		size   int64
		change func(*media.Parts)
		want   string
	}{
		{"small disk", layout.MinSize() - 1, nil, "the layout needs"},
		{"root too large", layout.MinSize(), func(p *media.Parts) { p.Root.Size = layout.Slot + 1 }, "root-a has"},
		{"root cut", layout.MinSize(), func(p *media.Parts) { p.Root.Content = strings.NewReader("short") }, "ends after 5"},
		{"root longer than said", layout.MinSize(), func(p *media.Parts) { p.Root.Size -= 4096 }, "longer than"},
		{"UKI too large", layout.MinSize(), func(p *media.Parts) { p.UKI.Content = bytes.NewReader(make([]byte, 41<<20)) }, "no space"},
		{"no root hash", layout.MinSize(), func(p *media.Parts) { p.RootHash = "" }, "root hash"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := c.parts()
			if tt.change != nil {
				tt.change(&p)
			}
			if err := media.WriteDisk(create(t, "disk"), tt.size, layout, p); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("WriteDisk returned %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestLargeDisk writes a table on a disk whose sectors a protective MBR cannot count.
func TestLargeDisk(t *testing.T) {
	f := create(t, "disk.raw")
	const size = 3 << 40
	if err := media.WriteDisk(f, size, layout, newContent(t).parts()); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "sgdisk", "-v", f.Name()); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v: %s", out)
	}
	if got := read(t, f, 512)[446+12:][:4]; !bytes.Equal(got, []byte{0xff, 0xff, 0xff, 0xff}) {
		t.Errorf("the protective MBR says % x", got)
	}
}

// TestISO lets go-diskfs and xorriso read the image, and looks at it as a USB stick.
func TestISO(t *testing.T) {
	c := newContent(t)
	f := create(t, "edge.iso")
	if err := media.WriteISO(f, c.parts()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run(t, "xorriso", "-osirrox", "on", "-indev", "stdio:"+f.Name(), "-extract", "/", dir)
	for name, want := range map[string][]byte{"ROOT.IMG": c.root, "VERITY.IMG": c.verity} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("xorriso reads %d bytes of %s, want %d, %v", len(got), name, len(want), err)
		}
	}
	image := filepath.Join(dir, "EFI.IMG")
	run(t, "fsck.fat", "-n", image)
	if got := run(t, "mtype", "-i", image, "::EFI/BOOT/BOOTX64.EFI"); got != string(c.uki) {
		t.Error("the EFI system partition holds another program than the UKI")
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := iso9660.Read(file.New(f, true), info.Size(), 0, 2048); err != nil {
		t.Errorf("go-diskfs: %v", err)
	} else if entries, err := peer.ReadDir("."); err != nil || len(entries) != 3 {
		t.Errorf("go-diskfs sees %v, %v", entries, err)
	}
	out := run(t, "xorriso", "-indev", "stdio:"+f.Name(), "-report_el_torito", "plain", "-pvd_info")
	for _, want := range []string{"El Torito boot img :   1  UEFI  y", "Volume Id    : EDGE_2026_11_1"} {
		if !strings.Contains(out, want) {
			t.Errorf("xorriso does not report %q:\n%s", want, out)
		}
	}

	if n := bytes.Count(read(t, f, 40<<10), []byte("2026110110000000\x00")); n != 2 {
		t.Errorf("the time asked for is %d times in the volume descriptor, want 2", n)
	}
	if stamps := bytes.Count(read(t, f, 64<<10), []byte{126, 11, 1, 10, 0, 0, 0}); stamps != 6 {
		t.Errorf("%d directory records bear the time asked for, want 6", stamps)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 8<<20 {
		t.Errorf("the image takes %d bytes, want a sparse file", used)
	}

	if out := run(t, "sgdisk", "-v", f.Name()); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v: %s", out)
	}
	table, err := disk.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	root, verity, err := disk.SlotGUIDs(c.hash)
	if err != nil {
		t.Fatal(err)
	}
	a, okA := table.FindUUID(root)
	b, okB := table.FindUUID(verity)
	if !okA || !okB {
		t.Fatal("no partitions named by the root hash")
	}
	if err := rootfs.Verify(context.Background(), io.NewSectionReader(f, a.Offset, a.Size), io.NewSectionReader(f, b.Offset, b.Size), c.hash); err != nil {
		t.Error(err)
	}
}

// TestEnrolment looks at the image that systemd-boot enrols keys from.
func TestEnrolment(t *testing.T) {
	c := newContent(t)
	f := create(t, "enrol.iso")
	e := media.Enrolment{Name: "Test keys", Created: c.parts().Created, Loader: c.loader,
		Updates: map[string][]byte{"PK": []byte("pk"), "KEK": []byte("kek"), "db": []byte("db")}}
	if err := media.WriteEnrolment(f, e); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := disk.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	volume, err := esp.Read(f, table.Partitions[0].Offset, table.Partitions[0].Size)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"EFI/BOOT/BOOTX64.EFI": string(c.loader), "loader/keys/auto/PK.auth": "pk", "loader/keys/auto/KEK.auth": "kek", "loader/keys/auto/db.auth": "db",
	} {
		if got, err := fs.ReadFile(volume, name); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes, want %d, %v", name, len(got), len(want), err)
		}
	}
	if text, err := fs.ReadFile(volume, "loader/loader.conf"); err != nil || !strings.Contains(string(text), "secure-boot-enroll force") {
		t.Errorf("loader.conf is %q, %v", text, err)
	}
	out := run(t, "xorriso", "-indev", "stdio:"+f.Name(), "-report_el_torito", "plain", "-pvd_info")
	for _, want := range []string{"El Torito boot img :   1  UEFI  y", "Volume Id    : TEST_KEYS"} {
		if !strings.Contains(out, want) {
			t.Errorf("xorriso does not report %q:\n%s", want, out)
		}
	}
}

func read(t *testing.T, f *os.File, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatal(fmt.Errorf("%s %v: %w\n%s", name, args, err, out))
	}
	return string(out)
}
