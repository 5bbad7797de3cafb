package slot_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"roost/images"
	"roost/images/disk"
	"roost/images/durable"
	"roost/images/rootfs"
	"roost/updater/slot"
)

const rootSize = 2 << 20

// content makes a pretended root image with its real hash tree.
func content(t testing.TB, seed uint64) (slot.Content, map[images.Kind][]byte) {
	t.Helper()
	root := make([]byte, rootSize)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range root {
		if i >= rootSize/2 || seed == 0 { // the first half is the same in every version
			root[i] = byte(r.Uint32())
		}
	}
	h := rootfs.NewHasher(bytes.Repeat([]byte{1}, 32), [16]byte{2})
	if _, err := h.Write(root); err != nil {
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
	parts := map[images.Kind][]byte{images.KindRoot: root, images.KindVerity: verity.Bytes()}
	return slot.Content{RootHash: tree.RootHash(), Root: part(root), Verity: part(verity.Bytes()), Open: opener(parts)}, parts
}

func part(b []byte) images.Part { return images.Part{Digest: images.DigestOf(b), Size: int64(len(b))} }

func opener(parts map[images.Kind][]byte) func(context.Context, images.Kind) (io.ReadCloser, error) {
	return func(_ context.Context, kind images.Kind) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(parts[kind])), nil
	}
}

// newDisk returns a laid-out disk image in a file.
func newDisk(t testing.TB) (*slot.Disk, string) {
	t.Helper()
	layout := disk.Layout{ESP: 1 << 20, Slot: 3 << 20, Verity: 1 << 20}
	size := layout.MinSize()
	path := filepath.Join(t.TempDir(), "disk")
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
	table, err := layout.Table(size, 512, []byte("test"))
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(device, size); err != nil {
		t.Fatal(err)
	}
	return &slot.Disk{Device: device}, path
}

func held(t testing.TB, d *slot.Disk, id slot.ID) string {
	t.Helper()
	slots, err := d.Slots()
	if err != nil {
		t.Fatal(err)
	}
	return slots[slices.IndexFunc(slots, func(s slot.Slot) bool { return s.ID == id })].RootHash
}

