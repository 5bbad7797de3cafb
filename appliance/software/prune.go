package software

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
)

const (
	keepReleases = 3              // of each name, the newest, though nothing uses them
	pruneAge     = 24 * time.Hour // what came later may belong to a push under way, or to an update about to start
	pruneFirst   = time.Hour      // after the manager's start; then daily
)

// Prunable is a shelf that releases can be taken from. A shelf that is not is left alone.
type Prunable interface {
	// Arrived returns when the release came to the shelf.
	Arrived(ctx context.Context, digest images.Digest) (time.Time, error)
	// Remove takes the release from the shelf.
	Remove(ctx context.Context, digest images.Digest) error
	// Sweep frees what no release of the shelf names and is older than age, and returns how many bytes that was.
	Sweep(ctx context.Context, age time.Duration) (int64, error)
}

// Prune takes from the shelf what no host runs, could fall back to, was promised or is being given, beyond the newest of each
// name and what came within a day. Dry only tells.
func (m *Manager) Prune(ctx context.Context, by store.Actor, want *api.Prune) (*api.Prune, error) {
	shelf, ok := m.config.Shelf.(Prunable)
	if !ok {
		return nil, api.Conflict.Errorf("cannot prune releases: this shelf is not the site's own")
	}
	if want.Keep < 0 {
		return nil, api.Invalid.Errorf("cannot prune releases: %d cannot be kept", want.Keep)
	}
	out := &api.Prune{Keep: want.Keep, Dry: want.Dry}
	if out.Keep == 0 {
		out.Keep = keepReleases
	}
	m.starting.Lock() // an update that starts meanwhile would choose what is removed
	defer m.starting.Unlock()
	releases, err := m.config.Shelf.Releases(ctx)
	if err != nil {
		return nil, err
	}
	used, err := m.used(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range spare(releases, used, out.Keep) {
		arrived, err := shelf.Arrived(ctx, r.Digest)
		if err != nil {
			return nil, err
		}
		if m.config.Now().Sub(arrived) < pruneAge {
			continue
		}
		if !out.Dry {
			if err := shelf.Remove(ctx, r.Digest); err != nil {
				return nil, err
			}
		}
		out.Removed = append(out.Removed, r)
	}
	if out.Dry {
		return out, nil
	}
	if out.Freed, err = shelf.Sweep(ctx, pruneAge); err != nil {
		return nil, err
	}
	return out, m.recordPrune(ctx, by, out)
}

func (m *Manager) recordPrune(ctx context.Context, by store.Actor, p *api.Prune) error {
	if len(p.Removed) == 0 && p.Freed == 0 {
		return nil
	}
	var names []string
	for _, r := range p.Removed {
		names = append(names, r.Name+" "+string(r.Version))
	}
	_, err := m.config.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Audit(by, "prune releases", "shelf", fmt.Sprintf("removed %d (%s), freed %d bytes", len(names), strings.Join(names, ", "), p.Freed))
		return nil
	})
	return err
}

// used is every release that a record of the site names.
func (m *Manager) used(ctx context.Context) (map[images.Digest]bool, error) {
	used := map[images.Digest]bool{}
	err := m.config.Store.View(ctx, func(tx *store.Tx) error {
		if site := store.Sites().Get(tx, "site"); site != nil {
			used[site.Current] = true
		}
		for _, h := range store.Hosts().List(tx) {
			for _, r := range []*api.Release{h.Software.Running, h.Software.Fallback, h.Software.Wanted} {
				if r != nil {
					used[r.Digest] = true
				}
			}
			if h.Approval != nil {
				used[h.Approval.Release] = true
			}
		}
		if u := current(tx); u != nil {
			used[u.Release.Digest] = true
		}
		return nil
	})
	return used, err
}

// spare returns the releases that are neither used nor among the newest of their name.
func spare(releases []api.Release, used map[images.Digest]bool, keep int) (out []api.Release) {
	sorted := slices.Clone(releases)
	slices.SortStableFunc(sorted, func(a, b api.Release) int { return b.Version.Compare(a.Version) })
	seen := map[string]int{}
	for _, r := range sorted {
		seen[r.Name]++
		if seen[r.Name] > keep && !used[r.Digest] {
			out = append(out, r)
		}
	}
	return out
}

// pruneDaily prunes by itself until ctx ends.
func (m *Manager) pruneDaily(ctx context.Context) {
	timer := time.NewTimer(pruneFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(24 * time.Hour)
		if _, err := m.Prune(ctx, store.Actor{Name: "manager/software"}, &api.Prune{}); err != nil && ctx.Err() == nil {
			m.config.Log.Warn("cannot prune the site's shelf", "error", err)
		}
	}
}
