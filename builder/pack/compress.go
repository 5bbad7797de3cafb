package pack

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"

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
		return errors.Join(compressFrames(ctx, w, in), in.Close())
	})
}

// frame is a piece on its way through compressFrames.
type frame struct {
	data []byte
	done chan struct{}
}

func compressFrames(ctx context.Context, w io.Writer, r io.Reader) error {
	// The next level halves the speed for 2 % of the size.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	frames := make(chan *frame, runtime.GOMAXPROCS(0)) // bounds what is in memory
	var readErr error
	go func() {
		defer close(frames)
		for {
			data := make([]byte, frameSize)
			n, err := io.ReadFull(r, data)
			if n > 0 {
				f := &frame{data: data[:n], done: make(chan struct{})}
				go func() {
					f.data = encoder.EncodeAll(f.data, nil)
					close(f.done)
				}()
				select {
				case frames <- f:
				case <-ctx.Done():
					<-f.done
					readErr = ctx.Err()
					return
				}
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return
			}
			if err != nil {
				readErr = err
				return
			}
		}
	}()
	var writeErr error
	for f := range frames {
		<-f.done
		if writeErr == nil {
			if _, writeErr = w.Write(f.data); writeErr != nil {
				cancel()
			}
		}
	}
	return errors.Join(readErr, writeErr, encoder.Close())
}
