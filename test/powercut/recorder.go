package powercut

import (
	"io"

	"roost/updater/slot"
)

// Recorder is a disk in memory that records what is written to it. It is a slot.Device.
type Recorder struct {
	Log  *Log
	base io.ReaderAt
	size int64
	now  *Image
	data buffer
}

// NewRecorder returns a recorder over a disk of size bytes, which is not changed.
func NewRecorder(base io.ReaderAt, size int64) *Recorder {
	r := &Recorder{Log: &Log{}, base: base, size: size, now: &Image{base: base, size: size}}
	r.Log.data = &r.data
	return r
}

func (r *Recorder) ReadAt(p []byte, offset int64) (int, error) { return r.now.ReadAt(p, offset) }

func (r *Recorder) WriteAt(p []byte, offset int64) (int, error) {
	r.Log.Entries = append(r.Log.Entries, Entry{Offset: offset, Length: int64(len(p)), data: r.data.size})
	r.data.append(p)
	return r.now.WriteAt(p, offset)
}

// Sync records a flush.
func (r *Recorder) Sync() error {
	r.Log.Entries = append(r.Log.Entries, Entry{Flush: true})
	return nil
}

// Size returns the bytes of the disk.
func (r *Recorder) Size() int64 { return r.size }

// Fresh returns the disk itself: it has no cache.
func (r *Recorder) Fresh() (slot.View, error) { return view{r}, nil }

type view struct{ io.ReaderAt }

func (view) Close() error { return nil }

// buffer grows in chunks, so that appending never copies what is there.
type buffer struct {
	chunks [][]byte
	size   int64
}

const chunkBytes = 1 << 20

func (b *buffer) append(p []byte) {
	for len(p) > 0 {
		if b.size%chunkBytes == 0 {
			b.chunks = append(b.chunks, make([]byte, chunkBytes))
		}
		n := copy(b.chunks[b.size/chunkBytes][b.size%chunkBytes:], p)
		b.size += int64(n)
		p = p[n:]
	}
}

func (b *buffer) ReadAt(p []byte, offset int64) (int, error) {
	done := 0
	for done < len(p) {
		if offset >= b.size {
			return done, io.EOF
		}
		chunk := b.chunks[offset/chunkBytes]
		n := copy(p[done:], chunk[offset%chunkBytes:min(chunkBytes, b.size-offset+offset%chunkBytes)])
		done, offset = done+n, offset+int64(n)
	}
	return done, nil
}
