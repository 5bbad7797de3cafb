package service

import (
	"context"
	"slices"
	"strings"

	"roost/appliance/api"
	"roost/appliance/store"
)

const maxRequests = 32 // certificates in one request; a controller of Kubernetes asks for ten

// Join gives a host what it needs of a component that its configuration wants.
func (m *Manager) Join(ctx context.Context, host, component string, join *api.Join) (*api.Material, error) {
	return m.issue(ctx, component, join, store.Actor{Name: "host/" + host}, func(tx *store.Tx) (Asker, error) {
		h, config := store.Hosts().Get(tx, host), store.Configs().Get(tx, host)
		if h == nil || config == nil {
			return Asker{}, api.Gone.Errorf("cannot join %s: host %s is no longer part of this site", component, host)
		}
		return Asker{Host: h, Config: config}, nil
	})
}

// Access gives an operator what they need to use a component.
func (m *Manager) Access(ctx context.Context, by store.Actor, role, component string, join *api.Join) (*api.Material, error) {
	return m.issue(ctx, component, join, by, func(tx *store.Tx) (Asker, error) {
		asker := Asker{Operator: strings.TrimPrefix(by.Name, "operator/"), Role: role, Config: &api.Config{}}
		if all := store.Configs().List(tx); len(all) > 0 {
			asker.Config = all[0]
		}
		return asker, nil
	})
}

func (m *Manager) issue(ctx context.Context, component string, join *api.Join, by store.Actor, ask func(*store.Tx) (Asker, error)) (*api.Material, error) {
	if join.Schema != 1 || len(join.Requests) > maxRequests {
		return nil, api.Invalid.Errorf("cannot use %s: want a request of schema 1 for at most %d certificates", component, maxRequests)
	}
	var out *api.Material
	_, err := m.config.Store.Update(ctx, func(tx *store.Tx) error {
		authority, err := m.authority(component)
		if err != nil {
			return err
		}
		asker, err := ask(tx)
		if err != nil {
			return err
		}
		have, err := m.found(tx, authority)
		if err != nil {
			return err
		}
		asker.Site = store.Sites().Get(tx, "site")
		if out, err = authority.Issue(have, asker, join, tx.Now()); err != nil {
			return err
		}
		names := make([]string, 0, len(join.Requests))
		for name := range join.Requests {
			names = append(names, name)
		}
		slices.Sort(names)
		tx.Audit(by, "issue certificates", "component/"+component, strings.Join(names, " "))
		return nil
	})
	return out, err
}
