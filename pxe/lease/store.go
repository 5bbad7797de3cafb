package lease

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"roost/images/durable"
)

// ErrTaken is what Bind returns when the address is not the client's to have: another machine holds it, it is in
// quarantine, reserved, or not in the range. A DHCP server answers it with NAK.
var ErrTaken = errors.New("address is not available to this client")

// Config says what a store gives out and where it remembers it.
type Config struct {
	Ranges     []Range        // one per network served; calls name a range by its index
	Hold       time.Duration  // how long an offer keeps its address without being taken; 0 = 30 s
	Quarantine time.Duration  // how long a declined address rests; 0 = 10 min
	Medium     durable.Medium // directory of the log, used by this store alone; nil = remember in memory only
	Compact    int64          // bytes of log that are worth a rewrite when three quarters of them are stale; 0 = 4 MiB
	Log        *slog.Logger   // nil = discard
}

// Store gives out addresses. Its methods are safe for concurrent use and do not block on the disk. Run must run for
// bindings to become durable.
type Store struct {
	config  Config
	journal *journal // nil: memory only

	mu      sync.Mutex
	blocks  []*block
	pending []byte        // lines not yet written
	waiting []func(error) // whom to tell when they are safe
	wake    chan struct{} // holds one token while there is something pending
}

// Open reads the log, rewrites it into a fresh file and returns the store.
func Open(config Config) (*Store, error) {
	if config.Hold == 0 {
		config.Hold = 30 * time.Second
	}
	if config.Quarantine == 0 {
		config.Quarantine = 10 * time.Minute
	}
	if config.Compact == 0 {
		config.Compact = 4 << 20
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{config: config, wake: make(chan struct{}, 1)}
	for _, r := range config.Ranges {
		b, err := newBlock(r)
		if err != nil {
			return nil, err
		}
		s.blocks = append(s.blocks, b)
	}
	if config.Medium == nil {
		return s, nil
	}
	s.journal = &journal{medium: config.Medium}
	lines, err := s.journal.read()
	if err != nil {
		return nil, fmt.Errorf("cannot read leases: %w", err)
	}
	s.load(lines)
	if err := s.journal.rewrite(s.snapshot()); err != nil {
		return nil, fmt.Errorf("cannot write leases: %w", err)
	}
	return s, nil
}

// load applies the lines of the log in order.
func (s *Store) load(lines [][]byte) {
	bad, foreign := 0, 0
	for _, line := range lines {
		l, err := parseRecord(line)
		if err != nil {
			bad++
			continue
		}
		if b := s.home(l.Address, l.Key); b != nil {
			b.set(l)
		} else {
			foreign++
		}
	}
	if bad > 0 || foreign > 0 {
		s.config.Log.Warn("lease log has lines that were left out", "damaged", bad, "outside the configured ranges", foreign)
	}
}

// home finds the block that an address of the log belongs to.
func (s *Store) home(address netip.Addr, key Key) *block {
	for _, b := range s.blocks {
		if b.reserved[key] == address || b.covers(address, "") {
			return b
		}
	}
	return nil
}

// snapshot returns the live content as lines. Offers are not in it.
func (s *Store) snapshot() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []byte
	for _, b := range s.blocks {
		for _, e := range b.byAddress {
			if e.State != Offered {
				lines = appendRecord(lines, &e.Lease)
			}
		}
	}
	return lines
}

// Offer picks an address for key and holds it for a short time. want is the address the client would like, or zero. False
// means that the range is exhausted (or the client's reservation in quarantine).
func (s *Store) Offer(now time.Time, index int, key Key, want netip.Addr) (netip.Addr, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[index]
	address, ok := b.choose(now, key, want)
	if !ok {
		return netip.Addr{}, false
	}
	if e := b.byAddress[address]; e != nil && e.Key == key && e.State == Bound && now.Before(e.Until) {
		return address, true // a live lease is more than an offer
	}
	b.set(Lease{Address: address, Key: key, State: Offered, Until: now.Add(s.config.Hold)})
	return address, true
}

