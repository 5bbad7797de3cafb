// Package host is the life of a host in service: what it reports, whether it is heard of, and what state that makes it.
//
// A host reports its facts every few seconds and gets the site's wishes in answer; the connection is the host's, so
// nothing needs to reach into a host behind a firewall. States are those of ITU-T X.731. The manager owns a host's
// operational and availability states from the first report over its own certificate on; before that they are
// package trust's.
//
// Promises: a report is stored before it is answered when it changes anything; a host silent for longer than the limit
// is offline within a second of it; a restarted controller gives every host one full limit before it calls it offline.
//
// Rejected: pushing orders to hosts (needs a listener on every host and knows less about whether it is alive);
// writing every beat to the store (200 hosts would be most of its load).
package host

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"roost/appliance/store"
)

// Config of a manager. Store is needed.
type Config struct {
	Store   *store.Store
	Beat    time.Duration // between reports; 5 s when zero
	Silence time.Duration // until a host in service is offline; 6 beats when zero
	Now     func() time.Time
	Log     *slog.Logger
	Alive   func() // called after every round; nil: nobody asks
}

// Manager keeps the states of hosts.
type Manager struct {
	config  Config
	started time.Time

	mu    sync.Mutex           // guards heard
	heard map[string]time.Time // host id: its last report
}

// New makes a manager.
func New(config Config) *Manager {
	if config.Beat == 0 {
		config.Beat = 5 * time.Second
	}
	if config.Silence == 0 {
		config.Silence = 6 * config.Beat
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Alive == nil {
		config.Alive = func() {}
	}
	return &Manager{config: config, started: config.Now(), heard: map[string]time.Time{}}
}

// Run calls Ensure every second until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := m.Ensure(ctx); err != nil && ctx.Err() == nil {
			m.config.Log.Warn("cannot review hosts", "error", err)
		}
		m.config.Alive()
	}
}

// Ensure marks hosts that fell silent.
func (m *Manager) Ensure(ctx context.Context) error {
	now := m.config.Now()
	var silent []string
	err := m.config.Store.View(ctx, func(tx *store.Tx) error {
		for _, h := range store.Hosts().Scan(tx) {
			if next := review(h, m.last(h.ID), now, m.config.Silence); next != nil {
				silent = append(silent, h.ID)
			}
		}
		return nil
	})
	if err != nil || len(silent) == 0 {
		return err
	}
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		for _, id := range silent {
			h := store.Hosts().Get(tx, id)
			if h == nil {
				continue
			}
			if next := review(h, m.last(id), now, m.config.Silence); next != nil {
				store.Hosts().Put(tx, next)
			}
		}
		return nil
	})
	return err
}

// last is when the host was heard of, or when this manager began to listen.
func (m *Manager) last(id string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.heard[id]; ok {
		return at
	}
	return m.started
}

func (m *Manager) note(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard[id] = m.config.Now()
}
