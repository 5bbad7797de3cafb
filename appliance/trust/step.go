package trust

import (
	"slices"
	"strings"

	"roost/appliance/api"
	"roost/images"
)

// claim is what a machine says it is when it enrols.
type claim struct {
	key  images.Digest
	uuid string
	macs []string // lower case, sorted
}

// admission is what to do with a claim.
type admission struct {
	host   string   // id of the record to go on with; empty: make one
	reset  bool     // the record gets a new key and is discovered anew
	rivals []string // ids of other records that claim the same hardware
}

// admit decides how a claim fits what is known. live tells whether a host is heard of right now: a machine that was
// power-cycled comes back with a new key while its old self is silent, two machines that claim one identity are both
// heard.
func admit(c claim, hosts []*api.Host, live func(id string) bool, limit int) (admission, error) {
	var out admission
	discovered := 0
	for _, h := range hosts {
		if h.Phase == api.Discovered {
			discovered++
		}
		switch {
		case h.Fingerprint == c.key && h.Phase == api.InService:
			return out, api.Conflict.Errorf("cannot enrol: the key is that of host %s, which is in service", h.Name)
		case h.Fingerprint == c.key:
			return admission{host: h.ID, rivals: h.Rivals}, nil
		case same(c, h) && h.Phase != api.InService && !live(h.ID) && out.host == "":
			out.host, out.reset = h.ID, true
		case same(c, h) || shares(c, h) && (h.Phase == api.InService || live(h.ID)):
			out.rivals = append(out.rivals, h.ID)
		}
	}
	if out.host == "" && discovered >= limit {
		return out, api.Busy.Errorf("cannot enrol: %d machines wait for approval already; approve or forget some", discovered)
	}
	slices.Sort(out.rivals)
	return out, nil
}

// same reports whether the claim is for the hardware of h: a MAC in common and no other UUID.
func same(c claim, h *api.Host) bool {
	if c.uuid != "" && h.UUID != "" && c.uuid != h.UUID {
		return false
	}
	return slices.ContainsFunc(c.macs, func(mac string) bool { return slices.Contains(h.MACs, mac) })
}

// shares reports whether the claim has something with h that should be unique in the world.
func shares(c claim, h *api.Host) bool {
	if c.uuid != "" && c.uuid == h.UUID {
		return true
	}
	return slices.ContainsFunc(c.macs, func(mac string) bool { return slices.Contains(h.MACs, mac) })
}

// properUUID returns u in lower case, or nothing when it is one that vendors leave in by accident.
func properUUID(u string) string {
	u = strings.ToLower(strings.TrimSpace(u))
	digits := strings.ReplaceAll(u, "-", "")
	if len(digits) != 32 || strings.Trim(digits, digits[:1]) == "" || u == "03000200-0400-0500-0006-000700080009" {
		return ""
	}
	return u
}

// approvable decides whether an operator may admit h now. rivals are the hosts that claim the same hardware.
func approvable(h *api.Host, a *api.Approval, rivals []*api.Host, live func(id string) bool) error {
	switch {
	case h.Phase == api.InService:
		return &api.Problem{Kind: api.Conflict, Detail: "cannot approve host " + h.Name + ": it is in service",
			Hint: "to install it anew, forget it and boot it from the network"}
	case h.Phase != api.Discovered:
		return api.Conflict.Errorf("cannot approve host %s: it is %s already", h.Name, h.Phase)
	case a.Fingerprint != "" && a.Fingerprint != h.Fingerprint:
		return api.Conflict.Errorf("cannot approve host %s: its key is %s, not %s", h.Name, Show(h.Fingerprint), Show(a.Fingerprint))
	case !live(h.ID):
		return &api.Problem{Kind: api.Gone, Detail: "cannot approve host " + h.Name + ": the machine has left; it was last heard of at " + h.LastSeen.Format("2006-01-02 15:04:05 MST"),
			Hint: "boot it from the network again; it will report itself within a minute or two"}
	case len(rivals) > 0 && a.Fingerprint == "":
		return &api.Problem{Kind: api.Conflict, Detail: "cannot approve host " + h.Name + ": host " + rivals[0].Name + " claims the same hardware with another key",
			Hint: "compare the fingerprint on the machine's console and give it with --fingerprint"}
	}
	for _, rival := range rivals {
		if slices.ContainsFunc(h.MACs, func(mac string) bool { return slices.Contains(rival.MACs, mac) }) && live(rival.ID) {
			return &api.Problem{Kind: api.Conflict, Detail: "cannot approve host " + h.Name + ": host " + rival.Name + " has the same MAC address and is alive",
				Hint: "power one of them off, or forget the other"}
		}
	}
	return nil
}

// chooseDisk picks where to install: the wanted disk, or the smallest that is large enough.
func chooseDisk(inventory *api.Inventory, wanted string, need int64) (string, error) {
	var best *api.Disk
	for i := range inventory.Disks {
		disk := &inventory.Disks[i]
		if wanted != "" {
			if wanted != disk.Path && wanted != disk.ID {
				continue
			}
			if disk.Size < need {
				return "", api.Invalid.Errorf("cannot install to %s: it has %d bytes, the release needs %d", wanted, disk.Size, need)
			}
			return stable(disk), nil
		}
		if disk.Removable || disk.ReadOnly || disk.Bus == "usb" || disk.Size < need {
			continue
		}
		if best == nil || disk.Size < best.Size || disk.Size == best.Size && disk.Path < best.Path {
			best = disk
		}
	}
	switch {
	case best != nil:
		return stable(best), nil
	case wanted != "":
		return "", api.Invalid.Errorf("cannot install to %s: the machine has no such disk", wanted)
	}
	return "", api.Invalid.Errorf("cannot install: the machine has no fixed disk of %d bytes or more", need)
}

// stable prefers a disk's own name, which does not depend on the order in which drivers found the disks.
func stable(disk *api.Disk) string {
	if disk.ID != "" {
		return disk.ID
	}
	return disk.Path
}
