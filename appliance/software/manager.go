// Package software rolls releases over the hosts of a site, and drives the update engine on a host.
//
// On the controller, [Manager] turns an operator's request into wishes, one host after another: workers first, the
// controller last, so the site keeps its API for as long as can be. It never talks to a host; it writes the wish into the
// host's record, reads the facts that the host reports, and decides the next wish in [step], a pure function of both. A
// controller that restarts, also because it updates itself, goes on where the records stand.
//
// Promises: at most one update runs or is paused; a host that fails pauses the update with the evidence, and no further
// host starts; nothing is undone on hosts that are well.
//
// Rejected: a plan computed once and then executed (hosts come, go and fail while it runs); automatic retry of a failed
// host (the engine has retried what can be, and a failed gate is a finding).
package software

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
)

// Shelf is the site's depot.
type Shelf interface {
	Release(ctx context.Context, digest images.Digest) (*api.Release, *images.Needs, error)
	Releases(ctx context.Context) ([]api.Release, error)
}

// Config of a manager. Store and Shelf are needed.
type Config struct {
	Store *store.Store
	Shelf Shelf
	Limit time.Duration // one host may take so long; 1 h when zero
	Now   func() time.Time
	Log   *slog.Logger
	Alive func() // called after every round; nil: nobody asks
}

// Manager rolls releases over hosts.
type Manager struct {
	config   Config
	starting sync.Mutex // held while an update chooses its release, and while releases are taken away
}

// New makes a manager.
func New(config Config) *Manager {
	if config.Limit == 0 {
		config.Limit = time.Hour
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
	return &Manager{config: config}
}

// Run calls Ensure whenever a host or an update changed, and every ten seconds for what only time changes.
func (m *Manager) Run(ctx context.Context) error {
	if _, ok := m.config.Shelf.(Prunable); ok {
		pruned := make(chan struct{})
		go func() {
			defer close(pruned)
			m.pruneDaily(ctx)
		}()
		defer func() { <-pruned }()
	}
	m.config.Store.Follow(ctx, []string{"host", "update"}, 20*time.Millisecond, 10*time.Second, func(ctx context.Context) {
		if err := m.Ensure(ctx); err != nil && ctx.Err() == nil {
			m.config.Log.Warn("cannot advance update", "error", err)
		}
		m.config.Alive()
	})
	return nil
}

// Ensure advances the running update by what the hosts report.
func (m *Manager) Ensure(ctx context.Context) error {
	busy := false
	err := m.config.Store.View(ctx, func(tx *store.Tx) error {
		busy = current(tx) != nil
		return nil
	})
	if err != nil || !busy {
		return err
	}
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		update := current(tx)
		if update == nil {
			return nil
		}
		hosts := map[string]*api.Host{}
		for _, h := range store.Hosts().List(tx) {
			hosts[h.ID] = h
		}
		next, wishes := step(update, hosts, tx.Now(), m.config.Limit)
		m.grant(tx, hosts, next, wishes)
		if !reflect.DeepEqual(next, update) {
			store.Updates().Put(tx, next)
			m.record(tx, update, next)
		}
		return nil
	})
	return err
}

// grant writes wishes into the records of hosts.
func (m *Manager) grant(tx *store.Tx, hosts map[string]*api.Host, update *api.Update, wishes []wish) {
	for _, w := range wishes {
		h := hosts[w.host]
		if h == nil {
			continue
		}
		withdraw(h)
		if w.wanted {
			release := update.Release
			h.Software.Wanted, h.Software.Force, h.Software.Attempt = &release, update.Force, tx.NextID()
		}
		store.Hosts().Put(tx, h)
	}
}

func withdraw(h *api.Host) {
	h.Software.Wanted, h.Software.Force, h.Software.Attempt = nil, false, ""
}

// record audits the turns of an update and makes its release current when it is on every host.
func (m *Manager) record(tx *store.Tx, before, after *api.Update) {
	if before.State == after.State {
		return
	}
	tx.Audit(store.Actor{Name: "manager/software"}, "update is "+string(after.State), "update/"+after.ID, after.Reason)
	if after.State == api.Done && len(after.Only) == 0 && everywhere(after) {
		if site := store.Sites().Get(tx, "site"); site != nil {
			site.Current = after.Release.Digest
			store.Sites().Put(tx, site)
		}
	}
}

// current returns the update that runs or is paused, or nil.
func current(tx *store.Tx) *api.Update {
	updates := store.Updates().List(tx)
	for i := len(updates) - 1; i >= 0; i-- {
		if updates[i].State != api.Done {
			return updates[i]
		}
	}
	return nil
}
