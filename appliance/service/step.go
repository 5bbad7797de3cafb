package service

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/appliance/api"
)

// Step is one thing that must be so for a component to work on a host.
type Step struct {
	Name  string                      // one or two words, for people
	Holds func(context.Context) error // nil when it is so, else why it is not; asked of the machine every time, never remembered
	Make  func(context.Context) error // makes it so; may run again at any time, also after a crash in its middle; nil: it comes by itself
	Limit time.Duration               // after Make, until it must hold; 30 s when zero
	Lanes [][]Step                    // instead of Holds and Make: rows of steps that go on side by side; it holds when all of them do
}

// Impossible is a step that nothing here can make hold.
func Impossible(name string, why error) Step {
	fail := func(context.Context) error { return why }
	return Step{Name: name, Holds: fail, Make: fail}
}

// Component is what knows one component on this host.
type Component interface {
	// Name is that of the component in the image and in the API.
	Name() string
	// Wanted reports whether this host is to run it.
	Wanted(*api.Config) bool
	// Steps lists what must be so, in order; for a component that is not wanted, what must be so after it has left.
	Steps(*api.Config) []Step
}

const (
	stepLimit = 30 * time.Second
	firstLook = 50 * time.Millisecond // after Make; doubled from look to look
	lastLook  = time.Second
)

// walk makes the steps hold in their order and tells each one that it comes to. It ends at the first that cannot be made to
// hold.
func walk(ctx context.Context, steps []Step, tell func(n int, why error)) (n int, err error) {
	for n, step := range steps {
		if step.Lanes != nil {
			if err := together(ctx, step.Lanes, func(why error) { tell(n, why) }); err != nil {
				return n, err
			}
			continue
		}
		err := step.Holds(ctx)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		tell(n, err)
		if step.Make != nil {
			if err := step.Make(ctx); err != nil {
				return n, err
			}
		}
		if err := await(ctx, step, func(why error) { tell(n, why) }); err != nil {
			return n, err
		}
	}
	return len(steps), nil
}

// together walks lanes side by side. What it tells is of the lane that moved last; it ends when all lanes have, whatever
// became of the others, and returns what ended the first of those that failed.
func together(ctx context.Context, lanes [][]Step, tell func(error)) error {
	var mu sync.Mutex // one tells at a time
	var group errgroup.Group
	errs := make([]error, len(lanes))
	for i, lane := range lanes {
		group.Go(func() error {
			n, err := walk(ctx, lane, func(n int, why error) {
				mu.Lock()
				defer mu.Unlock()
				tell(fmt.Errorf("%s: %w", lane[n].Name, why))
			})
			if err != nil && ctx.Err() == nil {
				errs[i] = fmt.Errorf("%s: %w", lane[n].Name, err)
			}
			return nil
		})
	}
	_ = group.Wait() // the lanes' errors are in errs
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return cmp.Or(errs...)
}

// await asks for the fact, ever less often, until it holds or its time is up.
func await(ctx context.Context, step Step, tell func(error)) error {
	limit := step.Limit
	if limit == 0 {
		limit = stepLimit
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := ""
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		err := step.Holds(within)
		if err == nil {
			return nil
		}
		if within.Err() == nil || last == "" {
			last = err.Error()
			tell(err)
		}
		if !rest(within, pause) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("not so after %s: %s", limit, last)
		}
	}
}

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// progress is the state of a component that is at step n. One that failed stays so until all of it holds: trying again is no
// better state than having failed.
func progress(old api.Component, steps []Step, n int, why error, failed bool, now time.Time) api.Component {
	next := api.Component{Name: old.Name, State: api.Ready, Done: n, Steps: len(steps), Since: old.Since}
	if n < len(steps) {
		next.State, next.Step = api.Starting, steps[n].Name
		if failed || old.State == api.Failed {
			next.State = api.Failed
		}
		if why != nil {
			next.Reason = why.Error()
		}
	}
	if next.State != old.State {
		next.Since = now
	}
	return next
}
