// Package cores shares the processors of the host among the work of one build.
//
// A build has two kinds of work. Maintainer scripts come one after the other, so the build takes at least as long as all of
// them; unpacking, decompressing, compressing and compiling can be done at any time before their result is needed. A
// [Pool] runs the first kind at once and the second in the order in which it was asked for, as many at a time as
// processors are left. So no processor waits, and none of the first kind waits for the second.
//
// What comes out of a build never depends on a pool: it decides when something is done, not what.
//
// Rejected: nice(2) for the second kind (Go moves goroutines between threads, and a thread that waits for the kernel's
// favour holds up garbage collection) and more goroutines than processors (scripts then get a third of one).
package cores

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Pool is a number of processors.
type Pool struct {
	mu    sync.Mutex
	free  int // less than zero when urgent work has more than there are
	queue []chan struct{}
}

// New returns a pool of n processors.
func New(n int) *Pool { return &Pool{free: max(n, 1)} }

// Go runs f in group when its turn comes: after all that was asked for before. When ctx ends first, f is not run.
func (p *Pool) Go(ctx context.Context, group *errgroup.Group, f func() error) {
	turn := p.enter()
	group.Go(func() error { return p.run(ctx, turn, f) })
}

// Do is Go for one piece of work, and waits for it.
func (p *Pool) Do(ctx context.Context, f func() error) error { return p.run(ctx, p.enter(), f) }

// Urgent runs f at once. Until it ends, there is a processor less for others.
func (p *Pool) Urgent(f func() error) error {
	p.add(-1)
	defer p.add(1)
	return f()
}

// enter returns a place in the queue.
func (p *Pool) enter() chan struct{} {
	turn := make(chan struct{})
	p.mu.Lock()
	p.queue = append(p.queue, turn)
	p.mu.Unlock()
	p.add(0)
	return turn
}

func (p *Pool) run(ctx context.Context, turn chan struct{}, f func() error) error {
	select {
	case <-turn:
		defer p.add(1)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return f()
	case <-ctx.Done():
		p.leave(turn)
		return ctx.Err()
	}
}

// leave gives up a place in the queue, or the processor if its turn has come meanwhile.
func (p *Pool) leave(turn chan struct{}) {
	p.mu.Lock()
	at := slices.Index(p.queue, turn)
	if at >= 0 {
		p.queue = slices.Delete(p.queue, at, at+1)
	}
	p.mu.Unlock()
	if at < 0 {
		p.add(1)
	}
}

// add changes the number of free processors and calls those whose turn has come.
func (p *Pool) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free += n
	for p.free > 0 && len(p.queue) > 0 {
		close(p.queue[0])
		p.queue = p.queue[1:]
		p.free--
	}
}
