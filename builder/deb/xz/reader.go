package xz

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// maxChunk is the largest output of an LZMA2 chunk.
const maxChunk = 2 << 20

// Reader unpacks .xz streams, one after another.
type Reader struct {
	src     *bufio.Reader
	maxDict int64
	err     error // sticky; io.EOF at the end

	checkType byte
	blocks    []block // of the current stream, to compare with its index
	block     block
	inBlock   bool
	read      int64 // bytes of the current block's compressed data
	check     hash.Hash

	// Output is unpacked into window[start:end]; window[given:end] has not been handed out. What lies before is kept as
	// the dictionary.
	window            []byte
	start, given, end int
	total             uint64 // bytes since the last reset of the dictionary

	needDict, needProperties bool
	lzma                     *lzma
	in                       *input
}

// block is a block's entry in the index.
type block struct {
	unpadded int64 // header, compressed data and check
	size     int64 // uncompressed

	header     int64
	compressed int64 // as the header says, -1 when it does not
	expected   int64 // uncompressed size as the header says, -1 when it does not
}

// maxBlocks bounds the memory for the index. xz -T makes a block for every 24 MiB.
const maxBlocks = 1 << 20

// NewReader reads the first stream header. Blocks that need a dictionary larger than maxDict bytes are refused.
func NewReader(r io.Reader, maxDict int64) (*Reader, error) {
	x := &Reader{lzma: new(lzma), in: new(input)}
	if err := x.Reset(r, maxDict); err != nil {
		return nil, err
	}
	return x, nil
}

// Reset begins anew with another source, as NewReader does, and keeps the memory: megabytes for each dictionary.
func (x *Reader) Reset(r io.Reader, maxDict int64) error {
	src, ok := r.(*bufio.Reader)
	if !ok {
		src = bufio.NewReaderSize(r, 64<<10)
	}
	*x = Reader{src: src, maxDict: maxDict, lzma: x.lzma, in: x.in, window: x.window, blocks: x.blocks[:0]}
	if err := x.streamHeader(); err != nil {
		x.err = fmt.Errorf("cannot read xz: %w", err)
		return x.err
	}
	return nil
}

// Read implements io.Reader.
func (x *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for x.given == x.end {
		if err := x.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, x.window[x.given:x.end])
	x.given += n
	return n, nil
}

// WriteTo implements io.WriterTo, which saves a copy.
func (x *Reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		n, err := w.Write(x.window[x.given:x.end])
		x.given += n
		written += int64(n)
		if err != nil {
			return written, err
		}
		if err := x.more(); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
	}
}

// more unpacks the next chunk, or passes what stands between chunks.
func (x *Reader) more() error {
	if x.err == nil {
		if x.err = x.advance(); x.err != nil && x.err != io.EOF {
			x.err = fmt.Errorf("cannot read xz: %w", x.err)
		}
	}
	return x.err
}

func (x *Reader) advance() error {
	if x.inBlock {
		return x.chunk()
	}
	first, err := x.src.ReadByte()
	if err != nil {
		return cutShort(err)
	}
	if first != 0 {
		return x.blockHeader(first)
	}
	if err := x.indexAndFooter(); err != nil {
		return err
	}
	return x.nextStream()
}

func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fill reads all of p from the source.
func (x *Reader) fill(p []byte) error {
	_, err := io.ReadFull(x.src, p)
	return cutShort(err)
}