func TestWriteAndSeal(t *testing.T) {
	ctx := context.Background()
	d, path := newDisk(t)
	one, parts := content(t, 1)
	var last, total int64
	d.Progress = func(done, of int64) { last, total = done, of }
	if err := d.Write(ctx, slot.B, one); err != nil {
		t.Fatal(err)
	}
	if want := one.Root.Size + one.Verity.Size; last != want || total != want {
		t.Errorf("progress ended at %d of %d, want %d", last, total, want)
	}
	if got := held(t, d, slot.B); got == one.RootHash {
		t.Error("the slot can be found before it is proven")
	}
	for range 2 {
		if err := d.Seal(ctx, slot.B, one.RootHash); err != nil {
			t.Fatal(err)
		}
		if got := held(t, d, slot.B); got != one.RootHash {
			t.Errorf("slot b holds %s, want %s", got, one.RootHash)
		}
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(image, parts[images.KindRoot][rootSize/2:rootSize/2+4096]) {
		t.Error("the root image is not on the disk")
	}
	two, _ := content(t, 2)
	if err := d.Write(ctx, slot.B, two); err != nil {
		t.Fatal(err)
	}
	if got := held(t, d, slot.B); got == one.RootHash || got == two.RootHash {
		t.Errorf("a slot that is written again can be found as %s", got)
	}
}

// TestBadContent: whatever is wrong with the bytes, the error says so and the slot cannot be found.
func TestBadContent(t *testing.T) {
	stall := errors.New("the depot went away")
	good, parts := content(t, 1)
	root := parts[images.KindRoot]
	flipped := slices.Clone(root)
	flipped[77777] ^= 1
	for name, test := range map[string]struct {
		root io.Reader
		want string
	}{
		"flipped":   {bytes.NewReader(flipped), "digest"},
		"truncated": {bytes.NewReader(root[:len(root)-1]), "after 2097151 of 2097152 bytes"},
		"empty":     {bytes.NewReader(nil), "0 bytes"},
		"too long":  {io.MultiReader(bytes.NewReader(root), strings.NewReader("x")), "more than"},
		"broken":    {io.MultiReader(bytes.NewReader(root[:300000]), errorReader{stall}), stall.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := newDisk(t)
			c := good
			c.Open = func(ctx context.Context, kind images.Kind) (io.ReadCloser, error) {
				if kind == images.KindRoot {
					return io.NopCloser(test.root), nil
				}
				return good.Open(ctx, kind)
			}
			err := d.Write(context.Background(), slot.A, c)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
			if held(t, d, slot.A) == good.RootHash {
				t.Error("the slot can be found")
			}
		})
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestDoesNotFit(t *testing.T) {
	d, path := newDisk(t)
	before, _ := os.ReadFile(path)
	c, _ := content(t, 1)
	c.Root.Size = 3<<20 + 1
	if err := d.Write(context.Background(), slot.A, c); !errors.Is(err, slot.ErrDoesNotFit) {
		t.Errorf("got %v", err)
	}
	if after, _ := os.ReadFile(path); sha256.Sum256(after) != sha256.Sum256(before) {
		t.Error("the disk was changed")
	}
}

// TestSealFindsDamage flips bits on the disk after the write: what is read back decides.
func TestSealFindsDamage(t *testing.T) {
	ctx := context.Background()
	c, _ := content(t, 1)
	for name, offset := range map[string]int64{"data": 3<<20 + 1234567, "hash tree": 6<<20 + 5000, "superblock": 6 << 20} {
		t.Run(name, func(t *testing.T) {
			d, path := newDisk(t)
			if err := d.Write(ctx, slot.A, c); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			one := make([]byte, 1)
			if _, err := f.ReadAt(one, offset); err != nil {
				t.Fatal(err)
			}
			one[0] ^= 0x10
			if _, err := f.WriteAt(one, offset); err != nil {
				t.Fatal(err)
			}
			if err := d.Seal(ctx, slot.A, c.RootHash); err == nil || !strings.Contains(err.Error(), "slot a") {
				t.Errorf("sealed: %v", err)
			}
			if held(t, d, slot.A) == c.RootHash {
				t.Error("a damaged slot can be found")
			}
		})
	}
}

// faulty is a device with a fault after so many bytes, or one that counts what is written.
type faulty struct {
	slot.Device
	limit   int64
	written int64
	err     error
}

func (f *faulty) WriteAt(p []byte, offset int64) (int, error) {
	if len(p) > 65536 { // the partition table still works
		if f.limit > 0 && f.written+int64(len(p)) > f.limit {
			return 0, f.err
		}
		f.written += int64(len(p))
	}
	return f.Device.WriteAt(p, offset)
}

func TestDeviceFails(t *testing.T) {
	d, _ := newDisk(t)
	c, _ := content(t, 1)
	fault := errors.New("input/output error")
	d.Device = &faulty{Device: d.Device, limit: 1 << 19, err: fault}
	if err := d.Write(context.Background(), slot.A, c); !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
	if held(t, d, slot.A) == c.RootHash {
		t.Error("the slot can be found")
	}
}

// TestWritesOnlyChanges: half of the second version is the first's.
func TestWritesOnlyChanges(t *testing.T) {
	ctx := context.Background()
	d, _ := newDisk(t)
	one, _ := content(t, 1)
	two, _ := content(t, 2)
	if err := d.Write(ctx, slot.A, one); err != nil {
		t.Fatal(err)
	}
	counter := &faulty{Device: d.Device}
	d.Device = counter
	if err := d.Write(ctx, slot.A, two); err != nil {
		t.Fatal(err)
	}
	if counter.written > rootSize/2+65536 {
		t.Errorf("wrote %d bytes where %d changed", counter.written, rootSize/2)
	}
	if err := d.Seal(ctx, slot.A, two.RootHash); err != nil {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	d, _ := newDisk(t)
	c, _ := content(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	d.Progress = func(int64, int64) { cancel() }
	if err := d.Write(ctx, slot.A, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestRecords(t *testing.T) {
	dir, err := durable.Open(t.TempDir(), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	records := slot.Records{Dir: dir}
	all := func(slot.Installed) bool { return true }
	for _, i := range []slot.Installed{{Manifest: "1", RootHash: "a"}, {Manifest: "2", RootHash: "b"}, {Manifest: "1", RootHash: "a", Name: "edge"}} {
		if err := records.Put(i, all); err != nil {
			t.Fatal(err)
		}
	}
	if err := records.Put(slot.Installed{Manifest: "3", RootHash: "c"}, func(i slot.Installed) bool { return i.RootHash == "a" }); err != nil {
		t.Fatal(err)
	}
	list, err := records.List()
	if err != nil || len(list) != 2 || list[0].Manifest != "3" || list[1].Name != "edge" {
		t.Errorf("records %+v, %v", list, err)
	}
	if err := dir.Write("slots.json", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := records.List(); err == nil {
		t.Error("a damaged file was read")
	}
	if err := records.Put(slot.Installed{Manifest: "4"}, all); err != nil {
		t.Error(err)
	}
}
