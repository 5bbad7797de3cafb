package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Offsets and sizes in PE32+ headers (Microsoft PE format, "Optional Header (Image Only)").
const (
	dosHeader      = 64
	peOffsetAt     = 0x3c
	coffSize       = 24 // signature included
	optSize        = 112
	sectionSize    = 40
	maxSections    = 64
	maxFile        = 1 << 30
	machineAMD64   = 0x8664
	machineARM64   = 0xaa64
	magicPE32Plus  = 0x20b
	pageSize       = 4096
	readableData   = 0x40000040 // initialised data, readable
	certDirectory  = 4
	optInitialised = 8
	optSecAlign    = 32
	optFileAlign   = 36
	optImageSize   = 56
	optHeaderSize  = 60
	optChecksum    = 64
	optDirectories = 108
)

// header is the part of a PE file before its sections.
type header struct {
	raw      []byte // up to SizeOfHeaders
	coff     int    // offset of the signature
	opt      int    // offset of the optional header
	table    int    // offset of the section table
	sections []section
}

// section is one entry of the section table.
type section struct {
	Name            [8]byte
	VirtualSize     uint32
	VirtualAddress  uint32
	Size            uint32   // of raw data, padding included
	Offset          uint32   // of raw data
	Unused          [12]byte // relocations and line numbers, which images have not
	Characteristics uint32
}

func (s section) name() string { return string(bytes.TrimRight(s.Name[:], "\x00")) }

// parseHeader checks the headers of a PE file of size bytes. read returns the first n bytes of the file.
func parseHeader(size int64, read func(n int) ([]byte, error)) (*header, error) {
	if size < dosHeader || size > maxFile {
		return nil, fmt.Errorf("%d bytes is no size for one", size)
	}
	dos, err := read(dosHeader)
	if err != nil {
		return nil, err
	}
	coff := int(binary.LittleEndian.Uint32(dos[peOffsetAt:]))
	if dos[0] != 'M' || dos[1] != 'Z' || coff < dosHeader || coff > 4096 {
		return nil, errors.New("no MZ header")
	}
	end := coff + coffSize + optSize
	if int64(end) > size {
		return nil, errors.New("headers are cut off")
	}
	raw, err := read(end)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	h := &header{coff: coff, opt: coff + coffSize}
	count, optional := int(le.Uint16(raw[coff+6:])), int(le.Uint16(raw[coff+20:]))
	machine := le.Uint16(raw[coff+4:])
	directories := int(le.Uint32(raw[h.opt+optDirectories:]))
	switch {
	case !bytes.Equal(raw[coff:coff+4], []byte("PE\x00\x00")):
		return nil, errors.New("no PE signature")
	case machine != machineAMD64 && machine != machineARM64:
		return nil, fmt.Errorf("machine %#x is neither x86-64 nor AArch64", machine)
	case le.Uint16(raw[h.opt:]) != magicPE32Plus:
		return nil, errors.New("not PE32+")
	case count == 0 || count > maxSections:
		return nil, fmt.Errorf("%d sections", count)
	case directories <= certDirectory || directories > 16 || optional != optSize+8*directories:
		return nil, fmt.Errorf("optional header of %d bytes with %d directories", optional, directories)
	}
	h.table = h.opt + optional
	headers := int(le.Uint32(raw[h.opt+optHeaderSize:]))
	if headers < h.table+count*sectionSize || headers > 1<<16 || int64(headers) > size {
		return nil, fmt.Errorf("size of headers %d", headers)
	}
	if h.raw, err = read(headers); err != nil {
		return nil, err
	}
	return h, h.parseSections(count, size)
}

// parseSections checks that the sections lie one behind the other without gaps, which is what makes hashing the file and
// hashing its sections the same.
func (h *header) parseSections(count int, size int64) error {
	next := uint32(len(h.raw))
	for i := range count {
		var s section
		if _, err := binary.Decode(h.raw[h.table+i*sectionSize:][:sectionSize], binary.LittleEndian, &s); err != nil {
			return err
		}
		if s.Size != 0 {
			if s.Offset != next || int64(s.Offset)+int64(s.Size) > size {
				return fmt.Errorf("section %q at %d with %d bytes; the one before ends at %d, the file at %d", s.name(), s.Offset, s.Size, next, size)
			}
			next += s.Size
		}
		h.sections = append(h.sections, s)
	}
	return nil
}

// Checksum computes the PE checksum of a file whose checksum field holds zero, and whose length is a multiple of 2. Firmware
// does not look at it; tools do.
func Checksum(file []byte) uint32 {
	sum := uint64(0)
	for b := file; len(b) >= 2; b = b[2:] {
		sum += uint64(binary.LittleEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint32(sum) + uint32(len(file))
}

// Places says where a PE file keeps what its signature does not cover.
type Places struct {
	Checksum     int // offset of the 4-byte checksum
	Directory    int // offset of the 8-byte directory entry that finds the signatures
	End          int // end of what is signed
	Certificates int // start of the signatures, the length of the file when there are none
}

// Layout checks a PE file strictly enough that everything in it is either signed or a signature, and says where.
func Layout(pe []byte) (Places, error) {
	h, err := parseHeader(int64(len(pe)), func(n int) ([]byte, error) { return pe[:n], nil })
	if err != nil {
		return Places{}, err
	}
	end := len(h.raw)
	for _, s := range h.sections {
		end = max(end, int(s.Offset+s.Size))
	}
	p := Places{Checksum: h.opt + optChecksum, Directory: h.opt + optSize + 8*certDirectory}
	at, size := int64(binary.LittleEndian.Uint32(pe[p.Directory:])), int64(binary.LittleEndian.Uint32(pe[p.Directory+4:]))
	if size == 0 {
		p.End, p.Certificates = len(pe), len(pe)
		return p, nil
	}
	if at < int64(end) || at%8 != 0 || at+size != int64(len(pe)) {
		return Places{}, fmt.Errorf("signatures at %d with %d bytes in a file of %d whose sections end at %d", at, size, len(pe), end)
	}
	p.End, p.Certificates = int(at), int(at)
	return p, nil
}
