package ceph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// cluster is what the cluster says of itself: ceph status and ceph osd dump.
type cluster struct {
	Quorum []string `json:"quorum_names"`
	Health struct {
		Status string `json:"status"`
		Checks map[string]struct {
			Summary struct {
				Message string `json:"message"`
			} `json:"summary"`
		} `json:"checks"`
	} `json:"health"`
	Placement struct {
		Groups []struct {
			State string `json:"state_name"`
			Count int    `json:"count"`
		} `json:"pgs_by_state"`
	} `json:"pgmap"`
	Manager struct {
		Available bool              `json:"available"`
		Services  map[string]string `json:"services"`
	} `json:"mgrmap"`

	Files struct { // systems
		ID      int `json:"id"` // of one; 0: there is none
		Servers []struct {
			Status string `json:"status"`
		} `json:"by_rank"`
	} `json:"fsmap"`

	OSDs  []member `json:"-"`
	Pools []pool   `json:"-"`
}

// member is an OSD as the cluster sees it.
type member struct {
	ID   int    `json:"osd"`
	UUID string `json:"uuid"`
	Up   int    `json:"up"`
	In   int    `json:"in"`
}

// pool is a pool as it is.
type pool struct {
	Name         string                    `json:"pool_name"`
	Size         int                       `json:"size"`
	MinSize      int                       `json:"min_size"`
	Applications map[string]map[string]any `json:"application_metadata"`
}

// wishedPool is a pool as it is to be made.
type wishedPool struct {
	name        string
	application string // rbd, cephfs or rgw
	groups      int    // placement groups that it has at the least; Ceph's own number when 0
}

// For how long an answer of the cluster is taken for granted: asking costs two processes of Python. A healthy cluster is asked
// rarely; one that is about to be is asked often, and ever less so the longer it takes.
const (
	restHealthy = 30 * time.Second
	restLeast   = time.Second
	restMost    = 15 * time.Second
)

// ceph runs the ceph program as the administrator of the cluster.
func (h *Host) ceph(ctx context.Context, input []byte, args ...string) ([]byte, error) {
	out, err := h.Machine.Run(ctx, input, "ceph", append([]string{"--connect-timeout", "5"}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("cannot ask Ceph (%s): %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// query runs a command and decodes its JSON.
func (h *Host) query(ctx context.Context, into any, args ...string) error {
	out, err := h.ceph(ctx, nil, append(args, "--format", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("cannot read Ceph's answer to %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// sight is the last answer of the cluster.
type sight struct {
	cluster *cluster
	at      time.Time
	healthy bool      // the bring-up came to its end with it; a cluster without disks is healthy, too
	since   time.Time // when it was not healthy, or something was done about it
}

// fresh reports whether the answer still stands.
func (s *sight) fresh(now time.Time) bool {
	rest := restHealthy
	if !s.healthy {
		rest = min(max(now.Sub(s.since)/16, restLeast), restMost)
	}
	return s.cluster != nil && now.Sub(s.at) < rest
}

// see returns the state of the cluster, as it was a moment ago.
func (h *Host) see(ctx context.Context) (*cluster, error) {
	h.mu.Lock()
	last, fresh := h.last.cluster, h.last.fresh(h.Now())
	h.mu.Unlock()
	if fresh {
		return last, nil
	}
	c := &cluster{}
	if err := h.query(ctx, c, "status"); err != nil {
		return nil, err
	}
	dump := struct {
		OSDs  []member `json:"osds"`
		Pools []pool   `json:"pools"`
	}{}
	if err := h.query(ctx, &dump, "osd", "dump"); err != nil {
		return nil, err
	}
	c.OSDs, c.Pools = dump.OSDs, dump.Pools
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last.cluster, h.last.at = c, h.Now()
	return c, nil
}

// settle is told at the end of the steps whether all is well.
func (h *Host) settle(healthy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.healthy && !healthy {
		h.last.since = h.Now()
	}
	h.last.healthy = healthy
}

// changed is called where something is done about the cluster.
func (h *Host) changed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = sight{since: h.Now()}
}

// inQuorum asks whether the monitor of this host takes part in decisions.
func (c *cluster) inQuorum(node string) error {
	if !slices.Contains(c.Quorum, node) {
		return fmt.Errorf("the monitor %s is not in the quorum of Ceph", node)
	}
	return nil
}

// managed asks whether a manager is at work and tells its figures (Prometheus) at an address.
func (c *cluster) managed(address netip.Addr) error {
	if !c.Manager.Available {
		return errors.New("no manager of Ceph is available")
	}
	at := c.Manager.Services["prometheus"]
	if at == "" {
		return errors.New("the manager of Ceph does not tell its figures yet")
	}
	if u, err := url.Parse(at); err != nil || u.Hostname() != address.String() {
		return fmt.Errorf("the manager of Ceph tells its figures at %s, not at %s", at, address)
	}
	return nil
}

// pooled asks whether the pools are there, each for its application, and whether every pool has the copies that are wanted.
func (c *cluster) pooled(wished []wishedPool, copies int) error {
	for _, w := range wished {
		i := slices.IndexFunc(c.Pools, func(p pool) bool { return p.Name == w.name })
		if i < 0 {
			return fmt.Errorf("there is no pool %s", w.name)
		}
		if _, ok := c.Pools[i].Applications[w.application]; !ok {
			return fmt.Errorf("pool %s is not for %s yet", w.name, w.application)
		}
	}
	for _, p := range c.Pools {
		if p.Size != copies || p.MinSize != least(copies) {
			return fmt.Errorf("pool %s keeps %d copies and needs %d to write, not %d and %d", p.Name, p.Size, p.MinSize, copies, least(copies))
		}
	}
	return nil
}

// serves asks whether the cluster sees an OSD at work.
func (c *cluster) serves(o *osd) error {
	i := slices.IndexFunc(c.OSDs, func(m member) bool { return m.ID == o.ID })
	switch {
	case i < 0 || c.OSDs[i].UUID != o.UUID:
		return fmt.Errorf("the cluster does not know OSD %d of disk %s", o.ID, o.Path)
	case c.OSDs[i].Up == 0:
		return fmt.Errorf("OSD %d of disk %s is not up", o.ID, o.Path)
	case c.OSDs[i].In == 0:
		return fmt.Errorf("OSD %d of disk %s gets no data", o.ID, o.Path)
	}
	return nil
}

// healthy asks for HEALTH_OK, and for all data to be reachable.
func (c *cluster) healthy() error {
	if c.Health.Status != "HEALTH_OK" {
		var why []string
		for _, name := range sorted(c.Health.Checks) {
			why = append(why, fmt.Sprintf("%s (%s)", c.Health.Checks[name].Summary.Message, name))
		}
		return fmt.Errorf("the cluster says %s: %s", c.Health.Status, strings.Join(why, "; "))
	}
	for _, g := range c.Placement.Groups {
		if !slices.Contains(strings.Split(g.State, "+"), "active") {
			return fmt.Errorf("%d placement groups of Ceph are %s", g.Count, g.State)
		}
	}
	return nil
}