// chunk unpacks one LZMA2 chunk.
func (x *Reader) chunk() error {
	var head [6]byte
	if err := x.fill(head[:1]); err != nil {
		return err
	}
	x.read++
	control := head[0]
	if control == 0 {
		return x.blockEnd()
	}
	if control >= 3 && control < 0x80 {
		return errCorrupt
	}
	if control == 1 || control >= 0xe0 {
		x.needDict, x.needProperties, x.start, x.total = false, true, x.end, 0
	} else if x.needDict {
		return errCorrupt
	}
	n := 2 // bytes of the header that follow
	if control >= 0xc0 {
		n = 5
	} else if control >= 0x80 {
		n = 4
	}
	if err := x.fill(head[1 : 1+n]); err != nil {
		return err
	}
	x.read += int64(n)
	if control < 0x80 {
		return x.storedChunk(int(binary.BigEndian.Uint16(head[1:])) + 1)
	}
	size := int(control&0x1f)<<16 + int(binary.BigEndian.Uint16(head[1:])) + 1
	compressed := int(binary.BigEndian.Uint16(head[3:])) + 1
	switch {
	case control >= 0xc0:
		if !x.lzma.setProperties(head[5]) {
			return errCorrupt
		}
		x.needProperties = false
		x.lzma.reset()
	case x.needProperties:
		return errCorrupt
	case control >= 0xa0:
		x.lzma.reset()
	}
	return x.lzmaChunk(size, compressed)
}

func (x *Reader) storedChunk(size int) error {
	x.makeRoom(size)
	if err := x.fill(x.window[x.end : x.end+size]); err != nil {
		return err
	}
	return x.unpacked(size, size)
}

func (x *Reader) lzmaChunk(size, compressed int) error {
	if compressed < 5 {
		return errCorrupt
	}
	if err := x.fill(x.in[:compressed]); err != nil {
		return err
	}
	x.makeRoom(size)
	if err := x.lzma.decode(x.in, compressed, x.window, x.start, x.end, x.end+size, x.total); err != nil {
		return err
	}
	return x.unpacked(size, compressed)
}

// unpacked accounts for a chunk that stands at the end of the window.
func (x *Reader) unpacked(size, compressed int) error {
	x.read += int64(compressed)
	x.total += uint64(size)
	x.block.size += int64(size)
	if x.block.expected >= 0 && x.block.size > x.block.expected {
		return errCorrupt
	}
	if x.check != nil {
		x.check.Write(x.window[x.end : x.end+size])
	}
	x.end += size
	return nil
}

// makeRoom makes room for size bytes at the end of the window: by a larger one as long as that is reasonable, else by
// dropping what is older than the dictionary. All output has been handed out when it is called.
func (x *Reader) makeRoom(size int) {
	need := x.end + size + slack
	if need <= len(x.window) {
		return
	}
	largest := 2*x.lzma.dict + maxChunk + slack // so that moving the dictionary costs at most one byte for each one unpacked
	if need > largest {
		from := max(x.start, x.end-x.lzma.dict)
		x.end = copy(x.window, x.window[from:x.end])
		x.start, x.given = max(x.start-from, 0), x.end
		need = x.end + size + slack
		if need <= len(x.window) {
			return
		}
	}
	grown := max(need, 2*len(x.window), 64<<10)
	if x.block.expected >= 0 && x.block.expected < int64(grown) {
		grown = max(need, int(x.block.expected)+slack) // the whole block, and no more
	}
	window := make([]byte, min(grown, largest))
	copy(window, x.window[:x.end])
	x.window = window
}

// blockEnd checks sizes, padding and check value.
func (x *Reader) blockEnd() error {
	b := &x.block
	if (b.compressed >= 0 && b.compressed != x.read) || (b.expected >= 0 && b.expected != b.size) {
		return errCorrupt
	}
	var tail [3 + 32]byte
	padding := int(-x.read & 3)
	stored := tail[padding : padding+checkSize(x.checkType)]
	if err := x.fill(tail[:padding+len(stored)]); err != nil {
		return err
	}
	for _, c := range tail[:padding] {
		if c != 0 {
			return errCorrupt
		}
	}
	if x.check != nil && !checkEqual(x.check, stored) {
		return errors.New("the check value does not fit the content")
	}
	b.unpadded = b.header + x.read + int64(len(stored))
	if len(x.blocks) == maxBlocks {
		return fmt.Errorf("more than %d blocks", maxBlocks)
	}
	x.blocks = append(x.blocks, *b)
	x.inBlock = false
	return nil
}

func sum32(p []byte) uint32 { return crc32.ChecksumIEEE(p) }
