package trust

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
)

// Limits bound what machines nobody knows can cost. The zero value of a field means its default.
type Limits struct {
	Waiting int           // machines that wait for approval; 2000
	Rate    float64       // enrolments per second and source address; 4
	Burst   int           // of these at once; 32
	Expiry  time.Duration // a machine not heard of for so long is forgotten; 24 h
	Silence time.Duration // a machine not heard of for so long has left; 60 s
	Records int           // lines of the audit record that are kept; 10000
}

// Shelf says what a release needs; the depot of the site implements it.
type Shelf interface {
	// Release finds a release by manifest digest.
	Release(ctx context.Context, digest images.Digest) (*api.Release, *images.Needs, error)
}

// Auto decides without a person whether a machine is admitted: the seed's selector, later a site's rules. Nil: it is not.
type Auto func(host *api.Host, inventory *api.Inventory) *api.Approval

// Config of a manager. Store, Authority, Shelf and Registry are needed.
type Config struct {
	Store     *store.Store
	Authority *Authority
	Shelf     Shelf
	Registry  string                                             // base URL of the registry that machines install from
	Configure func(host *api.Host, i *api.Inventory) *api.Config // first configuration; nil: DHCP everywhere
	Auto      Auto                                               // nil: operators approve
	Limits    Limits
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger
	Alive     func() // called after every round; nil: nobody asks
}

// Manager admits machines to the site.
type Manager struct {
	config Config

	mu     sync.Mutex           // guards the fields below
	heard  map[string]time.Time // host id: when last heard of, finer than the store knows
	polls  map[string]int       // host id: requests that wait for its grant right now
	wake   chan struct{}        // closed and replaced when a grant was made or a host forgotten
	source map[string]*bucket   // by source address
}

// New makes a manager.
func New(config Config) *Manager {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Alive == nil {
		config.Alive = func() {}
	}
	l := &config.Limits
	defaultTo(&l.Waiting, 2000)
	defaultTo(&l.Rate, 4)
	defaultTo(&l.Burst, 32)
	defaultTo(&l.Expiry, 24*time.Hour)
	defaultTo(&l.Silence, time.Minute)
	defaultTo(&l.Records, 10000)
	return &Manager{config: config, heard: map[string]time.Time{}, polls: map[string]int{},
		wake: make(chan struct{}), source: map[string]*bucket{}}
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run keeps the record of machines tidy until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		if err := m.Ensure(ctx); err != nil && ctx.Err() == nil {
			m.config.Log.Warn("cannot tidy enrolments", "error", err)
		}
		m.config.Alive()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Ensure forgets machines that left long ago, marks the silent ones offline, and keeps the audit record short.
func (m *Manager) Ensure(ctx context.Context) error {
	now := m.config.Now()
	m.forgetSources(now)
	_, err := m.config.Store.Update(ctx, func(tx *store.Tx) error {
		for _, h := range store.Hosts().Scan(tx) {
			switch {
			case h.Phase != api.Discovered && h.Phase != api.Approved || m.live(h, now):
			case now.Sub(h.LastSeen) > m.config.Limits.Expiry:
				remove(tx, h)
				tx.Audit(store.Actor{Name: "manager/trust"}, "expire host", "host/"+h.ID, "not heard of since "+h.LastSeen.Format(time.RFC3339))
			case h.Availability != api.Offline:
				gone := *h
				gone.Availability, gone.Reason = api.Offline, "the machine has left"
				store.Hosts().Put(tx, &gone)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.trim(ctx)
}

// trim drops the oldest lines of the audit record, a hundred to a transaction.
func (m *Manager) trim(ctx context.Context) error {
	_, err := m.config.Store.Update(ctx, func(tx *store.Tx) error {
		records := store.Records().List(tx)
		for i := 0; i < len(records)-m.config.Limits.Records && i < 100; i++ {
			store.Records().Delete(tx, records[i].ID)
		}
		return nil
	})
	return err
}

// Heard notes that the host spoke just now.
func (m *Manager) Heard(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard[host] = m.config.Now()
}

// live reports whether the host is heard of: a request of it waits here, or it spoke not long ago.
func (m *Manager) live(h *api.Host, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := h.LastSeen
	if heard := m.heard[h.ID]; heard.After(last) {
		last = heard
	}
	return m.polls[h.ID] > 0 || now.Sub(last) < m.config.Limits.Silence
}

// answering is live for machines that wait for a grant: their poll is open, or it ended a moment ago.
func (m *Manager) answering(h *api.Host, now time.Time) bool {
	if h.Phase != api.Discovered && h.Phase != api.Approved {
		return m.live(h, now)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.polls[h.ID] > 0 || now.Sub(m.heard[h.ID]) < m.config.Limits.Silence/6
}

func remove(tx *store.Tx, h *api.Host) {
	store.Hosts().Delete(tx, h.ID)
	enrolments().Delete(tx, h.ID)
	grants().Delete(tx, h.ID)
	Inventories().Delete(tx, h.ID)
	store.Configs().Delete(tx, h.ID)
}

func enrolments() store.Table[api.Enrolment] { return store.PerHost[api.Enrolment]("enrolment") }
func grants() store.Table[api.Grant]         { return store.PerHost[api.Grant]("grant") }

// Inventories holds the hardware of hosts, by host id.
func Inventories() store.Table[api.Inventory] { return store.PerHost[api.Inventory]("inventory") }

// bucket limits the rate of one source address.
type bucket struct {
	tokens float64
	at     time.Time
}

const maxSources = 4096

// allow takes one token of the source's bucket.
func (m *Manager) allow(source string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.source[source]
	if b == nil {
		if len(m.source) >= maxSources {
			return false // somebody is inventing addresses; Ensure makes room again within a minute
		}
		b = &bucket{tokens: float64(m.config.Limits.Burst), at: now}
		m.source[source] = b
	}
	b.tokens = min(float64(m.config.Limits.Burst), b.tokens+m.config.Limits.Rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (m *Manager) forgetSources(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for source, b := range m.source {
		if now.Sub(b.at) > time.Minute {
			delete(m.source, source)
		}
	}
	for id, at := range m.heard {
		if now.Sub(at) > time.Hour && m.polls[id] == 0 {
			delete(m.heard, id)
		}
	}
}
