package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"roost/builder/deb"
	"roost/images"
)

// The parsed form of an index, made to be read fast: all numbers, then all texts in one block that the packages' strings
// point into. It is a cache of this program's own making, so a checksum against damage is enough; what it was made from
// had its digest verified.
//
//	magic, count and length of numbers (8 bytes each, little-endian), numbers (varints), texts, CRC-32C of all before
const parsedMagic = "roost packages 1\n"

var errParsed = errors.New("the parsed index is malformed")

// texts lists the strings of p that are kept. Suite and Origin are the snapshot's.
func texts(p *deb.Package) [16]*string {
	return [16]*string{
		&p.Name, (*string)(&p.Version), &p.Architecture, &p.MultiArch, &p.Priority, &p.Section, &p.Source, &p.Depends,
		&p.PreDepends, &p.Recommends, &p.Provides, &p.Conflicts, &p.Breaks, &p.Replaces, &p.Filename, (*string)(&p.SHA256),
	}
}

func parsedKey(index images.Digest) string { return index.Hex() + ".1" }

func (c *Cache) storeParsed(index images.Digest, list []deb.Package) error {
	return c.PutEntry(SectionParsed, parsedKey(index), func(w io.Writer) error {
		_, err := w.Write(encodePackages(list))
		return err
	})
}

func (c *Cache) loadParsed(index images.Digest) ([]deb.Package, error) {
	path, err := c.Entry(SectionParsed, parsedKey(index))
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := decodePackages(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return list, nil
}

func encodePackages(list []deb.Package) []byte {
	var numbers, text []byte
	for i := range list {
		p := &list[i]
		essential := uint64(0)
		if p.Essential {
			essential = 1
		}
		for _, n := range []uint64{uint64(p.Size), uint64(p.InstalledSize), essential} {
			numbers = binary.AppendUvarint(numbers, n)
		}
		for _, s := range texts(p) {
			numbers = binary.AppendUvarint(numbers, uint64(len(*s)))
			text = append(text, *s...)
		}
	}
	data := make([]byte, 0, len(parsedMagic)+16+len(numbers)+len(text)+4)
	data = append(data, parsedMagic...)
	data = binary.LittleEndian.AppendUint64(data, uint64(len(list)))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(numbers)))
	data = append(append(data, numbers...), text...)
	return appendChecksum(data)
}

func appendChecksum(data []byte) []byte {
	return binary.LittleEndian.AppendUint32(data, checksum(data))
}

func checksum(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

func decodePackages(data []byte) ([]deb.Package, error) {
	const head = len(parsedMagic) + 16
	if len(data) < head+4 || string(data[:len(parsedMagic)]) != parsedMagic {
		return nil, errParsed
	}
	body, sum := data[:len(data)-4], binary.LittleEndian.Uint32(data[len(data)-4:])
	if checksum(body) != sum {
		return nil, errors.New("the parsed index is damaged")
	}
	count, size := binary.LittleEndian.Uint64(data[len(parsedMagic):]), binary.LittleEndian.Uint64(data[len(parsedMagic)+8:])
	if size > uint64(len(body)-head) || count > size/19 { // each package has 19 numbers
		return nil, errParsed
	}
	r := parsedReader{numbers: body[head : head+int(size)], text: string(body[head+int(size):])}
	list := make([]deb.Package, count)
	for i := range list {
		p := &list[i]
		p.Size, p.InstalledSize, p.Essential = int64(r.number()), int64(r.number()), r.number() == 1
		for _, s := range texts(p) {
			*s = r.string()
		}
		if r.bad {
			return nil, errParsed
		}
	}
	return list, nil
}

type parsedReader struct {
	numbers []byte
	text    string
	bad     bool
}

func (r *parsedReader) number() uint64 {
	n, size := binary.Uvarint(r.numbers)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.numbers = r.numbers[size:]
	return n
}

func (r *parsedReader) string() string {
	n := r.number()
	if n > uint64(len(r.text)) {
		r.bad = true
		return ""
	}
	s := r.text[:n]
	r.text = r.text[n:]
	return s
}
