package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// opener opens some content at an offset.
type opener func(ctx context.Context, offset int64) (io.ReadCloser, error)

// patience says when a peer has had its chance.
type patience struct {
	stall   time.Duration
	retries int
	pause   time.Duration
}

const (
	maxPause   = 30 * time.Second
	leastBytes = 4096 // to deliver within one stall time; less is a peer that holds the line without moving
)

func newPatience(o Options) patience {
	p := patience{stall: o.Stall, retries: o.Retries, pause: o.Pause}
	if p.stall <= 0 {
		p.stall = 30 * time.Second
	}
	if p.retries <= 0 {
		p.retries = 5
	}
	if p.pause <= 0 {
		p.pause = time.Second
	}
	return p
}

// wait pauses before retry number n, which counts from 1.
func (p patience) wait(ctx context.Context, n int) error {
	pause := p.pause << min(n-1, 16)
	timer := time.NewTimer(min(pause, maxPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// permanent reports whether trying again cannot help.
func permanent(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrCorrupt) ||
		errors.Is(err, ErrReadOnly) || errors.Is(err, ErrNoSpace) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// resumer reads content of a known size through connections that may break. It reopens at the offset reached.
type resumer struct {
	ctx      context.Context // of the whole transfer: a reader has no other way to take one
	open     opener
	patience patience
	offset   int64
	size     int64

	body     io.ReadCloser
	watch    *watchdog
	failures int // connections in a row that did not bring leastBytes in time
	err      error
}

// resume returns a reader of the content from offset up to size. It opens nothing before the first Read.
func resume(ctx context.Context, open opener, offset, size int64, p patience) *resumer {
	return &resumer{ctx: ctx, open: open, patience: p, offset: offset, size: size}
}

func (r *resumer) Read(p []byte) (int, error) {
	for r.err == nil {
		if r.body == nil {
			if r.offset >= r.size {
				r.err = io.EOF
			} else {
				r.err = r.connect()
			}
			continue
		}
		r.watch.start()
		n, err := r.body.Read(p)
		stalled := r.watch.stop(n)
		r.offset += int64(n)
		if r.watch.moved {
			r.failures = 0
		}
		if err == nil && n > 0 {
			return n, nil
		}
		switch {
		case err != nil && r.offset >= r.size:
			r.err = io.EOF // all that was promised is here, however the connection ended
		case err != nil:
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if stalled {
				err = ErrStalled
			}
			r.err = r.failed(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

// failed drops the connection and waits for the next attempt, or returns why there is none.
func (r *resumer) failed(cause error) error {
	r.disconnect()
	if permanent(cause) && r.ctx.Err() == nil {
		return cause
	}
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	r.failures++
	if r.failures > r.patience.retries {
		return fmt.Errorf("gave up at byte %d of %d after %d attempts: %w", r.offset, r.size, r.failures, cause)
	}
	return r.patience.wait(r.ctx, r.failures)
}

func (r *resumer) connect() error {
	watch := newWatchdog(r.ctx, r.patience.stall)
	watch.start()
	body, err := r.open(watch.ctx, r.offset)
	if stalled := watch.stop(leastBytes); err != nil {
		watch.cancel(nil)
		if stalled {
			err = ErrStalled
		}
		return r.failed(err)
	}
	watch.moved = false // an answer alone is no progress
	r.body, r.watch = body, watch
	return nil
}

func (r *resumer) disconnect() {
	if r.body != nil {
		_ = r.body.Close() // the content is judged by its digest, not by how the connection ended
		r.watch.cancel(nil)
		r.body, r.watch = nil, nil
	}
}

func (r *resumer) Close() error {
	r.disconnect()
	if r.err == nil {
		r.err = errors.New("reader is closed")
	}
	return nil
}

// watchdog cancels a connection that has been waited for too long. Only the time between start and stop counts, so a
// slow consumer is never taken for a stalled peer.
type watchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration

	left    time.Duration // to wait for the next leastBytes
	bytes   int
	moved   bool // leastBytes came in time at least once
	started time.Time
	timer   *time.Timer
}

func newWatchdog(ctx context.Context, stall time.Duration) *watchdog {
	w := &watchdog{stall: stall, left: stall}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w
}

func (w *watchdog) start() {
	w.started = time.Now()
	w.timer = time.AfterFunc(w.left, func() { w.cancel(ErrStalled) })
}

// stop ends the wait, which brought n bytes, and reports whether the time was up.
func (w *watchdog) stop(n int) (stalled bool) {
	w.timer.Stop()
	w.bytes += n
	w.left -= time.Since(w.started)
	if w.bytes >= leastBytes {
		w.bytes, w.left, w.moved = 0, w.stall, true
	}
	return errors.Is(context.Cause(w.ctx), ErrStalled)
}

// reader returns r, each read from which is a wait.
func (w *watchdog) reader(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		w.start()
		n, err := r.Read(p)
		w.stop(n)
		return n, err
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
