package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

const (
	signature   = "EFI PART"
	revision    = 0x00010000
	headerSize  = 92
	entrySize   = 128
	entryCount  = 128 // what we write; readers take up to maxEntries
	maxEntries  = 1024
	entriesSize = entryCount * entrySize
	nameUnits   = 36 // UTF-16 units of a partition name
)

// ErrNoTable is returned when a disk holds no GPT at all, as a blank disk does; a damaged table is another error.
var ErrNoTable = errors.New("no GPT")

// Table is a partition table. Sizes and offsets are in bytes.
type Table struct {
	Disk       GUID        // names the disk
	SectorSize int         // logical sector, 512 or 4096
	Partitions []Partition // in entry order; unused entries left out
	FromBackup bool        // the primary copy was unreadable and the backup was taken; the next write repairs it
}

// Partition is one entry.
type Partition struct {
	Number     int // 1-based index of the entry, as Linux numbers partitions
	Name       string
	Type       GUID
	UUID       GUID // unique GUID, PARTUUID in Linux
	Offset     int64
	Size       int64
	Attributes uint64
}

// Find returns the first partition of that name.
func (t *Table) Find(name string) (Partition, bool) {
	for _, p := range t.Partitions {
		if p.Name == name {
			return p, true
		}
	}
	return Partition{}, false
}

// FindUUID returns the partition with that unique GUID.
func (t *Table) FindUUID(uuid GUID) (Partition, bool) {
	for _, p := range t.Partitions {
		if p.UUID == uuid {
			return p, true
		}
	}
	return Partition{}, false
}

// Read reads the table of a disk of size bytes, 512-byte sectors or 4096. The primary copy wins when it is whole, else the
// backup is taken. It returns ErrNoTable when neither copy bears a signature.
func Read(r io.ReaderAt, size int64) (*Table, error) {
	var damage error
	for _, sector := range []int64{512, 4096} {
		t, err := readCopy(r, size, sector, 1)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, ErrNoTable) && damage == nil {
			damage = err
		}
	}
	for _, sector := range []int64{512, 4096} {
		t, err := readCopy(r, size, sector, size/sector-1)
		if err == nil {
			t.FromBackup = true
			return t, nil
		}
		if !errors.Is(err, ErrNoTable) && damage == nil {
			damage = err
		}
	}
	if damage != nil {
		return nil, fmt.Errorf("cannot read partition table: %w", damage)
	}
	return nil, ErrNoTable
}

// header is the fixed part of a GPT header.
type header struct {
	Signature  [8]byte
	Revision   uint32
	HeaderSize uint32
	HeaderCRC  uint32
	Reserved   uint32
	MyLBA      uint64
	OtherLBA   uint64
	FirstLBA   uint64
	LastLBA    uint64
	Disk       GUID
	EntriesLBA uint64
	Entries    uint32
	EntrySize  uint32
	EntriesCRC uint32
}

// entry is one partition entry.
type entry struct {
	Type, UUID GUID
	First, End uint64 // End is inclusive
	Attributes uint64
	Name       [nameUnits]uint16
}

func readCopy(r io.ReaderAt, size, sector, lba int64) (*Table, error) {
	if size < 2*sector {
		return nil, ErrNoTable
	}
	raw := make([]byte, sector)
	if _, err := r.ReadAt(raw, lba*sector); err != nil && err != io.EOF {
		return nil, err
	}
	if !bytes.HasPrefix(raw, []byte(signature)) {
		return nil, ErrNoTable
	}
	h, err := parseHeader(raw, lba, size/sector)
	if err != nil {
		return nil, err
	}
	entries := make([]byte, int64(h.Entries)*entrySize)
	if _, err := r.ReadAt(entries, int64(h.EntriesLBA)*sector); err != nil {
		return nil, fmt.Errorf("entries: %w", err)
	}
	if sum := crc32.ChecksumIEEE(entries); sum != h.EntriesCRC {
		return nil, fmt.Errorf("entries have checksum %08x, header says %08x", sum, h.EntriesCRC)
	}
	t := &Table{Disk: h.Disk, SectorSize: int(sector)}
	if err := t.parseEntries(entries, h); err != nil {
		return nil, err
	}
	return t, nil
}

func parseHeader(raw []byte, lba, sectors int64) (header, error) {
	var h header
	if _, err := binary.Decode(raw[:headerSize], binary.LittleEndian, &h); err != nil {
		return h, err
	}
	if h.HeaderSize < headerSize || int(h.HeaderSize) > len(raw) {
		return h, fmt.Errorf("header size %d", h.HeaderSize)
	}
	sum := bytes.Clone(raw[:h.HeaderSize])
	clear(sum[16:20])
	if got := crc32.ChecksumIEEE(sum); got != h.HeaderCRC {
		return h, fmt.Errorf("header has checksum %08x, says %08x", got, h.HeaderCRC)
	}
	last := uint64(sectors) - 1
	switch {
	case h.MyLBA != uint64(lba):
		return h, fmt.Errorf("header at sector %d says it is at %d", lba, h.MyLBA)
	case h.EntrySize != entrySize:
		return h, fmt.Errorf("entry size %d", h.EntrySize)
	case h.Entries == 0 || h.Entries > maxEntries:
		return h, fmt.Errorf("%d entries", h.Entries)
	case h.FirstLBA > h.LastLBA || h.LastLBA > last:
		return h, fmt.Errorf("usable sectors %d to %d on a disk of %d", h.FirstLBA, h.LastLBA, sectors)
	case h.EntriesLBA == 0 || h.EntriesLBA > last:
		return h, fmt.Errorf("entries at sector %d", h.EntriesLBA)
	}
	return h, nil
}

