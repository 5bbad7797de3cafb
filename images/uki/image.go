package uki

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Image is a UKI opened for reading.
type Image struct {
	r        io.ReaderAt
	sections map[string]section
}

// maxText bounds the sections that are read whole.
const maxText = 64 << 10

// Open reads the headers of a UKI of size bytes, signed or not, and checks that its parts are all there, once each, within
// the file.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	h, err := parseHeader(size, func(n int) ([]byte, error) {
		b := make([]byte, n)
		_, err := r.ReadAt(b, 0)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open UKI: %w", err)
	}
	i := &Image{r: r, sections: map[string]section{}}
	for _, s := range h.sections {
		if _, twice := i.sections[s.name()]; twice {
			return nil, fmt.Errorf("cannot open UKI: two sections %s", s.name())
		}
		i.sections[s.name()] = s
	}
	for _, name := range []string{sectionOSRelease, sectionCommandLine, sectionInitrd, sectionUname, sectionKernel} {
		s, ok := i.sections[name]
		if !ok || s.VirtualSize > s.Size {
			return nil, fmt.Errorf("cannot open UKI: no section %s, or one longer than its data", name)
		}
	}
	if _, err := i.CommandLine(); err != nil {
		return nil, fmt.Errorf("cannot open UKI: %w", err)
	}
	return i, nil
}

// CommandLine returns the kernel command line. It holds exactly one root hash.
func (i *Image) CommandLine() (string, error) {
	line, err := i.text(sectionCommandLine)
	if err != nil {
		return "", err
	}
	if _, err := RootHash(line); err != nil {
		return "", err
	}
	return line, nil
}

// OSRelease returns the os-release text.
func (i *Image) OSRelease() (string, error) { return i.text(sectionOSRelease) }

// Uname returns the kernel release.
func (i *Image) Uname() (string, error) { return i.text(sectionUname) }

// Kernel returns the kernel, a bzImage on x86-64.
func (i *Image) Kernel() *io.SectionReader { return i.section(sectionKernel) }

// Initrd returns the initrd as packed.
func (i *Image) Initrd() *io.SectionReader { return i.section(sectionInitrd) }

func (i *Image) section(name string) *io.SectionReader {
	s := i.sections[name]
	return io.NewSectionReader(i.r, int64(s.Offset), int64(s.VirtualSize))
}

func (i *Image) text(name string) (string, error) {
	r := i.section(name)
	if r.Size() > maxText {
		return "", fmt.Errorf("section %s has %d bytes, more than text has", name, r.Size())
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("cannot read section %s: %w", name, err)
	}
	if int64(len(b)) != r.Size() {
		return "", fmt.Errorf("cannot read section %s: %w", name, io.ErrUnexpectedEOF)
	}
	return strings.TrimRight(string(bytes.TrimRight(b, "\x00")), " \n"), nil
}

// ErrRootHash is in every error of RootHash.
var ErrRootHash = errors.New("command line must have exactly one roothash= of 64 lower-case hexadecimal digits")

// RootHash returns the root hash that a kernel command line names. A line without one, with two, even if equal, or with one
// that is quoted or malformed is refused: nothing ambiguous decides what runs.
func RootHash(line string) (string, error) {
	if strings.Count(line, "roothash") != 1 {
		return "", ErrRootHash
	}
	for _, word := range strings.Fields(line) {
		value, ok := strings.CutPrefix(word, "roothash=")
		if !ok {
			continue
		}
		if len(value) != 64 || strings.Trim(value, "0123456789abcdef") != "" {
			return "", ErrRootHash
		}
		return value, nil
	}
	return "", ErrRootHash
}
