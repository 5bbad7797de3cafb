package host

import (
	"reflect"
	"slices"
	"time"

	"roost/appliance/api"
)

// absorb returns the host as its report makes it, or nil when the report says nothing new and the record is fresh.
func absorb(h *api.Host, r *api.Report, now time.Time) *api.Host {
	next := *h
	if phase(h.Phase, r.Phase) {
		next.Phase = r.Phase
	}
	next.BootID, next.Origin = r.BootID, r.Origin
	if r.SecureBoot != "" {
		next.SecureBoot = r.SecureBoot
	}
	if r.Addresses != nil {
		next.Addresses = r.Addresses
	}
	next.Software, next.Components = software(&h.Software, &r.Software), r.Components
	states(&next, r, h.Phase != api.InService)
	if r.Inventory != nil {
		r.Inventory.Describe(&next)
	}
	if reflect.DeepEqual(&next, h) && now.Sub(h.LastSeen) < coarse {
		return nil
	}
	next.LastSeen = now
	if r.Vitals != nil { // they change with every report, and are no reason to write
		next.Vitals = r.Vitals
	}
	return &next
}

// phase reports whether a host may move on from one phase to the reported one: forward only.
func phase(from, to api.Phase) bool {
	order := []api.Phase{api.Approved, api.Installing, api.Installed, api.InService}
	return slices.Index(order, to) > slices.Index(order, from) && slices.Contains(order, from)
}

// software takes the facts of the report and keeps the wishes of the site, less those that the facts fulfil.
func software(site, facts *api.Software) api.Software {
	next := *facts
	next.Wanted, next.Force, next.Attempt = site.Wanted, site.Force, site.Attempt
	next.Rollback, next.Cleared = site.Rollback, nil
	if facts.Rollback != "" && facts.Rollback == site.Rollback {
		next.Rollback = ""
	}
	for _, release := range site.Cleared {
		if facts.Refuses(release) {
			next.Cleared = append(next.Cleared, release)
		}
	}
	return next
}

// states sets the states of a host that just reported. A host that joins is unlocked: approving it was the decision.
func states(h *api.Host, r *api.Report, joins bool) {
	switch {
	case h.Phase != api.InService:
		h.Operational, h.Availability, h.Reason = api.Disabled, api.Online, r.Reason
		return
	case joins:
		h.Administrative = api.Unlocked
	}
	if r.Healthy {
		h.Operational, h.Availability, h.Reason = api.Enabled, api.Available, ""
		if r.Software.Trial {
			h.Reason = "tries a release"
		}
		return
	}
	h.Operational, h.Availability, h.Reason = api.Disabled, api.Failed, r.Reason
}

// review returns the host as its silence makes it, or nil when nothing changes.
func review(h *api.Host, last, now time.Time, silence time.Duration) *api.Host {
	mine := h.Phase == api.InService || h.Phase == api.Installing || h.Phase == api.Installed
	if !mine || h.Availability == api.Offline || now.Sub(last) <= silence || now.Sub(h.LastSeen) <= silence {
		return nil
	}
	next := *h
	next.Operational, next.Availability = api.Disabled, api.Offline
	next.Reason = "not heard of since " + last.UTC().Format(time.RFC3339)
	switch {
	case h.Phase == api.Installed:
		next.Reason = "restarts from its disk"
	case h.Software.Phase == "armed" || h.Software.Phase == "trial" || h.Software.Rollback != "":
		next.Reason = "restarts into another release"
	}
	return &next
}

// orders derives what to tell a host.
func orders(h *api.Host, config *api.Config, r *api.Report, beat time.Duration) *api.Orders {
	out := &api.Orders{Schema: 1, Host: h.ID, Wanted: h.Software.Wanted, Force: h.Software.Force, Attempt: h.Software.Attempt, Rollback: h.Software.Rollback,
		Cleared: slices.Clone(h.Software.Cleared), Beat: int(beat / time.Millisecond)}
	if config != nil && config.Revision != r.Config {
		out.Config = config
	}
	if out.Wanted != nil && h.Software.Running != nil && h.Software.Running.Digest == out.Wanted.Digest {
		out.Wanted = nil
	}
	return out
}
