package deb

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"roost/builder/deb/xz"
)

// Memory that a stream may ask a decoder for. xz -9 needs 64 MiB; Debian builds with -6, which needs 8 MiB.
const (
	maxXZDictionary = 128 << 20
	maxZstdWindow   = 128 << 20
)

// Decompress returns the content of r, which may be xz, gzip, zstd, bzip2 or plain. The format is told by its first bytes,
// not by a file name. Close frees the decoder; it does not close r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("cannot decompress: %w", err)
	}
	var out io.ReadCloser
	switch {
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		var x *xz.Reader
		x, err = xz.NewReader(b, maxXZDictionary)
		out = io.NopCloser(x)
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		out, err = gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		var z *zstd.Decoder
		z, err = zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err == nil {
			out = z.IOReadCloser()
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		out = io.NopCloser(bzip2.NewReader(b))
	default:
		out = io.NopCloser(b)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot decompress: %w", err)
	}
	return out, nil
}
