package appliance

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// How long the loops of the daemon may take to come round. A part that needs longer for one thing says so.
const (
	roundLimit   = 5 * time.Minute  // of a loop that beats by itself every minute or faster
	updateLimit  = 30 * time.Minute // of one action of an update, counted anew with each block written
	installLimit = 30 * time.Minute // of one stage of an installation that tells no progress
)

// pulse knows whether the daemon gets on. Each part says by when it will come round again; a part that does not is stuck, and
// then systemd's watchdog is fed no more: the daemon is ended with a dump of what it waited for, and started anew.
//
// It must not be fed by the clock: a loop that hangs in a call, or two that wait for each other, leave the clock running.
type pulse struct {
	now func() time.Time
	log *slog.Logger

	mu    sync.Mutex // guards the fields below
	due   map[string]time.Time
	stuck bool // told of already
}

func newPulse(now func() time.Time, log *slog.Logger) *pulse {
	return &pulse{now: now, log: log, due: map[string]time.Time{}}
}

// part returns what a part calls whenever it gets on: it will do so again within the given time; 0 means that it waits for
// something to do, or ended. Parts of no pulse may call it, too.
func (p *pulse) part(name string) func(within time.Duration) {
	if p == nil {
		return func(time.Duration) {}
	}
	return func(within time.Duration) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if within <= 0 {
			delete(p.due, name)
			return
		}
		p.due[name] = p.now().Add(within)
	}
}

// loop is a part that comes round by itself.
func (p *pulse) loop(name string) func() {
	expect := p.part(name)
	return func() { expect(roundLimit) }
}

// alive reports whether every part is in time.
func (p *pulse) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var late []string
	for name, due := range p.due {
		if p.now().After(due) {
			late = append(late, name)
		}
	}
	slices.Sort(late)
	if len(late) > 0 && !p.stuck {
		p.log.Error("the daemon is stuck; the watchdog will end it", "parts", late)
	}
	p.stuck = len(late) > 0
	return !p.stuck
}
