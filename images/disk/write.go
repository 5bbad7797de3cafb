package disk

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Device is a disk or an image of one, open for writing. *os.File is one.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error // returns when everything written is on stable storage
}

// Write puts the table on a device of size bytes: protective MBR, both copies. A crash at any point leaves the old table
// readable, or the new one: first the backup copy is written and flushed, then the primary.
func (t *Table) Write(d Device, size int64) error {
	entries, primary, backup, err := t.encode(size)
	if err != nil {
		return fmt.Errorf("cannot write partition table: %w", err)
	}
	sector := int64(t.SectorSize)
	last := (size/sector - 1) * sector
	steps := []struct {
		data   []byte
		offset int64
		flush  bool
	}{
		{entries, last - entriesSize, false},
		{backup, last, true},
		{protectiveMBR(size / sector), 0, false}, // 512 bytes on any sector size; the code area before it stays as written: zero
		{entries, 2 * sector, false},
		{primary, sector, true},
	}
	for _, s := range steps {
		if _, err := d.WriteAt(s.data, s.offset); err != nil {
			return fmt.Errorf("cannot write partition table: %w", err)
		}
		if !s.flush {
			continue
		}
		if err := d.Sync(); err != nil {
			return fmt.Errorf("cannot write partition table: %w", err)
		}
	}
	return nil
}

// SetUUIDs gives partitions, named by their GPT names, new unique GUIDs, durably and all at once: after a crash either all
// have the new GUIDs or none has. Doing it again does no harm and repairs a copy that a crash left behind.
func SetUUIDs(d Device, size int64, uuids map[string]GUID) error {
	t, err := Read(d, size)
	if err != nil {
		return err
	}
	found := 0
	for i, p := range t.Partitions {
		if uuid, ok := uuids[p.Name]; ok {
			t.Partitions[i].UUID = uuid
			found++
		}
	}
	if found != len(uuids) {
		return fmt.Errorf("cannot rename partitions: %d of %d names are in the table", found, len(uuids))
	}
	return t.Write(d, size)
}

// protectiveMBR returns the first 512 bytes of a GPT disk (UEFI 2.10, 5.2.3).
func protectiveMBR(sectors int64) []byte {
	b := make([]byte, 512)
	e := b[446:]
	copy(e, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 0xffffffff)))
	b[510], b[511] = 0x55, 0xaa
	return b
}
