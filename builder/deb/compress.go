package deb

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"roost/builder/deb/xz"
)

// Memory that a stream may ask a decoder for. xz -9 needs 64 MiB; Debian builds with -6, which needs 8 MiB.
const (
	maxXZDictionary = 128 << 20
	maxZstdWindow   = 128 << 20
)

// Memory is what decoders leave to those after them. The zero value is empty; several goroutines may use one.
type Memory struct{ decoders sync.Pool }

// decoder is the memory of one.
type decoder struct {
	buffer *bufio.Reader
	xz     *xz.Reader
}

// Decompress returns the content of r, which may be xz, gzip, zstd, bzip2 or plain. The format is told by its first bytes,
// not by a file name. Close frees the decoder; it does not close r.
func Decompress(r io.Reader) (io.ReadCloser, error) { return new(Memory).Decompress(r) }

// Decompress is like the function, with memory of earlier decoders that were closed.
func (m *Memory) Decompress(r io.Reader) (io.ReadCloser, error) {
	d, ok := m.decoders.Get().(*decoder)
	if !ok {
		d = &decoder{buffer: bufio.NewReaderSize(nil, 64<<10)}
	}
	d.buffer.Reset(r)
	head, err := d.buffer.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("cannot decompress: %w", err)
	}
	x := &decompressed{memory: m, decoder: d}
	switch {
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		if d.xz == nil {
			d.xz, err = xz.NewReader(d.buffer, maxXZDictionary)
		} else {
			err = d.xz.Reset(d.buffer, maxXZDictionary)
		}
		x.Reader = d.xz
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		x.Reader, err = gzip.NewReader(d.buffer)
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		var z *zstd.Decoder
		z, err = zstd.NewReader(d.buffer, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err == nil {
			x.Reader, x.end = z, z.Close
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		x.Reader = bzip2.NewReader(d.buffer)
	default:
		x.Reader = d.buffer
	}
	if err != nil {
		return nil, fmt.Errorf("cannot decompress: %w", err)
	}
	return x, nil
}

// decompressed is the content of a stream.
type decompressed struct {
	io.Reader
	end     func() // of a decoder that has one; may be nil
	memory  *Memory
	decoder *decoder
}

// Close gives the memory back, once.
func (x *decompressed) Close() error {
	if x.end != nil {
		x.end()
	}
	if x.decoder != nil {
		x.decoder.buffer.Reset(nil)
		x.memory.decoders.Put(x.decoder)
	}
	x.Reader, x.end, x.decoder = closed{}, nil, nil
	return nil
}

// closed is read after Close.
type closed struct{}

func (closed) Read([]byte) (int, error) { return 0, fs.ErrClosed }
