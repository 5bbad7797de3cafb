package xz

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
)

const (
	headerMagic = "\xfd7zXZ\x00"
	footerMagic = "YZ"
	headerSize  = 12
	filterLZMA2 = 0x21
)

// Types of check (section 2.1.1.2 of the specification).
const (
	checkNone   = 0
	checkCRC32  = 1
	checkCRC64  = 4
	checkSHA256 = 10
)

func checkSize(kind byte) int {
	return [...]int{checkNone: 0, checkCRC32: 4, checkCRC64: 8, checkSHA256: sha256.Size}[kind]
}

func newCheck(kind byte) hash.Hash {
	switch kind {
	case checkCRC32:
		return crc32.NewIEEE()
	case checkCRC64:
		return crc64.New(crc64.MakeTable(crc64.ECMA))
	case checkSHA256:
		return sha256.New()
	}
	return nil
}

// checkEqual compares with a stored value, which is little-endian for the CRCs.
func checkEqual(h hash.Hash, stored []byte) bool {
	switch h := h.(type) {
	case hash.Hash32:
		return h.Sum32() == binary.LittleEndian.Uint32(stored)
	case hash.Hash64:
		return h.Sum64() == binary.LittleEndian.Uint64(stored)
	}
	return bytes.Equal(h.Sum(nil), stored)
}

func (x *Reader) streamHeader() error {
	var head [headerSize]byte
	if err := x.fill(head[:]); err != nil {
		return err
	}
	if string(head[:6]) != headerMagic {
		return errors.New("it does not begin as xz does")
	}
	if sum32(head[6:8]) != binary.LittleEndian.Uint32(head[8:]) {
		return errCorrupt
	}
	x.checkType = head[7]
	switch {
	case head[6] != 0 || x.checkType > 15:
		return errors.New("its stream flags are of a later version of the format")
	case x.checkType != checkNone && x.checkType != checkCRC32 && x.checkType != checkCRC64 && x.checkType != checkSHA256:
		return fmt.Errorf("check type %d is not supported", x.checkType)
	}
	x.blocks = x.blocks[:0]
	return nil
}

// blockHeader reads the rest of a block header, of which first is the first byte.
func (x *Reader) blockHeader(first byte) error {
	head := make([]byte, (int(first)+1)*4)
	head[0] = first
	if err := x.fill(head[1:]); err != nil {
		return err
	}
	body := head[:len(head)-4]
	if sum32(body) != binary.LittleEndian.Uint32(head[len(body):]) {
		return errCorrupt
	}
	x.block = block{header: int64(len(head)), compressed: -1, expected: -1}
	flags, fields := body[1], body[2:]
	ok := flags&0x3c == 0
	if flags&0x40 != 0 {
		x.block.compressed, fields, ok = takeNumber(fields, ok)
	}
	if flags&0x80 != 0 {
		x.block.expected, fields, ok = takeNumber(fields, ok)
	}
	id, fields, ok := takeNumber(fields, ok)
	if !ok {
		return errCorrupt
	}
	if flags&3 != 0 || id != filterLZMA2 {
		return errors.New("it uses filters other than LZMA2, which are not supported")
	}
	if len(fields) < 2 || fields[0] != 1 || len(bytes.Trim(fields[2:], "\x00")) > 0 {
		return errCorrupt
	}
	return x.startBlock(fields[1])
}

// startBlock prepares for the chunks of a block. dict is the coded size of the dictionary.
func (x *Reader) startBlock(dict byte) error {
	if dict > 40 {
		return errCorrupt
	}
	size := int64(1)<<32 - 1
	if dict < 40 {
		size = int64(2|dict&1) << (dict/2 + 11)
	}
	if size > x.maxDict {
		return fmt.Errorf("it needs a dictionary of %d bytes, more than the limit of %d", size, x.maxDict)
	}
	x.inBlock, x.read, x.needDict, x.needProperties = true, 0, true, true
	x.lzma.dict, x.start, x.given, x.end = int(size), 0, 0, 0
	x.check = newCheck(x.checkType)
	return nil
}

// indexAndFooter reads what follows the last block of a stream, after the zero byte that tells it from a block.
func (x *Reader) indexAndFooter() error {
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	r := &summedReader{x: x, sum: sum, size: 1}
	count := r.number()
	if r.err == nil && count != int64(len(x.blocks)) {
		return errCorrupt
	}
	for _, b := range x.blocks {
		if unpadded, size := r.number(), r.number(); r.err == nil && (unpadded != b.unpadded || size != b.size) {
			return errCorrupt
		}
	}
	for r.size%4 != 0 && r.err == nil {
		if r.byte() != 0 {
			return errCorrupt
		}
	}
	if r.err != nil {
		return r.err
	}
	var tail [4 + headerSize]byte
	if err := x.fill(tail[:]); err != nil {
		return err
	}
	footer := tail[4:]
	switch {
	case binary.LittleEndian.Uint32(tail[:]) != sum.Sum32(),
		binary.LittleEndian.Uint32(footer) != sum32(footer[4:10]),
		(int64(binary.LittleEndian.Uint32(footer[4:]))+1)*4 != r.size+4,
		footer[8] != 0 || footer[9] != x.checkType,
		string(footer[10:]) != footerMagic:
		return errCorrupt
	}
	return nil
}

// nextStream passes padding and reads the header of a further stream. At the end it returns io.EOF.
func (x *Reader) nextStream() error {
	for {
		head, err := x.src.Peek(4)
		if err == io.EOF && len(head) == 0 {
			return io.EOF
		}
		if err != nil {
			return cutShort(err)
		}
		if !bytes.Equal(head, []byte{0, 0, 0, 0}) {
			return x.streamHeader()
		}
		if _, err := x.src.Discard(4); err != nil {
			return err
		}
	}
}

// summedReader reads the index byte by byte.
type summedReader struct {
	x    *Reader
	sum  hash.Hash32
	size int64
	err  error
}

func (r *summedReader) byte() byte {
	b, err := r.x.src.ReadByte()
	if err != nil && r.err == nil {
		r.err = cutShort(err)
	}
	r.sum.Write([]byte{b})
	r.size++
	return b
}

// number reads a multibyte integer (section 1.2).
func (r *summedReader) number() int64 {
	var coded [9]byte
	for i := range coded {
		coded[i] = r.byte()
		if r.err != nil {
			return 0
		}
		if coded[i] < 0x80 {
			n, _, ok := takeNumber(coded[:i+1], true)
			if !ok {
				r.err = errCorrupt
			}
			return n
		}
	}
	r.err = errCorrupt
	return 0
}

// takeNumber takes a multibyte integer off b. It must be in its shortest form. When ok is false already nothing is done.
func takeNumber(b []byte, ok bool) (int64, []byte, bool) {
	n := int64(0)
	for i := 0; ok && i < len(b) && i < 9; i++ {
		n |= int64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return n, b[i+1:], i == 0 || b[i] != 0
		}
	}
	return 0, b, false
}
