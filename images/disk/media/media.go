// Package media makes whole bootable media of a release: the raw disk of a machine that needs no installer, and an ISO
// image for optical drives and USB sticks.
//
// It exists for people who try Roost in a virtual machine, write a stick, or hand an image to a cloud. What it writes is
// what the installer would have written: same partitions, same files, same GUIDs of the slot.
//
// Promises: equal input gives equal bytes; a raw disk is sparse; both boot with Secure Boot enforcing the release's keys;
// nothing is mounted and no right of root is needed.
//
// go-diskfs writes the partition tables and the ISO 9660 file systems. Two things are put right afterwards: version 1.9.4
// writes the present, in local time, into ISO images, and the size of the protective MBR wraps beyond 2 TiB. FAT32 volumes
// are our own; package esp says why.
//
// Rejected: making media with xorriso and sgdisk (the product needs Go and Linux only); Rock Ridge or Joliet names (more
// places with times to put right, for three files).
package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"roost/images"
	"roost/images/disk"
	"roost/images/disk/esp"
)

// Parts is the release that goes on a medium.
type Parts struct {
	Name     string // of the recipe
	Version  images.Version
	RootHash string
	Created  time.Time // timestamp of everything

	Loader []byte // signed systemd-boot; not on an ISO
	UKI    Part
	Root   Part
	Verity Part
}

// Part is a file of the release, as used (uncompressed).
type Part struct {
	Content io.Reader // read once, to its end
	Size    int64     // bytes
}

// WriteDisk makes f, which is emptied first, a disk of size bytes with the release in slot A. Slot B is empty, the state
// partition bears the mark that has the first boot format it.
func WriteDisk(f *os.File, size int64, layout disk.Layout, p Parts) error {
	if err := writeDisk(f, size, layout, p); err != nil {
		return fmt.Errorf("cannot make disk image: %w", err)
	}
	return nil
}

func writeDisk(f *os.File, size int64, layout disk.Layout, p Parts) error {
	table, err := layout.Table(size, 512, []byte("disk of "+p.RootHash))
	if err != nil {
		return err
	}
	root, verity, err := disk.SlotGUIDs(p.RootHash)
	if err != nil {
		return err
	}
	at := map[string]disk.Partition{}
	for i := range table.Partitions {
		part := &table.Partitions[i]
		switch part.Name {
		case disk.RootA:
			part.UUID = root
		case disk.VerityA:
			part.UUID = verity
		}
		at[part.Name] = *part
	}
	if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
		return err
	}
	name := fmt.Sprintf("%s_%s.efi", p.Name, p.Version)
	files := esp.Files(func() io.Reader { return bytes.NewReader(p.Loader) }, name, p.UKI.Content)
	for _, volume := range []struct {
		name, label string
		files       []esp.File
	}{{disk.ESPA, "ESP-A", files}, {disk.ESPB, "ESP-B", nil}} {
		spec := esp.Volume{Label: volume.label, Serial: serialOf(at[volume.name].UUID), Time: p.Created}
		if err := esp.Format(f, at[volume.name].Offset, at[volume.name].Size, spec, volume.files); err != nil {
			return err
		}
	}
	if err := fill(f, at[disk.RootA], p.Root); err != nil {
		return err
	}
	if err := fill(f, at[disk.VerityA], p.Verity); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(disk.FreshMark), at[disk.State].Offset); err != nil {
		return err
	}
	return writeTable(f, size, table)
}

// writeTable writes a partition table with go-diskfs.
func writeTable(f *os.File, size int64, table *disk.Table) error {
	sector := uint64(table.SectorSize)
	t := gpt.Table{LogicalSectorSize: table.SectorSize, PhysicalSectorSize: table.SectorSize, GUID: table.Disk.String(), ProtectiveMBR: true}
	for _, p := range table.Partitions {
		first := uint64(p.Offset) / sector
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: p.Number, Name: p.Name, Type: gpt.Type(p.Type.String()), GUID: p.UUID.String(), Attributes: p.Attributes,
			Start: first, End: first + uint64(p.Size)/sector - 1,
		})
	}
	if err := t.Write(f, size); err != nil {
		return fmt.Errorf("cannot write partition table: %w", err)
	}
	if size/int64(sector) > 1<<32 { // the protective MBR must then say all it can; go-diskfs says the low 32 bits
		if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 446+12); err != nil {
			return fmt.Errorf("cannot write partition table: %w", err)
		}
	}
	return f.Sync()
}

// fill copies a part into a partition.
func fill(f *os.File, to disk.Partition, p Part) error {
	if p.Size > to.Size {
		return fmt.Errorf("%s has %d bytes, the image needs %d", to.Name, to.Size, p.Size)
	}
	if err := copySparse(f, to.Offset, p); err != nil {
		return fmt.Errorf("cannot fill %s: %w", to.Name, err)
	}
	return nil
}

// copySparse copies a part into a file full of holes and leaves those that stay zero.
func copySparse(f io.WriterAt, offset int64, p Part) error {
	buffer, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	copied := int64(0)
	for {
		n, err := io.ReadFull(p.Content, buffer)
		if copied+int64(n) > p.Size {
			return fmt.Errorf("content is longer than the %d bytes it was said to have", p.Size)
		}
		if n > 0 && !bytes.Equal(buffer[:n], zero[:n]) {
			if _, err := f.WriteAt(buffer[:n], offset+copied); err != nil {
				return err
			}
		}
		copied += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			if copied != p.Size {
				return fmt.Errorf("content ends after %d of %d bytes", copied, p.Size)
			}
			return nil
		case err != nil:
			return err
		}
	}
}

// serialOf makes a volume serial of a partition's GUID.
func serialOf(g disk.GUID) uint32 {
	return uint32(g[0])<<24 | uint32(g[1])<<16 | uint32(g[2])<<8 | uint32(g[3])
}
