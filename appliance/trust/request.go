package trust

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
)

// Enrol takes the report of a machine that proved possession of key. Reporting again changes nothing but the facts.
func (m *Manager) Enrol(ctx context.Context, key images.Digest, source string, e *api.Enrolment) (*api.Host, error) {
	now := m.config.Now()
	if !m.allow(source, now) {
		return nil, api.Busy.Errorf("cannot enrol: too many requests from %s; try again in a few seconds", source)
	}
	if err := checkEnrolment(e, key); err != nil {
		return nil, err
	}
	inventory := e.Inventory
	c := claim{key: key, uuid: properUUID(inventory.System.UUID), macs: inventory.MACs()}
	var host *api.Host
	var installed bool // before, by its record: such a machine needs a person's approval to be installed again
	_, err := m.config.Store.Update(ctx, func(tx *store.Tx) error {
		hosts := store.Hosts().Scan(tx)
		installed = slices.ContainsFunc(hosts, func(h *api.Host) bool {
			return (h.Phase == api.Installed || h.Phase == api.InService) && same(c, h)
		})
		decision, err := admit(c, hosts, m.liveIn(hosts, now), m.config.Limits.Waiting)
		if err != nil {
			return err
		}
		host = m.record(tx, decision, c)
		describe(host, e, source, tx.Now())
		host.Rivals = decision.rivals
		store.Hosts().Put(tx, host)
		for _, rival := range hosts {
			if slices.Contains(decision.rivals, rival.ID) && !slices.Contains(rival.Rivals, host.ID) {
				rival = store.Hosts().Get(tx, rival.ID)
				rival.Rivals = append(rival.Rivals, host.ID)
				store.Hosts().Put(tx, rival)
				tx.Audit(store.Actor{Name: "manager/trust"}, "flag rival", "host/"+rival.ID, "host "+host.ID+" claims the same hardware with another key")
			}
		}
		stripped := *e
		stripped.Inventory = api.Inventory{}
		enrolments().PutAs(tx, host.ID, &stripped)
		Inventories().PutAs(tx, host.ID, &inventory)
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.Heard(host.ID)
	if installed {
		return host, nil
	}
	return host, m.approveAutomatically(ctx, host, &inventory)
}

func (m *Manager) approveAutomatically(ctx context.Context, host *api.Host, inventory *api.Inventory) error {
	if m.config.Auto == nil || host.Phase != api.Discovered {
		return nil
	}
	approval := m.config.Auto(host, inventory)
	if approval == nil {
		return nil
	}
	approved, err := m.Approve(ctx, store.Actor{Name: "manager/trust"}, host.ID, approval)
	if err != nil {
		m.config.Log.Error("cannot approve machine automatically", "host", host.ID, "error", err)
		return nil // the machine waits, and the reason is for the operator
	}
	*host = *approved
	return nil
}

// liveIn is answering by id.
func (m *Manager) liveIn(hosts []*api.Host, now time.Time) func(string) bool {
	return func(id string) bool {
		i := slices.IndexFunc(hosts, func(h *api.Host) bool { return h.ID == id })
		return i >= 0 && m.answering(hosts[i], now)
	}
}

// record finds or makes the host's record as admit decided.
func (m *Manager) record(tx *store.Tx, decision admission, c claim) *api.Host {
	actor := store.Actor{Name: "enrolling/" + c.key.Hex()[:16]}
	if decision.host == "" {
		id := uuid.NewString()
		tx.Audit(actor, "discover host", "host/"+id, "key "+Show(c.key))
		return &api.Host{
			Schema: 1, ID: id, Name: "new-" + id[:8], Phase: api.Discovered, Fingerprint: c.key, FirstSeen: tx.Now(),
			Administrative: api.Locked, Operational: api.Disabled, Availability: api.Online, Reason: "waits for approval",
		}
	}
	h := store.Hosts().Get(tx, decision.host)
	if decision.reset {
		tx.Audit(actor, "rediscover host", "host/"+h.ID, fmt.Sprintf("was %s; key is now %s", h.Phase, Show(c.key)))
		h.Reason = "waits for approval"
		if h.Phase != api.Discovered {
			h.Reason = "waits for approval; an earlier installation did not finish"
		}
		h.Phase, h.Fingerprint, h.Approval, h.Software = api.Discovered, c.key, nil, api.Software{}
		h.Operational = api.Disabled
		grants().Delete(tx, h.ID)
	}
	if h.Phase == api.Discovered && h.Availability == api.Offline {
		h.Reason = "waits for approval"
	}
	h.Availability = api.Online
	return h
}

// describe copies the facts of an enrolment into the host's record.
func describe(h *api.Host, e *api.Enrolment, source string, now time.Time) {
	i := &e.Inventory
	i.Describe(h)
	h.UUID, h.BootMAC = properUUID(i.System.UUID), strings.ToLower(e.BootMAC)
	h.Origin, h.BootID, h.SecureBoot = e.Origin, e.BootID, i.Firmware.SecureBoot
	h.Vitals = e.Vitals
	h.Addresses = []string{source}
	h.LastSeen = now
}

// checkEnrolment refuses what cannot be right before anything is kept of it.
func checkEnrolment(e *api.Enrolment, key images.Digest) error {
	public, err := parseRequest(e.Request)
	if err != nil {
		return api.Invalid.Errorf("cannot enrol: certificate request: %v", err)
	}
	switch {
	case e.Schema != 1:
		return api.Invalid.Errorf("cannot enrol: schema %d is not known here", e.Schema)
	case Fingerprint(public) != key:
		return api.Denied.Errorf("cannot enrol: the connection was made with another key than the request")
	case len(e.Nonce) != 64 || strings.Trim(e.Nonce, "0123456789abcdef") != "":
		return api.Invalid.Errorf("cannot enrol: the nonce is not 32 bytes in hexadecimal")
	case len(e.Inventory.MACs()) == 0:
		return api.Invalid.Errorf("cannot enrol: the machine reports no network interface")
	case len(e.Inventory.NICs) > 512 || len(e.Inventory.Disks) > 4096 || len(e.Inventory.PCI) > 8192:
		return api.Invalid.Errorf("cannot enrol: the inventory is larger than any machine")
	}
	if e.Authority != "" {
		if _, err := parseRequest(e.Authority); err != nil {
			return api.Invalid.Errorf("cannot enrol: request for an authority: %v", err)
		}
	}
	return nil
}

// Approve admits the machine that ref names: it makes and signs the grant that the machine waits for.
func (m *Manager) Approve(ctx context.Context, by store.Actor, ref string, approval *api.Approval) (*api.Host, error) {
	if err := approval.Validate(); err != nil {
		return nil, err
	}
	var hosts, rivals []*api.Host
	judge := func(tx *store.Tx) (*api.Host, error) {
		h, err := store.FindHost(tx, ref)
		if err != nil {
			return nil, err
		}
		hosts = store.Hosts().Scan(tx)
		rivals = rivalsOf(h, hosts)
		return h, approvable(h, approval, rivals, m.liveIn(hosts, m.config.Now()))
	}
	// First what is wrong with the request, then what is wrong with the release.
	if err := m.config.Store.View(ctx, func(tx *store.Tx) error { _, err := judge(tx); return err }); err != nil {
		return nil, err
	}
	release, needs, err := m.choose(ctx, approval)
	if err != nil {
		return nil, err
	}
	var host *api.Host
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		h, err := judge(tx)
		if err != nil {
			return err
		}
		if err := m.assign(tx, h, hosts, approval, by, release, needs); err != nil {
			return err
		}
		for _, rival := range rivals {
			if same(claim{uuid: h.UUID, macs: h.MACs}, rival) {
				remove(tx, rival)
				tx.Audit(by, "forget host", "host/"+rival.ID, "replaced by host/"+h.ID)
			}
		}
		h.Rivals = nil
		store.Hosts().Put(tx, h)
		tx.Audit(by, "approve host", "host/"+h.ID, fmt.Sprintf("name %s, personality %s, key %s, disk %s, release %s %s",
			h.Name, h.Personality, Show(h.Fingerprint), h.Disk, release.Name, release.Version))
		host = h
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.wakeAll()
	return host, nil
}

func rivalsOf(h *api.Host, hosts []*api.Host) (rivals []*api.Host) {
	for _, other := range hosts {
		if slices.Contains(h.Rivals, other.ID) {
			rivals = append(rivals, other)
		}
	}
	return rivals
}

// choose finds the release to install.
func (m *Manager) choose(ctx context.Context, approval *api.Approval) (*api.Release, *images.Needs, error) {
	digest := approval.Release
	if digest == "" {
		err := m.config.Store.View(ctx, func(tx *store.Tx) error {
			if site := store.Sites().Get(tx, "site"); site != nil {
				digest = site.Current
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if digest == "" {
		return nil, nil, &api.Problem{Kind: api.Conflict, Detail: "cannot approve host: the site has no release to install", Hint: "push one with roost release push"}
	}
	return m.config.Shelf.Release(ctx, digest)
}

// assign makes the grant for h and moves it on to approved.
func (m *Manager) assign(tx *store.Tx, h *api.Host, hosts []*api.Host, a *api.Approval, by store.Actor, release *api.Release, needs *images.Needs) error {
	site := store.Sites().Get(tx, "site")
	enrolment, inventory := enrolments().Get(tx, h.ID), Inventories().Get(tx, h.ID)
	if site == nil || enrolment == nil || inventory == nil {
		return api.Conflict.Errorf("cannot approve host %s: its enrolment is incomplete", h.Name)
	}
	switch {
	case inventory.Firmware.Kind == "bios":
		return api.Invalid.Errorf("cannot approve host %s: it started with BIOS firmware, and a release needs UEFI; switch the firmware's boot mode", h.Name)
	case inventory.CPU.Architecture != release.Architecture:
		return api.Invalid.Errorf("cannot approve host %s: release %s %s is for %s, the machine is %s", h.Name, release.Name, release.Version, release.Architecture, inventory.CPU.Architecture)
	case a.Personality.Controls() && !m.config.Authority.IsRoot():
		return api.Invalid.Errorf("cannot approve host %s as %s: only the seed, which holds the site's root key, makes controllers", h.Name, a.Personality)
	}
	disk, err := chooseDisk(inventory, a.Disk, needs.Disk)
	if err != nil {
		return err
	}
	if a.Name != "" {
		h.Name = a.Name
	}
	if i := slices.IndexFunc(hosts, func(o *api.Host) bool { return o.Name == h.Name && o.ID != h.ID && !slices.Contains(h.Rivals, o.ID) }); i >= 0 {
		return api.Conflict.Errorf("cannot approve host %s: host %s has this name already", h.ID, hosts[i].ID)
	}
	stored := *a
	stored.By, stored.Time, stored.Fingerprint, stored.Release, stored.Disk = by.Name, tx.Now(), h.Fingerprint, release.Digest, disk
	h.Approval, h.Personality, h.Disk = &stored, a.Personality, disk
	h.Phase, h.Reason = api.Approved, "fetches its grant"
	config := m.configure(h, inventory)
	if a.Resources != nil {
		config.Resources = *a.Resources
	}
	if err := config.Resources.Fit(inventory, needs.Memory); err != nil {
		return &api.Problem{Kind: api.Invalid, Detail: fmt.Sprintf("cannot approve host %s: %v", h.Name, err), Hint: "give it its own resources with --platform-cpus and --huge-pages; an empty --platform-cpus gives it none"}
	}
	store.Configs().PutAs(tx, h.ID, config)
	grant, err := m.grant(tx, h, enrolment, site, release, config)
	if err != nil {
		return err
	}
	grants().PutAs(tx, h.ID, grant)
	return nil
}

func (m *Manager) configure(h *api.Host, inventory *api.Inventory) *api.Config {
	if m.config.Configure != nil {
		if config := m.config.Configure(h, inventory); config != nil {
			config.Schema = 1
			config.Hostname = h.Name
			return config
		}
	}
	return &api.Config{Schema: 1, Hostname: h.Name}
}

func (m *Manager) grant(tx *store.Tx, h *api.Host, e *api.Enrolment, site *api.Site, release *api.Release, config *api.Config) (*api.Grant, error) {
	public, err := parseRequest(e.Request)
	if err != nil {
		return nil, err
	}
	now, a := tx.Now(), m.config.Authority
	out := &api.Assignment{
		Schema: 1, Site: site.Name, Root: a.RootPEM(), Host: h.ID, Name: h.Name, Personality: h.Personality,
		Fingerprint: h.Fingerprint, Nonce: e.Nonce, Disk: h.Disk, Wipe: h.Approval.Wipe,
		Release: release.Digest, Repository: release.Name, Registry: m.config.Registry, Controllers: site.Controllers,
		Config: *config, Time: now,
	}
	if h.Personality.Controls() {
		key, err := parseRequest(e.Authority)
		if err != nil {
			return nil, api.Invalid.Errorf("cannot approve host %s as controller: request for an authority: %v", h.Name, err)
		}
		if out.Authority, err = a.Intermediate(key, h.ID, now); err != nil {
			return nil, err
		}
		for fingerprint, operator := range site.Operators {
			out.Operators = append(out.Operators, string(fingerprint)+" "+operator)
		}
		slices.Sort(out.Operators)
	}
	if out.Certificate, err = a.Node(public, h.ID, h.Personality, now); err != nil {
		return nil, err
	}
	return a.Grant(out)
}

func (m *Manager) wakeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.wake)
	m.wake = make(chan struct{})
}

// Await returns the grant for the key, waiting for it up to d; nil when there is none yet.
func (m *Manager) Await(ctx context.Context, key images.Digest, d time.Duration) (*api.Grant, error) {
	host, err := m.holder(ctx, key)
	if err != nil {
		return nil, err
	}
	m.arrive(host)
	defer m.leave(host)
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		m.mu.Lock()
		wake := m.wake
		m.mu.Unlock()
		grant, err := m.granted(ctx, host, key)
		if err != nil || grant != nil {
			return grant, err
		}
		select {
		case <-wake:
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (m *Manager) arrive(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.polls[id]++
}

func (m *Manager) leave(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.polls[id]--; m.polls[id] == 0 {
		delete(m.polls, id)
	}
	m.heard[id] = m.config.Now()
}

// holder finds the host with the key.
func (m *Manager) holder(ctx context.Context, key images.Digest) (id string, err error) {
	err = m.config.Store.View(ctx, func(tx *store.Tx) error {
		for _, h := range store.Hosts().Scan(tx) {
			if h.Fingerprint == key {
				id = h.ID
				return nil
			}
		}
		return unknownKey()
	})
	return id, err
}

func (m *Manager) granted(ctx context.Context, host string, key images.Digest) (grant *api.Grant, err error) {
	err = m.config.Store.View(ctx, func(tx *store.Tx) error {
		if h := store.Hosts().Get(tx, host); h == nil || h.Fingerprint != key {
			return unknownKey()
		}
		grant = grants().Get(tx, host)
		return nil
	})
	return grant, err
}

func unknownKey() error {
	return api.Gone.Errorf("cannot wait for a grant: no machine with this key is known; enrol again")
}

// Renew signs a new certificate for a host, over the key it has.
func (m *Manager) Renew(ctx context.Context, host string, request string) (chain string, err error) {
	public, err := parseRequest(request)
	if err != nil {
		return "", api.Invalid.Errorf("cannot renew certificate: %v", err)
	}
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		h := store.Hosts().Get(tx, host)
		if h == nil || h.Fingerprint != Fingerprint(public) {
			return api.Denied.Errorf("cannot renew certificate: the request is over another key than the host's")
		}
		chain, err = m.config.Authority.Node(public, h.ID, h.Personality, tx.Now())
		if err != nil {
			return err
		}
		tx.Audit(store.Actor{Name: "host/" + host}, "renew certificate", "host/"+host, "")
		return nil
	})
	return chain, err
}

// Forget removes a host. Its certificate stays valid as mathematics and is worth nothing: no record, no access.
func (m *Manager) Forget(ctx context.Context, by store.Actor, ref string) error {
	_, err := m.config.Store.Update(ctx, func(tx *store.Tx) error {
		h, err := store.FindHost(tx, ref)
		if err != nil {
			return err
		}
		if h.Personality.Controls() && h.Phase == api.InService {
			return api.Conflict.Errorf("cannot forget host %s: it is the controller of this site", h.Name)
		}
		remove(tx, h)
		tx.Audit(by, "forget host", "host/"+h.ID, "name "+h.Name)
		return nil
	})
	if err != nil {
		return err
	}
	m.wakeAll()
	return nil
}
