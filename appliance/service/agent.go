package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/appliance/api"
)

// Agent brings up the components of this host and keeps them up. Each has a loop of its own, so one that fails holds up no
// other; what needs another waits for its fact in a step.
type Agent struct {
	Components []Component
	Image      []string      // names of the components that the running release has
	Look       time.Duration // between looks at a component that is ready; 10 s when zero
	Pause      time.Duration // before a failed step is tried again, doubled up to Look; 1 s when zero
	Now        func() time.Time
	Log        *slog.Logger

	mu     sync.Mutex // guards the fields below
	config *api.Config
	wake   chan struct{} // closed and replaced with each new configuration
	state  map[string]api.Component
}

// Configure gives the agent another configuration; what is under way for the former is broken off.
func (a *Agent) Configure(config *api.Config) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.config = config
	if a.wake != nil {
		close(a.wake)
	}
	a.wake = make(chan struct{})
}

// Status tells how far the wanted components are, by name.
func (a *Agent) Status() []api.Component {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []api.Component
	for _, c := range a.Components {
		if state, ok := a.state[c.Name()]; ok {
			list = append(list, state)
		}
	}
	return list
}

// Ready returns nil when the named component is ready, or not wanted on this host; else why it is not. It is what a health
// gate asks.
func (a *Agent) Ready(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.Components, func(c Component) bool { return c.Name() == name })
	if i < 0 {
		return fmt.Errorf("component %s is not known to this release", name)
	}
	if a.config == nil || !a.Components[i].Wanted(a.config) {
		return nil
	}
	state, ok := a.state[name]
	switch {
	case !ok:
		return fmt.Errorf("%s has not begun to start", name)
	case state.State != api.Ready:
		return fmt.Errorf("%s is %s at %s: %s", name, state.State, state.Step, state.Reason)
	}
	return nil
}

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	if a.Look == 0 {
		a.Look = 10 * time.Second
	}
	if a.Pause == 0 {
		a.Pause = time.Second
	}
	if a.Now == nil {
		a.Now = time.Now
	}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range a.Components {
		group.Go(func() error { a.keep(ctx, c); return nil })
	}
	return group.Wait()
}

// keep looks at one component again and again.
func (a *Agent) keep(ctx context.Context, c Component) {
	pause := a.Pause
	for ctx.Err() == nil {
		config, changed := a.wish()
		within, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-changed:
				cancel()
			case <-within.Done():
			}
		}()
		wait := a.Look
		if err := a.Ensure(within, c, config); err != nil {
			wait, pause = pause, min(2*pause, a.Look)
		} else {
			pause = a.Pause
		}
		rest(within, wait)
		cancel()
	}
}

// wish returns the configuration and what is closed when another replaces it.
func (a *Agent) wish() (*api.Config, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wake == nil {
		a.wake = make(chan struct{})
	}
	return a.config, a.wake
}

// Ensure compares one component's wish with the facts and makes them equal.
func (a *Agent) Ensure(ctx context.Context, c Component, config *api.Config) error {
	if config == nil {
		return nil
	}
	wanted := c.Wanted(config)
	steps := c.Steps(config)
	if wanted && !slices.Contains(a.Image, c.Name()) {
		steps = []Step{Impossible("image", fmt.Errorf("the release that runs on this host has no component %s", c.Name()))}
	}
	n, err := walk(ctx, steps, func(n int, why error) { a.tell(c, wanted, steps, n, why, false) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.tell(c, wanted, steps, n, err, err != nil)
	return err
}

// tell keeps the state of a component and logs when it changes.
func (a *Agent) tell(c Component, wanted bool, steps []Step, n int, why error, failed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == nil {
		a.state = map[string]api.Component{}
	}
	if !wanted {
		delete(a.state, c.Name())
		if failed {
			a.Log.Warn("a component cannot leave", "component", c.Name(), "step", steps[n].Name, "error", why)
		}
		return
	}
	old, known := a.state[c.Name()]
	old.Name = c.Name()
	next := progress(old, steps, n, why, failed, a.Now())
	a.state[c.Name()] = next
	switch {
	case next.State == api.Ready && old.State != api.Ready:
		a.Log.Info("component is ready", "component", next.Name)
	case failed && (old.State != api.Failed || old.Step != next.Step || old.Reason != next.Reason):
		a.Log.Warn("component does not start", "component", next.Name, "step", next.Step, "error", why)
	case !known || old.Step != next.Step:
		a.Log.Info("component is at step", "component", next.Name, "step", next.Step)
	}
}
