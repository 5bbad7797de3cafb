package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"roost/images"
)

// magic opens every encoding; the digit is the version.
const magic = "roost tree 1\n"

// maxField bounds one string of an encoding: paths, targets and attribute values are far smaller in Linux (64 KiB).
const maxField = 1 << 16

// Encode returns the canonical form: equal trees have equal encodings and [Decode] accepts no other form. Paths share the
// prefix of the entry before, numbers are unsigned varints (encoding/binary), digests are 32 raw bytes.
func (t Tree) Encode() []byte {
	b := append(make([]byte, 0, len(magic)+len(t.entries)*64), magic...)
	b = binary.AppendUvarint(b, uint64(len(t.entries)))
	before := ""
	for _, e := range t.entries {
		n := sharedPrefix(before, e.Path)
		b = binary.AppendUvarint(b, uint64(n))
		b = appendString(b, e.Path[n:])
		before = e.Path
		b = append(b, byte(e.Type))
		for _, v := range []uint32{e.Mode, e.UID, e.GID} {
			b = binary.AppendUvarint(b, uint64(v))
		}
		switch e.Type {
		case File:
			raw, _ := hex.DecodeString(e.Blob.Hex()) // valid in every tree
			b = append(b, raw...)
			b = binary.AppendUvarint(b, uint64(e.Size))
		case Symlink:
			b = appendString(b, e.Target)
		case CharDevice, BlockDevice:
			b = binary.AppendUvarint(b, uint64(e.Major))
			b = binary.AppendUvarint(b, uint64(e.Minor))
		}
		b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
		for _, x := range e.Xattrs {
			b = appendString(b, x.Name)
			b = appendString(b, string(x.Value))
		}
	}
	return b
}

// Digest names the tree: the digest of its encoding.
func (t Tree) Digest() images.Digest { return images.DigestOf(t.Encode()) }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func sharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Decode reads what [Tree.Encode] wrote. It trusts nothing: any other form, and any tree that [New] would refuse, is an
// error.
func Decode(b []byte) (Tree, error) {
	d := decoder{rest: b}
	if string(d.take(len(magic))) != magic {
		return Tree{}, errors.New("cannot decode tree: it does not begin with a tree's first line")
	}
	count := d.number()
	if d.err != nil {
		return Tree{}, fmt.Errorf("cannot decode tree: %w", d.err)
	}
	if count > uint64(len(b)) { // an entry takes more than a byte
		return Tree{}, errors.New("cannot decode tree: more entries than bytes")
	}
	entries := make([]Entry, 0, count)
	before := ""
	for range count {
		e := d.entry(before)
		if d.err != nil {
			return Tree{}, fmt.Errorf("cannot decode tree: entry %d: %w", len(entries), d.err)
		}
		before = e.Path
		entries = append(entries, e)
	}
	if len(d.rest) != 0 {
		return Tree{}, fmt.Errorf("cannot decode tree: %d bytes after its end", len(d.rest))
	}
	t, err := fromSorted(entries)
	if err != nil {
		return Tree{}, fmt.Errorf("cannot decode tree: %w", err)
	}
	return t, nil
}

// decoder takes values off rest until the first error, which it keeps.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) entry(before string) Entry {
	var e Entry
	shared := d.number()
	suffix := d.text()
	if shared > uint64(len(before)) {
		d.fail(fmt.Errorf("path shares %d bytes of %d", shared, len(before)))
		return e
	}
	e.Path = before[:shared] + suffix
	if sharedPrefix(before, e.Path) != int(shared) {
		d.fail(errors.New("path shares more than stated"))
	}
	if kind := d.take(1); d.err == nil {
		e.Type = Type(kind[0])
	}
	e.Mode, e.UID, e.GID = d.number32(), d.number32(), d.number32()
	switch e.Type {
	case File:
		e.Blob = images.Digest("sha256:" + hex.EncodeToString(d.take(sha256.Size)))
		e.Size = int64(d.number())
	case Symlink:
		e.Target = d.text()
	case CharDevice, BlockDevice:
		e.Major, e.Minor = d.number32(), d.number32()
	}
	for n := d.number(); n > 0 && d.err == nil; n-- {
		e.Xattrs = append(e.Xattrs, Xattr{Name: d.text(), Value: []byte(d.text())})
	}
	return e
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err, d.rest = err, nil
	}
}

func (d *decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.fail(io.ErrUnexpectedEOF)
	}
	if d.err != nil {
		return nil
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || n > 1 && d.rest[n-1] == 0 { // a last byte of zero is a longer form of a shorter number
		d.fail(errors.New("bad number"))
		return 0
	}
	d.take(n)
	return v
}

func (d *decoder) number32() uint32 {
	v := d.number()
	if v > 1<<32-1 {
		d.fail(errors.New("number too large"))
	}
	return uint32(v)
}

func (d *decoder) text() string {
	n := d.number()
	if n > maxField {
		d.fail(errors.New("field too long"))
		return ""
	}
	return string(d.take(int(n)))
}
