package ceph

import (
	"bytes"
	"encoding/binary"
	"errors"

	"io"
	"strings"
)

// labelSize is the place that BlueStore's label has at the begin of a disk.
const labelSize = 4096

// label is what BlueStore writes first on a disk (bluestore_bdev_label_t in src/os/bluestore/bluestore_types.cc).
type label struct {
	uuid string // of the OSD
	size uint64 // bytes
	meta map[string]string
}

// finished reports whether making the OSD came to its end.
func (l *label) finished() bool { return l.meta["mkfs_done"] == "yes" && l.meta["ready"] == "ready" }

// parseLabel reads a label; nil without an error when there is none.
func parseLabel(b []byte) (*label, error) {
	const magic = "bluestore block device\n"
	const text = len(magic) + 36 + 1
	if !bytes.HasPrefix(b, []byte(magic)) {
		return nil, nil
	}
	r := &decoder{rest: b[min(text, len(b)):]}
	version, _, length := r.bytes(1), r.bytes(1), r.number()
	if r.failed || length > len(r.rest) {
		return nil, errors.New("cannot read BlueStore label: it is cut off")
	}
	r.rest = r.rest[:length]
	out := &label{meta: map[string]string{}}
	if uuid := r.bytes(16); len(uuid) == 16 {
		out.uuid = formatUUID(uuid)
	}
	if size := r.bytes(8); len(size) == 8 {
		out.size = binary.LittleEndian.Uint64(size)
	}
	r.bytes(8) // time of making
	r.text()   // description
	if len(version) == 1 && version[0] >= 2 {
		for n := r.number(); n > 0 && !r.failed; n-- {
			key := r.text()
			out.meta[key] = r.text()
		}
	}
	if r.failed {
		return nil, errors.New("cannot read BlueStore label: it is cut off")
	}
	return out, nil
}

// decoder reads what Ceph's encoding wrote: little-endian numbers, texts with their length before them.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) bytes(n int) []byte {
	if d.failed || n < 0 || n > len(d.rest) {
		d.failed = true
		return nil
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) number() int {
	b := d.bytes(4)
	if len(b) != 4 {
		return 0
	}
	return int(binary.LittleEndian.Uint32(b))
}

func (d *decoder) text() string { return string(d.bytes(d.number())) }

// luksUUID reads the UUID of a LUKS header (version 2 of the on-disk format, section 2.1); empty when there is none.
func luksUUID(b []byte) string {
	if len(b) < 208 || !bytes.HasPrefix(b, []byte("LUKS\xba\xbe")) {
		return ""
	}
	text, _, _ := bytes.Cut(b[168:208], []byte{0})
	return string(text)
}

// contents is what a disk holds.
type contents struct {
	osd    *label // of an OSD
	luks   string // UUID of an encrypted disk
	others string // whatever else; empty for a blank disk
}

// edge is how much of either end of a disk must be zero for the disk to be blank: all places of known signatures are in it.
const edge = 4 << 20

// look finds out what a disk of size bytes holds; signatures names known formats.
func look(r io.ReaderAt, size int64, signatures func(io.ReaderAt, int64) ([]string, error)) (contents, error) {
	head := make([]byte, min(edge, size))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return contents{}, err
	}
	found, err := parseLabel(head[:min(labelSize, len(head))])
	if found != nil {
		return contents{osd: found}, nil
	}
	if err != nil {
		return contents{others: "a damaged BlueStore label"}, nil
	}
	if uuid := luksUUID(head); uuid != "" {
		return contents{luks: uuid, others: "LUKS"}, nil
	}
	names, err := signatures(r, size)
	if err != nil {
		return contents{}, err
	}
	if len(names) > 0 {
		return contents{others: strings.Join(names, "; ")}, nil
	}
	tail := make([]byte, min(edge, size))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return contents{}, err
	}
	for _, part := range [][]byte{head, tail} {
		if bytes.Count(part, []byte{0}) != len(part) {
			return contents{others: "data of an unknown kind"}, nil
		}
	}
	return contents{}, nil
}
