package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const sectorSize = 512 // granularity of everything here, whatever the record's own

// Entry is one recorded operation.
type Entry struct {
	Offset  int64 // on the disk, bytes
	Length  int64 // bytes; 0 for a mere flush
	Discard bool  // the content becomes zeros
	Flush   bool  // everything before this entry is on the medium
	FUA     bool  // this entry is on the medium when it completes

	data int64 // where its bytes are in the record
}

// Log is a record of what was written to a disk.
type Log struct {
	Entries []Entry
	data    io.ReaderAt
}

const (
	magic       = 0x6a736677736872 // of dm-log-writes, Documentation/admin-guide/device-mapper/log-writes.rst
	flagFlush   = 1 << 0
	flagFUA     = 1 << 1
	flagDiscard = 1 << 2
	flagMark    = 1 << 3
	maxEntries  = 1 << 24
)

// Open reads the record of size bytes that blklogwrites, or dm-log-writes, made. A last entry that is not complete is left
// out: the recorder itself may have been stopped.
func Open(r io.ReaderAt, size int64) (*Log, error) {
	var super struct {
		Magic, Version, Entries uint64
		SectorSize              uint32
	}
	if err := binary.Read(io.NewSectionReader(r, 0, size), binary.LittleEndian, &super); err != nil {
		return nil, fmt.Errorf("cannot read write log: %w", err)
	}
	sector := int64(super.SectorSize)
	switch {
	case super.Magic != magic || super.Version != 1:
		return nil, fmt.Errorf("cannot read write log: magic %x, version %d", super.Magic, super.Version)
	case sector < sectorSize || sector > 1<<16 || sector&(sector-1) != 0:
		return nil, fmt.Errorf("cannot read write log: sectors of %d bytes", sector)
	case super.Entries > maxEntries:
		return nil, fmt.Errorf("cannot read write log: %d entries, limit %d", super.Entries, maxEntries)
	}
	log := &Log{data: r}
	at := sector
	for range super.Entries {
		entry, next, err := readEntry(r, at, size, sector)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read write log at %d: %w", at, err)
		}
		if entry != nil {
			log.Entries = append(log.Entries, *entry)
		}
		at = next
	}
	return log, nil
}

// Bytes returns what the i-th entry wrote.
func (l *Log) Bytes(i int) ([]byte, error) {
	e := l.Entries[i]
	data := make([]byte, e.Length)
	if e.Discard {
		return data, nil
	}
	_, err := io.ReadFull(io.NewSectionReader(l.data, e.data, e.Length), data)
	return data, err
}

// readEntry reads the entry at offset at, nil for a mark, and returns where the next one is.
func readEntry(r io.ReaderAt, at, size, sector int64) (*Entry, int64, error) {
	var raw struct{ Sector, Sectors, Flags, DataLength uint64 }
	if at+sector > size {
		return nil, 0, io.ErrUnexpectedEOF
	}
	if err := binary.Read(io.NewSectionReader(r, at, sector), binary.LittleEndian, &raw); err != nil {
		return nil, 0, err
	}
	const limit = 1 << 54 // 2^63 bytes in sectors of 512
	if raw.Sector > limit/uint64(sector)*sectorSize || raw.Sectors > 1<<32 || raw.DataLength > 1<<32 {
		return nil, 0, fmt.Errorf("entry of %d sectors at %d", raw.Sectors, raw.Sector)
	}
	next := at + sector
	if raw.Flags&flagMark != 0 {
		return nil, next + (int64(raw.DataLength)+sector-1)/sector*sector, nil
	}
	entry := &Entry{Offset: int64(raw.Sector) * sector, Length: int64(raw.Sectors) * sector, data: next,
		Flush: raw.Flags&flagFlush != 0, FUA: raw.Flags&flagFUA != 0, Discard: raw.Flags&flagDiscard != 0}
	if entry.Length == 0 && raw.Flags == 0 {
		return nil, 0, errors.New("an entry of nothing: the recorder failed to write one")
	}
	if !entry.Discard {
		next += entry.Length
	}
	if next > size {
		return nil, 0, io.ErrUnexpectedEOF
	}
	return entry, next, nil
}