func (t *Table) parseEntries(raw []byte, h header) error {
	for i := 0; i+entrySize <= len(raw); i += entrySize {
		var e entry
		if _, err := binary.Decode(raw[i:i+entrySize], binary.LittleEndian, &e); err != nil {
			return err
		}
		if e.Type.IsZero() {
			continue
		}
		number := i/entrySize + 1
		if e.First < h.FirstLBA || e.End > h.LastLBA || e.First > e.End {
			return fmt.Errorf("partition %d covers sectors %d to %d, usable are %d to %d", number, e.First, e.End, h.FirstLBA, h.LastLBA)
		}
		p := Partition{
			Number: number, Name: decodeName(e.Name), Type: e.Type, UUID: e.UUID, Attributes: e.Attributes,
			Offset: int64(e.First) * int64(t.SectorSize), Size: int64(e.End-e.First+1) * int64(t.SectorSize),
		}
		for _, q := range t.Partitions {
			if p.Offset < q.Offset+q.Size && q.Offset < p.Offset+p.Size {
				return fmt.Errorf("partitions %d and %d overlap", q.Number, number)
			}
		}
		t.Partitions = append(t.Partitions, p)
	}
	return nil
}

func decodeName(units [nameUnits]uint16) string {
	n := 0
	for n < nameUnits && units[n] != 0 {
		n++
	}
	return string(utf16.Decode(units[:n]))
}

// encode returns the entry array and both headers for a disk of size bytes. It refuses what Read would refuse.
func (t *Table) encode(size int64) (entries, primary, backup []byte, err error) {
	sector := int64(t.SectorSize)
	if sector != 512 && sector != 4096 {
		return nil, nil, nil, fmt.Errorf("sector size %d is neither 512 nor 4096", sector)
	}
	arraySectors := entriesSize / sector
	last := size/sector - 1
	first, end := 2+arraySectors, last-arraySectors-1
	if first > end {
		return nil, nil, nil, fmt.Errorf("a disk of %d bytes has no room for a partition table", size)
	}
	h := header{
		Signature: [8]byte([]byte(signature)), Revision: revision, HeaderSize: headerSize, MyLBA: 1, OtherLBA: uint64(last),
		FirstLBA: uint64(first), LastLBA: uint64(end), Disk: t.Disk, EntriesLBA: 2, Entries: entryCount, EntrySize: entrySize,
	}
	if entries, err = t.encodeEntries(); err != nil {
		return nil, nil, nil, err
	}
	check := Table{SectorSize: t.SectorSize}
	if err := check.parseEntries(entries, h); err != nil {
		return nil, nil, nil, err
	}
	h.EntriesCRC = crc32.ChecksumIEEE(entries)
	primary = encodeHeader(h, sector)
	h.MyLBA, h.OtherLBA, h.EntriesLBA = h.OtherLBA, h.MyLBA, uint64(end+1)
	return entries, primary, encodeHeader(h, sector), nil
}

func (t *Table) encodeEntries() ([]byte, error) {
	entries := make([]byte, entriesSize)
	sector := int64(t.SectorSize)
	for _, p := range t.Partitions {
		name := utf16.Encode([]rune(p.Name))
		if p.Number < 1 || p.Number > entryCount || len(name) > nameUnits || p.Offset%sector != 0 || p.Size%sector != 0 || p.Offset < 0 || p.Size <= 0 {
			return nil, fmt.Errorf("partition %d %q at %d with %d bytes cannot be an entry", p.Number, p.Name, p.Offset, p.Size)
		}
		e := entry{Type: p.Type, UUID: p.UUID, First: uint64(p.Offset / sector), End: uint64((p.Offset+p.Size)/sector) - 1, Attributes: p.Attributes}
		copy(e.Name[:], name)
		at := entries[(p.Number-1)*entrySize:][:entrySize]
		if !bytes.Equal(at, make([]byte, entrySize)) {
			return nil, fmt.Errorf("two partitions are number %d", p.Number)
		}
		if _, err := binary.Encode(at, binary.LittleEndian, &e); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func encodeHeader(h header, sector int64) []byte {
	raw := make([]byte, sector)
	h.HeaderCRC = 0
	binary.Encode(raw, binary.LittleEndian, &h) // cannot fail: raw is longer than a header
	binary.LittleEndian.PutUint32(raw[16:], crc32.ChecksumIEEE(raw[:headerSize]))
	return raw
}
