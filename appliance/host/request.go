package host

import (
	"context"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
)

const coarse = 30 * time.Second // LastSeen in the store is not older than this while a host reports

// Report takes what a host says of itself and answers with what the site wants of it.
func (m *Manager) Report(ctx context.Context, id string, report *api.Report) (*api.Orders, error) {
	if report.Schema != 1 {
		return nil, api.Invalid.Errorf("cannot take report: schema %d is not known here", report.Schema)
	}
	var h *api.Host
	var config *api.Config
	// Most reports change nothing: look first, and open a transaction only to write.
	err := m.config.Store.View(ctx, func(tx *store.Tx) error {
		h = store.Hosts().Get(tx, id)
		config = store.Configs().Get(tx, id)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, api.Gone.Errorf("cannot take report: host %s is no longer part of this site", id)
	}
	if next := absorb(h, report, m.config.Now().UTC()); next != nil || report.Inventory != nil {
		if h, err = m.store(ctx, id, report); err != nil {
			return nil, err
		}
	}
	m.note(id)
	return orders(h, config, report, m.config.Beat), nil
}

func (m *Manager) store(ctx context.Context, id string, report *api.Report) (h *api.Host, err error) {
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		if h = store.Hosts().Get(tx, id); h == nil {
			return api.Gone.Errorf("cannot take report: host %s is no longer part of this site", id)
		}
		before := h.Phase
		if next := absorb(h, report, tx.Now()); next != nil {
			h = next
			store.Hosts().Put(tx, h)
		}
		if h.Phase != before {
			tx.Audit(store.Actor{Name: "host/" + id}, "enter phase "+string(h.Phase), "host/"+id, "")
		}
		if report.Inventory != nil {
			store.PerHost[api.Inventory]("inventory").PutAs(tx, id, report.Inventory)
		}
		return nil
	})
	return h, err
}

// Rollback asks the host to leave the running release for the one in its other slot.
func (m *Manager) Rollback(ctx context.Context, by store.Actor, ref string) (*api.Host, error) {
	return m.change(ctx, by, ref, "roll back host", func(tx *store.Tx, h *api.Host) error {
		switch {
		case h.Phase != api.InService:
			return api.Conflict.Errorf("cannot roll back host %s: it is %s", h.Name, h.Phase)
		case h.Software.Fallback == nil:
			return api.Conflict.Errorf("cannot roll back host %s: its other slot holds no bootable release", h.Name)
		case h.Software.Rollback != "":
			return api.Conflict.Errorf("cannot roll back host %s: it is asked to already", h.Name)
		}
		if running(tx) != "" {
			return api.Conflict.Errorf("cannot roll back host %s: update %s is under way; abort it first", h.Name, running(tx))
		}
		h.Software.Rollback = tx.NextID()
		h.Software.Wanted, h.Software.Force, h.Software.Attempt = nil, false, ""
		return nil
	})
}

// running returns the id of the update under way.
func running(tx *store.Tx) string {
	for _, u := range store.Updates().List(tx) {
		if u.State == api.Running {
			return u.ID
		}
	}
	return ""
}

// Clear lets the host take a failed release again; every one when release is empty.
func (m *Manager) Clear(ctx context.Context, by store.Actor, ref string, release images.Digest) (*api.Host, error) {
	return m.change(ctx, by, ref, "clear failures of host", func(_ *store.Tx, h *api.Host) error {
		found := false
		for _, failure := range h.Software.Failures {
			if release == "" || failure.Release == release {
				h.Software.Cleared = append(h.Software.Cleared, failure.Release)
				found = true
			}
		}
		if !found {
			return api.Conflict.Errorf("cannot clear failures of host %s: it refuses no such release", h.Name)
		}
		return nil
	})
}

func (m *Manager) change(ctx context.Context, by store.Actor, ref, action string, f func(*store.Tx, *api.Host) error) (h *api.Host, err error) {
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		if h, err = store.FindHost(tx, ref); err != nil {
			return err
		}
		if err := f(tx, h); err != nil {
			return err
		}
		store.Hosts().Put(tx, h)
		tx.Audit(by, action, "host/"+h.ID, "name "+h.Name)
		return nil
	})
	return h, err
}
