package slot

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"roost/images"
	"roost/images/disk"
	"roost/images/rootfs"
)

// ID names a slot.
type ID string

// The two slots.
const (
	A ID = "a"
	B ID = "b"
)

// Other returns the other slot.
func (id ID) Other() ID {
	if id == A {
		return B
	}
	return A
}

func (id ID) root() string   { return "root-" + string(id) }
func (id ID) verity() string { return "verity-" + string(id) }

// Slot is what the partition table says of one slot.
type Slot struct {
	ID       ID
	RootHash string // that its GUIDs stand for; random digits while it is being written
	Root     int64  // bytes of the root partition
	Verity   int64  // bytes of the verity partition
}

// ErrDoesNotFit says that an image is larger than the partition for it.
var ErrDoesNotFit = errors.New("does not fit")

// Content is what a slot shall hold.
type Content struct {
	RootHash string
	Root     images.Part
	Verity   images.Part
	Open     func(context.Context, images.Kind) (io.ReadCloser, error) // the parts as used, decompressed
}

// Disk is the disk that holds both slots. One process writes it at a time.
type Disk struct {
	Device Device
	// Progress, if set, is told after each chunk how many of the bytes of both parts are in place.
	Progress func(done, total int64)
}

// Slots returns both slots, a first.
func (d *Disk) Slots() ([]Slot, error) {
	table, err := disk.Read(d.Device, d.Device.Size())
	if err != nil {
		return nil, err
	}
	var slots []Slot
	for _, id := range []ID{A, B} {
		root, verity, err := id.find(table)
		if err != nil {
			return nil, err
		}
		slots = append(slots, Slot{ID: id, RootHash: rootHash(root.UUID, verity.UUID), Root: root.Size, Verity: verity.Size})
	}
	return slots, nil
}

func (id ID) find(table *disk.Table) (root, verity disk.Partition, err error) {
	root, ok := table.Find(id.root())
	if !ok {
		return root, verity, fmt.Errorf("cannot find partition %s", id.root())
	}
	if verity, ok = table.Find(id.verity()); !ok {
		return root, verity, fmt.Errorf("cannot find partition %s", id.verity())
	}
	return root, verity, nil
}

func rootHash(root, verity disk.GUID) string {
	return strings.ReplaceAll(root.String()+verity.String(), "-", "")
}

// Write puts the content into a slot and makes it last. The slot cannot be found from the first moment on, and stays so:
// Seal makes it findable. After an error, a full or failing disk included, it is unfindable too.
func (d *Disk) Write(ctx context.Context, id ID, c Content) error {
	table, err := disk.Read(d.Device, d.Device.Size())
	if err != nil {
		return fmt.Errorf("cannot write slot %s: %w", id, err)
	}
	root, verity, err := id.find(table)
	if err != nil {
		return fmt.Errorf("cannot write slot %s: %w", id, err)
	}
	if c.Root.Size > root.Size || c.Verity.Size > verity.Size {
		return fmt.Errorf("cannot write slot %s: root of %d bytes into %d, verity of %d into %d: %w",
			id, c.Root.Size, root.Size, c.Verity.Size, verity.Size, ErrDoesNotFit)
	}
	if err := d.hide(id); err != nil {
		return fmt.Errorf("cannot write slot %s: %w", id, err)
	}
	w := writer{device: d.Device, progress: d.Progress, total: c.Root.Size + c.Verity.Size}
	if err := w.part(ctx, images.KindRoot, c, c.Root, root.Offset); err != nil {
		return fmt.Errorf("cannot write slot %s: %w", id, err)
	}
	if err := w.part(ctx, images.KindVerity, c, c.Verity, verity.Offset); err != nil {
		return fmt.Errorf("cannot write slot %s: %w", id, err)
	}
	if err := d.Device.Sync(); err != nil {
		return fmt.Errorf("cannot write slot %s: %w", id, err)
	}
	return nil
}

// hide gives a slot GUIDs that stand for no root hash.
func (d *Disk) hide(id ID) error {
	var guids [2]disk.GUID
	for i := range guids {
		_, _ = rand.Read(guids[i][:]) // never fails (crypto/rand)
	}
	return disk.SetUUIDs(d.Device, d.Device.Size(), map[string]disk.GUID{id.root(): guids[0], id.verity(): guids[1]})
}

// Check reads a whole slot back from the medium through the hash tree.
func (d *Disk) Check(ctx context.Context, id ID, hash string) error {
	if err := d.check(ctx, id, hash); err != nil {
		return fmt.Errorf("cannot verify slot %s: %w", id, err)
	}
	return nil
}

func (d *Disk) check(ctx context.Context, id ID, hash string) error {
	table, err := disk.Read(d.Device, d.Device.Size())
	if err != nil {
		return err
	}
	root, verity, err := id.find(table)
	if err != nil {
		return err
	}
	view, err := d.Device.Fresh()
	if err != nil {
		return err
	}
	defer view.Close()
	return rootfs.Verify(ctx, io.NewSectionReader(view, root.Offset, root.Size), io.NewSectionReader(view, verity.Offset, verity.Size), hash)
}

// Seal checks a slot as Check does and then makes it findable by its root hash. Sealing twice does no harm.
func (d *Disk) Seal(ctx context.Context, id ID, hash string) error {
	if err := d.Check(ctx, id, hash); err != nil {
		return err
	}
	root, verity, err := disk.SlotGUIDs(hash)
	if err == nil {
		err = disk.SetUUIDs(d.Device, d.Device.Size(), map[string]disk.GUID{id.root(): root, id.verity(): verity})
	}
	if err != nil {
		return fmt.Errorf("cannot seal slot %s: %w", id, err)
	}
	return nil
}

// writer copies parts onto the device.
type writer struct {
	device      Device
	progress    func(done, total int64)
	done, total int64
}

const chunkSize = 256 << 10

// part copies one part to offset and checks size and digest on the way.
func (w *writer) part(ctx context.Context, kind images.Kind, c Content, want images.Part, offset int64) error {
	source, err := c.Open(ctx, kind)
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	defer source.Close()
	hash, chunk, have := sha256.New(), make([]byte, chunkSize), make([]byte, chunkSize)
	var at int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(source, chunk)
		if int64(n) > want.Size-at {
			return fmt.Errorf("%s: more than %d bytes", kind, want.Size)
		}
		hash.Write(chunk[:n])
		if err := w.put(chunk[:n], have[:n], offset+at); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		at += int64(n)
		if w.done += int64(n); w.progress != nil && n > 0 {
			w.progress(w.done, w.total)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && at == want.Size {
			break
		}
		if err != nil {
			return fmt.Errorf("%s after %d of %d bytes: %w", kind, at, want.Size, err)
		}
	}
	if got := images.Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))); at != want.Size || got != want.Digest {
		return fmt.Errorf("%s: %d bytes with digest %s, want %d with %s", kind, at, got, want.Size, want.Digest)
	}
	return nil
}

// put writes data unless the device holds it already. A sector that cannot be read is written: that is how a drive gets
// to replace it.
func (w *writer) put(data, have []byte, offset int64) error {
	if n, err := w.device.ReadAt(have, offset); n == len(have) && (err == nil || err == io.EOF) && bytes.Equal(have, data) {
		return nil
	}
	_, err := w.device.WriteAt(data, offset)
	return err
}
