package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Names of the sections, in canonical order (UAPI.5), which is also the order in which they are measured.
const (
	sectionOSRelease   = ".osrel"
	sectionCommandLine = ".cmdline"
	sectionInitrd      = ".initrd"
	sectionUname       = ".uname"
	sectionSBAT        = ".sbat"
	sectionKernel      = ".linux"
)

// Parts is what a UKI is made of.
type Parts struct {
	Stub        []byte // linuxx64.efi.stub of systemd
	OSRelease   string // os-release(5) text; systemd-boot shows and sorts by it
	CommandLine string // one line; must hold exactly one roothash=
	Uname       string // kernel release
	SBAT        string // further SBAT lines, each ended by a newline, after the stub's own
	Kernel      []byte
	Initrd      []byte
}

// Assemble makes an unsigned UKI.
func Assemble(p Parts) ([]byte, error) {
	if _, err := RootHash(p.CommandLine); err != nil {
		return nil, fmt.Errorf("cannot assemble UKI: %w", err)
	}
	if bytes.ContainsAny([]byte(p.CommandLine), "\n\x00") {
		return nil, errors.New("cannot assemble UKI: the command line has more than one line")
	}
	out, err := assemble(p)
	if err != nil {
		return nil, fmt.Errorf("cannot assemble UKI: %w", err)
	}
	return out, nil
}

func assemble(p Parts) ([]byte, error) {
	h, err := parseHeader(int64(len(p.Stub)), func(n int) ([]byte, error) { return p.Stub[:n], nil })
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	w := &writer{header: *h, out: bytes.Clone(h.raw)}
	w.sections = nil
	clear(w.out[h.table:])
	sbat := []byte(nil)
	for _, s := range h.sections {
		data := p.Stub[s.Offset : s.Offset+s.Size]
		switch s.name() {
		case sectionSBAT: // replaced below by itself and the further lines
			sbat = bytes.TrimRight(data[:min(s.VirtualSize, s.Size)], "\x00")
		case sectionOSRelease, sectionCommandLine, sectionInitrd, sectionUname, sectionKernel:
			return nil, fmt.Errorf("stub has a section %s already", s.name())
		default:
			w.keep(s, data)
		}
	}
	w.add(sectionOSRelease, []byte(p.OSRelease))
	w.add(sectionCommandLine, []byte(p.CommandLine))
	w.add(sectionInitrd, p.Initrd)
	w.add(sectionUname, []byte(p.Uname))
	w.add(sectionSBAT, append(bytes.Clone(sbat), p.SBAT...))
	w.add(sectionKernel, p.Kernel)
	return w.finish()
}

// writer lays sections out.
type writer struct {
	header
	out   []byte
	added uint32 // bytes of added sections
}

// keep takes a section of the stub: its place in memory stays, its place in the file is the next.
func (w *writer) keep(s section, data []byte) {
	s.Offset = 0
	if s.Size != 0 {
		s.Offset = uint32(len(w.out))
		w.out = append(w.out, data...)
	}
	w.sections = append(w.sections, s)
}

// add puts a section after all others, at the next page in memory.
func (w *writer) add(name string, data []byte) {
	end := uint32(0)
	for _, s := range w.sections {
		end = max(end, s.VirtualAddress+max(s.VirtualSize, s.Size))
	}
	s := section{
		VirtualSize: uint32(len(data)), VirtualAddress: roundUp(end, pageSize), Offset: uint32(len(w.out)),
		Size: roundUp(uint32(len(data)), w.fileAlign()), Characteristics: readableData,
	}
	copy(s.Name[:], name)
	w.out = append(w.out, data...)
	w.out = append(w.out, make([]byte, s.Size-s.VirtualSize)...)
	w.sections = append(w.sections, s)
	w.added += s.Size
}

func (w *writer) fileAlign() uint32 {
	return binary.LittleEndian.Uint32(w.raw[w.opt+optFileAlign:])
}

func (w *writer) finish() ([]byte, error) {
	le := binary.LittleEndian
	memory := le.Uint32(w.raw[w.opt+optSecAlign:])
	if w.fileAlign() == 0 || len(w.raw)%int(w.fileAlign()) != 0 || memory == 0 || memory > pageSize || len(w.out) > maxFile {
		return nil, fmt.Errorf("stub with %d bytes of headers, alignments %d and %d, makes a file of %d", len(w.raw), w.fileAlign(), memory, len(w.out))
	}
	if w.table+len(w.sections)*sectionSize > len(w.raw) {
		return nil, fmt.Errorf("stub has no room for %d section headers", len(w.sections))
	}
	for i, s := range w.sections {
		if _, err := binary.Encode(w.out[w.table+i*sectionSize:], le, s); err != nil {
			return nil, err
		}
	}
	last := w.sections[len(w.sections)-1]
	le.PutUint16(w.out[w.coff+6:], uint16(len(w.sections)))
	clear(w.out[w.coff+12 : w.coff+20]) // no symbol table
	le.PutUint32(w.out[w.opt+optInitialised:], le.Uint32(w.raw[w.opt+optInitialised:])+w.added)
	le.PutUint32(w.out[w.opt+optImageSize:], roundUp(last.VirtualAddress+last.VirtualSize, pageSize))
	clear(w.out[w.opt+optSize+8*certDirectory:][:8]) // no signature
	clear(w.out[w.opt+optChecksum:][:4])
	le.PutUint32(w.out[w.opt+optChecksum:], Checksum(w.out))
	return w.out, nil
}

func roundUp(n, to uint32) uint32 { return (n + to - 1) / to * to }
