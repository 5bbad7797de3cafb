package pack

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// frameSize is how much goes into one zstd frame. Frames are made side by side, one for each processor; the result does
// not depend on how many there are.
const frameSize = 8 << 20

// compress returns the transport copy of a file: zstd frames one behind the other, which every zstd reader takes as one.
func compress(ctx context.Context, s stages, f File) (File, error) {
	return s.one(ctx, "transport copy", keyOf("zstd 2", string(f.Digest)), func(w io.Writer) error {
		in, err := os.Open(f.Path)
		if err != nil {
			return err
		}
		frames, err := newFrameWriter(w)
		if err == nil {
			_, err = io.Copy(io.MultiWriter(frames, contextWriter{ctx}), in)
			err = errors.Join(err, frames.Close())
		}
		return errors.Join(err, in.Close())
	})
}

// frameWriter compresses what is written to it. Close must be called, after which all has been written to w.
type frameWriter struct {
	encoder *zstd.Encoder
	pending []byte      // at most one frame
	frames  chan *frame // in order; bounds what is in memory
	free    sync.Pool
	written chan error // of all frames
}

// frame is a piece on its way.
type frame struct {
	packed []byte
	done   chan struct{}
}

func newFrameWriter(w io.Writer) (*frameWriter, error) {
	// The next level halves the speed for 2 % of the size.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		return nil, err
	}
	f := &frameWriter{encoder: encoder, frames: make(chan *frame, runtime.GOMAXPROCS(0)), written: make(chan error, 1)}
	go func() {
		var err error
		for x := range f.frames {
			<-x.done
			if err == nil {
				_, err = w.Write(x.packed)
			}
		}
		f.written <- err
	}()
	return f, nil
}

// Write never fails; an error of w is Close's.
func (f *frameWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if f.pending == nil {
			f.pending = f.buffer()
		}
		take := min(len(p), frameSize-len(f.pending))
		f.pending = append(f.pending, p[:take]...)
		p = p[take:]
		if len(f.pending) == frameSize {
			f.dispatch()
		}
	}
	return n, nil
}

func (f *frameWriter) buffer() []byte {
	if b, ok := f.free.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, frameSize)
}

// dispatch hands the pending frame to a processor.
func (f *frameWriter) dispatch() {
	plain, x := f.pending, &frame{done: make(chan struct{})}
	f.pending = nil
	f.frames <- x
	go func() {
		x.packed = f.encoder.EncodeAll(plain, make([]byte, 0, len(plain)/2))
		f.free.Put(&plain)
		close(x.done)
	}()
}

// Close waits until all is written.
func (f *frameWriter) Close() error {
	if len(f.pending) > 0 {
		f.dispatch()
	}
	close(f.frames)
	return errors.Join(<-f.written, f.encoder.Close())
}
