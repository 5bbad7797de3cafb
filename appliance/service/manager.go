// Package service brings the components of a host up and keeps what a site has of them once.
//
// On a host, [Agent] compares the wish (the host's configuration) with facts, step by step, in [Agent.Ensure]: in any order,
// any number of times. What is one component's own is behind [Component]; systemd runs the processes. On a controller,
// [Manager] makes the secrets of each component once per site, keeps them in the store, and answers hosts and operators
// with what they need: certificates over keys that they made themselves, and the secrets that hosts have in common. What is
// one component's own is behind [Authority].
//
// Promises: a bring-up that a crash or a power cut ended resumes where the facts are; nothing but facts decides what is done,
// so a thing that broke later is mended by the same steps; which step is under way, or failed and why, is in the host's
// state; a secret is never replaced by another of its name, never in an argument, a log, an image or the audit record.
//
// Rejected: a journal of steps done (it would be believed where the machine says otherwise); dependencies between components
// as a graph (a step that waits for a fact says the same and cannot be stale); one loop for all components (a dead disk
// would hold up what does not need it); supervising processes (systemd does).
package service

import (
	"context"
	"log/slog"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
)

// Secrets are what a site has once of one component: keys, passwords, certificates of authorities, by name.
type Secrets map[string][]byte

// Asker is who asks for material. Either Host or Operator is given.
type Asker struct {
	Host     *api.Host
	Config   *api.Config // of the host; for an operator that of any, for all have the same components
	Operator string
	Role     string // of the operator: admin, operator or reader
	Site     *api.Site
}

// Authority is what knows one component for the site as a whole. Its methods do no I/O.
type Authority interface {
	// Name is that of the component.
	Name() string
	// Found adds the secrets that are not there yet, and reports whether it added any.
	Found(secrets Secrets, site *api.Site, now time.Time) (bool, error)
	// Issue answers an asker; what they may not have is an error of kind denied.
	Issue(secrets Secrets, by Asker, join *api.Join, now time.Time) (*api.Material, error)
}

// Config of a manager. Store is needed.
type Config struct {
	Store       *store.Store
	Authorities []Authority
	Now         func() time.Time // nil: time.Now
	Log         *slog.Logger
}

// Manager keeps the secrets of the site's components.
type Manager struct{ config Config }

// New makes a manager.
func New(config Config) *Manager {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{config: config}
}

func secrets() store.Table[Secrets] { return store.PerHost[Secrets]("secret") }

// Secrets returns what the site has of a component, and makes what lacks: at the first call, and where a newer release needs
// more.
func (m *Manager) Secrets(ctx context.Context, component string) (Secrets, error) {
	var have Secrets
	_, err := m.config.Store.Update(ctx, func(tx *store.Tx) error {
		authority, err := m.authority(component)
		if err != nil {
			return err
		}
		have, err = m.found(tx, authority)
		return err
	})
	return have, err
}

func (m *Manager) authority(component string) (Authority, error) {
	for _, a := range m.config.Authorities {
		if a.Name() == component {
			return a, nil
		}
	}
	return nil, api.NotFound.Errorf("cannot find component %q: this release knows none of that name", component)
}

func (m *Manager) found(tx *store.Tx, authority Authority) (Secrets, error) {
	site := store.Sites().Get(tx, "site")
	if site == nil {
		return nil, api.NotFound.Errorf("cannot make secrets of %s: the site has no record yet", authority.Name())
	}
	have := Secrets{}
	if stored := secrets().Get(tx, authority.Name()); stored != nil {
		have = *stored
	}
	added, err := authority.Found(have, site, tx.Now())
	if err != nil || !added {
		return have, err
	}
	secrets().PutAs(tx, authority.Name(), &have)
	tx.Audit(store.Actor{Name: "manager/service"}, "make secrets of component", "component/"+authority.Name(), "")
	return have, nil
}
