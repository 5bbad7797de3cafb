package software

import (
	"context"
	"fmt"
	"slices"
	"sort"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
)

const maxParallelism = 64

// Start begins a rollout of want.Release, named by digest or by name and version.
func (m *Manager) Start(ctx context.Context, by store.Actor, want *api.Update) (*api.Update, error) {
	m.starting.Lock()
	defer m.starting.Unlock()
	release, err := m.find(ctx, want.Release)
	if err != nil {
		return nil, err
	}
	if want.Parallelism < 0 || want.Parallelism > maxParallelism {
		return nil, api.Invalid.Errorf("cannot start update: parallelism %d is not between 1 and %d", want.Parallelism, maxParallelism)
	}
	var update *api.Update
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		if other := current(tx); other != nil {
			return &api.Problem{Kind: api.Conflict,
				Detail: fmt.Sprintf("cannot start update: update %s to %s is %s", other.ID, other.Release.Version, other.State),
				Hint:   "roost update status " + other.ID + " shows how far it is; wait for it, or end it with roost update abort " + other.ID}
		}
		hosts, err := choose(tx, want.Only)
		if err != nil {
			return err
		}
		if err := admissible(tx, hosts, release, want.Force); err != nil {
			return err
		}
		update = &api.Update{
			Schema: 1, ID: tx.NextID(), Release: *release, Parallelism: max(1, want.Parallelism), Only: want.Only, Force: want.Force,
			State: api.Running, By: by.Name, Started: tx.Now(),
		}
		for _, h := range hosts {
			update.Hosts = append(update.Hosts, api.HostUpdate{Host: h.ID, Name: h.Name, State: waiting})
		}
		store.Updates().Put(tx, update)
		tx.Audit(by, "start update", "update/"+update.ID, fmt.Sprintf("release %s %s, %d hosts", release.Name, release.Version, len(hosts)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return update, nil
}

// find looks the release up on the shelf.
func (m *Manager) find(ctx context.Context, want api.Release) (*api.Release, error) {
	if want.Digest != "" {
		release, _, err := m.config.Shelf.Release(ctx, want.Digest)
		return release, err
	}
	releases, err := m.config.Shelf.Releases(ctx)
	if err != nil {
		return nil, err
	}
	var found []api.Release
	for _, r := range releases {
		if r.Version == want.Version && (want.Name == "" || want.Name == r.Name) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return nil, &api.Problem{Kind: api.NotFound, Detail: fmt.Sprintf("cannot start update: no release %s %s is on the site's shelf", want.Name, want.Version),
			Hint: "push it with roost release push; see roost release list"}
	case 1:
		return &found[0], nil
	}
	return nil, api.Conflict.Errorf("cannot start update: %d releases have version %s; name the digest", len(found), want.Version)
}

// choose returns the hosts of an update in rollout order: workers by name, then controllers.
func choose(tx *store.Tx, only []string) (hosts []*api.Host, err error) {
	if len(only) == 0 {
		for _, h := range store.Hosts().List(tx) {
			if h.Phase == api.InService {
				hosts = append(hosts, h)
			}
		}
	}
	for _, ref := range only {
		h, err := store.FindHost(tx, ref)
		if err != nil {
			return nil, err
		}
		if h.Phase != api.InService {
			return nil, api.Conflict.Errorf("cannot update host %s: it is %s", h.Name, h.Phase)
		}
		if !slices.ContainsFunc(hosts, func(o *api.Host) bool { return o.ID == h.ID }) {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == 0 {
		return nil, api.Conflict.Errorf("cannot start update: no host is in service")
	}
	sort.SliceStable(hosts, func(i, j int) bool {
		if a, b := hosts[i].Personality.Controls(), hosts[j].Personality.Controls(); a != b {
			return b
		}
		return hosts[i].Name < hosts[j].Name
	})
	return hosts, nil
}

// admissible refuses a release that could not go onto these hosts, before any of them is touched.
func admissible(tx *store.Tx, hosts []*api.Host, release *api.Release, force bool) error {
	same := 0
	for _, h := range hosts {
		running, hardware := h.Software.Running, store.PerHost[api.Inventory]("inventory").Get(tx, h.ID)
		switch {
		case slices.Contains(refusals(h), release.Digest):
			return &api.Problem{Kind: api.Conflict, Detail: fmt.Sprintf("cannot start update: host %s refuses %s %s, which failed on it", h.Name, release.Name, release.Version),
				Hint: "roost host show " + h.Name + " tells why; roost host clear " + h.Name + " lifts the refusal"}
		case hardware != nil && hardware.CPU.Architecture != release.Architecture:
			return api.Invalid.Errorf("cannot start update: release %s %s is for %s, host %s is %s", release.Name, release.Version, release.Architecture, h.Name, hardware.CPU.Architecture)
		case running == nil:
			continue
		case running.Digest == release.Digest:
			same++
		case force:
		case running.Name == release.Name && release.Version.Compare(running.Version) < 0:
			return &api.Problem{Kind: api.Conflict, Detail: fmt.Sprintf("cannot start update: %s is older than %s, which host %s runs", release.Version, running.Version, h.Name), Hint: "use --force to go back on purpose"}
		case running.Name == release.Name && release.Version.Compare(running.Version) == 0:
			return &api.Problem{Kind: api.Conflict, Detail: fmt.Sprintf("cannot start update: host %s runs another build of version %s", h.Name, release.Version), Hint: "give the new build a new version, or use --force"}
		}
	}
	if same == len(hosts) {
		return api.Conflict.Errorf("cannot start update: every host runs %s %s already", release.Name, release.Version)
	}
	return nil
}

func refusals(h *api.Host) (out []images.Digest) {
	for _, failure := range h.Software.Failures {
		if !slices.Contains(h.Software.Cleared, failure.Release) {
			out = append(out, failure.Release)
		}
	}
	return out
}

// Resume continues a paused update. A host that failed is tried again if its failure was cleared, else skipped.
func (m *Manager) Resume(ctx context.Context, by store.Actor, id string) (*api.Update, error) {
	return m.change(ctx, by, id, "resume update", func(tx *store.Tx, u *api.Update) error {
		if u.State != api.Paused {
			return api.Conflict.Errorf("cannot resume update %s: it is %s", u.ID, u.State)
		}
		for i := range u.Hosts {
			hu := &u.Hosts[i]
			if hu.State != failed {
				continue
			}
			hu.State = waiting
			if h := store.Hosts().Get(tx, hu.Host); h == nil || slices.Contains(refusals(h), u.Release.Digest) {
				hu.State = skipped
			}
		}
		u.State, u.Reason = api.Running, ""
		return nil
	})
}

// Abort ends an update. A host that is being tried finishes its trial; the others stay with what they run.
func (m *Manager) Abort(ctx context.Context, by store.Actor, id string) (*api.Update, error) {
	return m.change(ctx, by, id, "abort update", func(tx *store.Tx, u *api.Update) error {
		if u.State == api.Done {
			return api.Conflict.Errorf("cannot abort update %s: it is done", u.ID)
		}
		for i := range u.Hosts {
			hu := &u.Hosts[i]
			if hu.State == running {
				if h := store.Hosts().Get(tx, hu.Host); h != nil {
					withdraw(h)
					store.Hosts().Put(tx, h)
				}
			}
			if hu.State == waiting || hu.State == running {
				hu.State, hu.Finished = skipped, tx.Now()
			}
		}
		u.State, u.Finished, u.Reason = api.Done, tx.Now(), "aborted by "+by.Name+": "+summary(u)
		return nil
	})
}

func (m *Manager) change(ctx context.Context, by store.Actor, id, action string, f func(*store.Tx, *api.Update) error) (u *api.Update, err error) {
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		if u, err = Find(tx, id); err != nil {
			return err
		}
		if err := f(tx, u); err != nil {
			return err
		}
		store.Updates().Put(tx, u)
		tx.Audit(by, action, "update/"+u.ID, u.Reason)
		return nil
	})
	return u, err
}

// Find returns the update with the id; "latest" names the newest.
func Find(tx *store.Tx, id string) (*api.Update, error) {
	if id == "latest" {
		if updates := store.Updates().List(tx); len(updates) > 0 {
			return updates[len(updates)-1], nil
		}
		return nil, api.NotFound.Errorf("cannot find update: there was none on this site")
	}
	if u := store.Updates().Get(tx, id); u != nil {
		return u, nil
	}
	return nil, api.NotFound.Errorf("cannot find update %q", id)
}

// SetCurrent chooses the release that new machines are installed with.
func (m *Manager) SetCurrent(ctx context.Context, by store.Actor, digest images.Digest) (*api.Site, error) {
	release, _, err := m.config.Shelf.Release(ctx, digest)
	if err != nil {
		return nil, err
	}
	var site *api.Site
	_, err = m.config.Store.Update(ctx, func(tx *store.Tx) error {
		if site = store.Sites().Get(tx, "site"); site == nil {
			return api.NotFound.Errorf("cannot choose release: the site has no record yet")
		}
		site.Current = digest
		store.Sites().Put(tx, site)
		tx.Audit(by, "choose release", "release/"+string(digest), release.Name+" "+string(release.Version))
		return nil
	})
	return site, err
}
