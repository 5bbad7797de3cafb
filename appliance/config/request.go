package config

import (
	"context"

	"roost/appliance/api"
	"roost/appliance/store"
)

// Show returns the wanted configuration of a host.
func Show(ctx context.Context, s *store.Store, host string) (c *api.Config, err error) {
	err = s.View(ctx, func(tx *store.Tx) error {
		_, c, err = find(tx, host)
		return err
	})
	return c, err
}

// Change wants another configuration of a host. One that was made from an older revision than the one that stands is refused,
// unless it names none.
func Change(ctx context.Context, s *store.Store, by store.Actor, host string, want *api.Config) (c *api.Config, err error) {
	_, err = s.Update(ctx, func(tx *store.Tx) error {
		h, have, err := find(tx, host)
		if err != nil {
			return err
		}
		if want.Revision != 0 && want.Revision != have.Revision {
			return api.Conflict.Errorf("cannot configure host %s: its configuration was changed meanwhile; take the new one and change that", h.Name)
		}
		next := *want
		next.Schema = 1
		if next.Hostname != have.Hostname {
			return api.Invalid.Errorf("cannot configure host %s: it cannot be given another name (%q)", h.Name, next.Hostname)
		}
		if err := Validate(&next); err != nil {
			return err
		}
		c = &next
		store.Configs().PutAs(tx, h.ID, c)
		tx.Audit(by, "configure host", "host/"+h.ID, "name "+h.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return Show(ctx, s, host)
}

func find(tx *store.Tx, host string) (*api.Host, *api.Config, error) {
	h, err := store.FindHost(tx, host)
	if err != nil {
		return nil, nil, err
	}
	c := store.Configs().Get(tx, h.ID)
	if c == nil {
		return nil, nil, api.NotFound.Errorf("cannot find configuration of host %s: it has not been admitted", h.Name)
	}
	return h, c, nil
}