// Withdraw ends the hold of an offer that the client did not take.
func (s *Store) Withdraw(now time.Time, index int, key Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[index]
	if e := b.byKey[key]; e != nil && e.State == Offered {
		b.set(Lease{Address: e.Address, Key: key, State: Released, Until: now})
	}
}

// Bind gives l.Address to l.Key until l.Until, renewing what it has or claiming what is free. On ErrTaken nothing has changed and
// done is not called. Otherwise done is called exactly once, from another goroutine when there is a log: with nil when the
// binding is durable, else with the reason; in that case the client must not be told it has the address.
func (s *Store) Bind(now time.Time, index int, l Lease, done func(error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[index]
	if !b.available(now, l.Address, l.Key) {
		return ErrTaken
	}
	l.State = Bound
	l.Until = l.Until.Truncate(time.Second).Add(time.Second)
	s.record(b.set(l), done)
	return nil
}

// Release ends the lease of key on address, if it has one. The machine gets the same address again while nobody needs it.
func (s *Store) Release(now time.Time, index int, address netip.Addr, key Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[index]
	e := b.byAddress[address]
	if e == nil || e.Key != key || e.State == Declined || e.State == Released {
		return false
	}
	s.record(b.set(Lease{Address: address, Key: key, State: Released, Until: now, Host: e.Host}), nil)
	return true
}

// Decline puts address in quarantine because key, to whom it was offered or bound, found it in use.
func (s *Store) Decline(now time.Time, index int, address netip.Addr, key Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[index]
	e := b.byAddress[address]
	if e == nil || e.Key != key || e.State == Declined {
		return false
	}
	s.record(b.set(Lease{Address: address, Key: key, State: Declined, Until: now.Add(s.config.Quarantine)}), nil)
	return true
}

// record queues the line of e for the log. The caller holds mu.
func (s *Store) record(e *entry, done func(error)) {
	if s.journal == nil {
		if done != nil {
			done(nil)
		}
		return
	}
	s.pending = appendRecord(s.pending, &e.Lease)
	if done != nil {
		s.waiting = append(s.waiting, done)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Holder returns the live lease on address, in any range.
func (s *Store) Holder(now time.Time, address netip.Addr) (Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.blocks {
		if e := b.byAddress[address]; e != nil && e.State == Bound && now.Before(e.Until) {
			return e.Lease, true
		}
	}
	return Lease{}, false
}

// Known returns what the range remembers of key, live or not.
func (s *Store) Known(index int, key Key) (Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.blocks[index].byKey[key]; e != nil {
		return e.Lease, true
	}
	return Lease{}, false
}

// Leases returns every address that is not plainly free, by address.
func (s *Store) Leases(now time.Time) []Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Lease
	for _, b := range s.blocks {
		for _, e := range b.byAddress {
			if !e.free(now) {
				all = append(all, e.Lease)
			}
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return all
}

// Run writes bindings to the log until ctx ends; then it writes what is pending and returns. It fails only when it could not do
// that last write.
func (s *Store) Run(ctx context.Context) error {
	if s.journal == nil {
		<-ctx.Done()
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			err := s.flush()
			return errors.Join(err, s.journal.close())
		case <-s.wake:
			if err := s.flush(); err != nil {
				s.config.Log.Error("leases cannot be made durable; clients get no answer", "error", err)
			}
		}
	}
}

// flush makes pending lines durable and tells those who wait.
func (s *Store) flush() error {
	s.mu.Lock()
	lines, waiting := s.pending, s.waiting
	s.pending, s.waiting = nil, nil
	s.mu.Unlock()
	err := s.write(lines)
	for _, done := range waiting {
		done(err)
	}
	return err
}

func (s *Store) write(lines []byte) error {
	j := s.journal
	if !j.broken && (j.size < s.config.Compact || j.size < 4*j.live) {
		err := j.append(lines)
		if err == nil {
			return nil
		}
		s.config.Log.Warn("lease log is damaged and will be rewritten", "error", err)
	}
	// What is pending is in the tables already, so the snapshot holds it.
	return j.rewrite(s.snapshot())
}

// isNotExist keeps the journal's reading of a directory short.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
