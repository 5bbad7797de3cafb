package ceph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// Machine is what a bring-up asks of the host; linux.Machine is one.
type Machine interface {
	service.Machine
	Run(ctx context.Context, input []byte, program string, args ...string) ([]byte, error)
	Memory() (int64, error) // of the machine, bytes
}

// Device is an open disk.
type Device interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Size() int64
}

// Host is Ceph on this host.
type Host struct {
	Root        string // of the machine; / on one
	Machine     Machine
	Keys        service.Files // of the directory var/lib/roost/ceph
	Join        func(context.Context, api.Join) (*api.Material, error)
	OpenDisk    func(path string, write bool) (Device, error)     // to write: only a disk that nobody uses
	Signatures  func(r io.ReaderAt, size int64) ([]string, error) // known formats on a disk
	Node        string                                            // name of this host
	Control     bool                                              // a controller
	Controllers []string
	Now         func() time.Time
	Dial        func(ctx context.Context, network, address string) (net.Conn, error) // how the gateway is reached; nil outside of tests

	mu      sync.Mutex // guards the fields below, and the notes
	last    sight
	diskKey []byte // of the site; kept nowhere else on this host
}

// Name is that of the component.
func (h *Host) Name() string { return name }

// Wanted reports whether the configuration wants Ceph here: on the controller, and where it has a disk.
func (h *Host) Wanted(c *api.Config) bool {
	return c.Ceph != nil && (h.Control || len(c.Ceph.On(h.Node)) > 0)
}

// Steps brings Ceph up, or away.
func (h *Host) Steps(c *api.Config) []service.Step {
	if !h.Wanted(c) {
		return []service.Step{{Name: "leave", Holds: h.gone, Make: h.leave, Limit: 5 * time.Minute}}
	}
	p, err := h.plan(c)
	if err != nil {
		return []service.Step{service.Impossible("plan", err)}
	}
	b := &bringUp{Host: h, plan: p}
	steps := []service.Step{
		{Name: "keys", Holds: b.hasKeys, Make: b.fetchKeys},
		{Name: "settings", Holds: b.hasSettings, Make: b.writeSettings},
		{Name: "what is not wished", Holds: b.hasNoMore, Make: b.dropMore},
	}
	if !p.control {
		return append(steps, service.Step{Name: "OSDs", Holds: b.hasOSDs, Make: b.makeOSDs, Limit: 5 * time.Minute}, b.demand("disks", b.accepted))
	}
	steps = append(steps,
		b.start(b.runMonitor(), "monitor", 2*time.Minute),
		b.await("quorum", func(c *cluster) error { return c.inQuorum(p.node) }),
		b.startManager(),
		service.Step{Name: "lost disks", Holds: b.hasPurged, Make: b.purge},
		service.Step{Name: "OSDs", Holds: b.hasOSDs, Make: b.makeOSDs, Limit: 5 * time.Minute},
		b.await("figures", func(c *cluster) error { return c.managed(p.monitor) }),
		b.await("OSDs in the cluster", b.serving),
		b.demand("disks", b.accepted),
		service.Step{Name: "pools", Holds: b.hasPools, Make: b.makePools, Limit: time.Minute})
	if lanes := b.services(); len(lanes) > 0 {
		steps = append(steps, service.Step{Name: "services", Lanes: lanes})
	}
	return append(steps, service.Step{Name: "health", Holds: b.isHealthy, Limit: 5 * time.Minute})
}

// plan is what the configuration means on this host.
func (h *Host) plan(c *api.Config) (p plan, err error) {
	p = plan{wish: c.Ceph.Defaults(), node: h.Node}
	p.wish.Pools = poolsOf(c)
	if p.monitor, err = monitorOf(h.Controllers); err != nil {
		return p, err
	}
	var have []netip.Addr
	for _, i := range c.Interfaces {
		for _, a := range i.Addresses {
			if prefix, err := netip.ParsePrefix(a); err == nil {
				have = append(have, prefix.Addr())
			}
		}
	}
	for _, a := range h.Machine.Addresses() {
		if address, err := netip.ParseAddr(a); err == nil && address.Is4() == p.monitor.Is4() {
			have = append(have, address)
		}
	}
	if p.address, err = within(have, p.wish.Network); err != nil {
		return p, err
	}
	if p.wish.Network == "" && slices.Contains(have, p.monitor) {
		p.address = p.monitor // where others look for the monitor
	}
	p.inner = p.address
	if p.wish.Cluster != "" {
		if p.inner, err = within(have, p.wish.Cluster); err != nil {
			return p, err
		}
	}
	p.control = h.Control && slices.Contains(have, p.monitor) // further controllers run no monitor yet
	p.memory, err = h.Machine.Memory()
	return p, err
}

// poolsOf are the pools that the document names, and one for each use that other components of the site make of Ceph.
func poolsOf(c *api.Config) []string {
	list := slices.Clone(c.Ceph.Defaults().Pools)
	add := func(pool string) {
		if !slices.Contains(list, pool) {
			list = append(list, pool)
		}
	}
	if c.Kubernetes != nil {
		add(poolKubernetes)
	}
	if c.OpenStack != nil {
		add(poolCinder)
		add(poolGlance)
	}
	return list
}

// within returns the first address that is in a network; the very first when none is named.
func within(have []netip.Addr, network string) (netip.Addr, error) {
	if network == "" {
		if len(have) == 0 {
			return netip.Addr{}, errors.New("this host has no address yet")
		}
		return have[0], nil
	}
	prefix, err := netip.ParsePrefix(network)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range have {
		if prefix.Contains(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("this host has no address in %s", network)
}

// bringUp are the facts and acts of one plan.
type bringUp struct {
	*Host
	plan
}

func (b *bringUp) path(name string) string { return filepath.Join("/", b.Root, name) }

// keysFile keeps the site's answer.
const keysFile = "keys.json"

// await is a step that comes by itself.
func (b *bringUp) await(name string, fact func(*cluster) error) service.Step {
	return service.Step{Name: name, Limit: 2 * time.Minute, Holds: func(ctx context.Context) error {
		c, err := b.see(ctx)
		if err != nil {
			return err
		}
		return fact(c)
	}}
}

// demand is a step that people alone can make hold.
func (b *bringUp) demand(name string, fact func(context.Context) error) service.Step {
	return service.Step{Name: name, Holds: fact, Make: fact}
}

// start is the step that a service runs, with settings no older than those that are there.
func (b *bringUp) start(u unit, name string, limit time.Duration) service.Step {
	return service.Step{
		Name: name, Limit: limit,
		Holds: func(ctx context.Context) error { return b.runs(ctx, u) },
		Make: func(ctx context.Context) error {
			b.changed()
			return b.Machine.StartUnit(ctx, u.name)
		},
	}
}

func (b *bringUp) runs(ctx context.Context, u unit) error {
	return service.Runs(ctx, b.Machine, u.name, []string{"active", "reloading"}, b.Root, u.inputs())
}

func (b *bringUp) hasSettings(context.Context) error {
	keys, err := b.keys()
	if err != nil {
		return err
	}
	for _, f := range b.files(keys) {
		if err := service.Written(b.path(f.path), f.text, fs.FileMode(f.mode)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bringUp) writeSettings(context.Context) error {
	b.changed()
	keys, err := b.keys()
	if err != nil {
		return err
	}
	for _, f := range b.files(keys) {
		if err := b.put(f); err != nil {
			return err
		}
	}
	return nil
}

func (b *bringUp) put(f file) error {
	return service.Write(b.path(f.path), f.text, fs.FileMode(f.mode))
}

func (b *bringUp) serving(c *cluster) error {
	list, err := b.disks()
	if err != nil {
		return err
	}
	for _, d := range list {
		if d.deed == serve {
			if err := c.serves(d.noted); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bringUp) hasPools(ctx context.Context) error {
	c, err := b.see(ctx)
	if err != nil {
		return err
	}
	return c.pooled(b.pools(), b.wish.Copies)
}

// makePools makes the pools that lack, and gives every pool the copies that are wanted.
func (b *bringUp) makePools(ctx context.Context) error {
	b.changed()
	c, err := b.see(ctx)
	if err != nil {
		return err
	}
	keys, err := b.keys()
	if err != nil {
		return err
	}
	// Those first who may use them: the monitor may be older than they are.
	if _, err := b.ceph(ctx, []byte(b.clients(keys)), "auth", "import", "--in-file", "-"); err != nil {
		return err
	}
	for _, w := range b.pools() {
		i := slices.IndexFunc(c.Pools, func(p pool) bool { return p.Name == w.name })
		if i < 0 {
			if err := b.makePool(ctx, w); err != nil {
				return err
			}
		}
		if i >= 0 && c.Pools[i].Applications[w.application] != nil {
			continue
		}
		if _, err := b.ceph(ctx, nil, "osd", "pool", "application", "enable", w.name, w.application); err != nil {
			return err
		}
	}
	for _, p := range c.Pools {
		for setting, value := range map[string][2]int{"size": {p.Size, b.wish.Copies}, "min_size": {p.MinSize, least(b.wish.Copies)}} {
			if value[0] == value[1] {
				continue
			}
			args := []string{"osd", "pool", "set", p.Name, setting, fmt.Sprint(value[1])}
			if value[1] == 1 {
				args = append(args, "--yes-i-really-mean-it") // the document says so
			}
			if _, err := b.ceph(ctx, nil, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bringUp) isHealthy(ctx context.Context) error {
	c, err := b.see(ctx)
	if err == nil {
		err = c.healthy()
	}
	b.settle(err == nil)
	return err
}

// makePool makes a pool.
func (b *bringUp) makePool(ctx context.Context, w wishedPool) error {
	args := []string{"osd", "pool", "create", w.name}
	if w.groups > 0 {
		args = append(args, strconv.Itoa(w.groups), "--pg-num-min", strconv.Itoa(w.groups))
	}
	if strings.HasPrefix(w.name, ".") {
		args = append(args, "--yes-i-really-mean-it") // without it Ceph says that it does not, and that all is well
	}
	_, err := b.ceph(ctx, nil, args...)
	return err
}

// units are those of ours that are there, in the order in which they are stopped.
func (h *Host) units() (list []string) {
	for _, pattern := range []string{"ceph-radosgw@*", "ceph-mds@*", "ceph-osd@*", "ceph-osd-make@*", "ceph-mgr@*", "ceph-mon@*", "ceph-mon-make"} {
		found, err := filepath.Glob(filepath.Join("/", h.Root, unitDir, pattern+".service"))
		if err != nil {
			panic(err) // the patterns are well-formed
		}
		for _, path := range found {
			list = append(list, filepath.Base(path))
		}
	}
	return list
}

// gone asks whether nothing of Ceph is left on the running machine.
func (h *Host) gone(context.Context) error {
	if list := h.units(); len(list) > 0 {
		return fmt.Errorf("%s still there", strings.Join(list, ", "))
	}
	if _, err := os.Stat(filepath.Join("/", h.Root, runDir)); err == nil {
		return fmt.Errorf("/%s is still there", runDir)
	}
	return nil
}

func (h *Host) drop(ctx context.Context, unit string) error {
	if err := h.Machine.StopUnit(ctx, unit); err != nil {
		return err
	}
	return os.Remove(filepath.Join("/", h.Root, unitDir, unit))
}

// leave stops Ceph and removes its settings. Disks, keys and state stay, for a host that comes back.
func (h *Host) leave(ctx context.Context) error {
	h.changed()
	for _, unit := range h.units() {
		if err := h.drop(ctx, unit); err != nil {
			return err
		}
	}
	keyrings, err := filepath.Glob(filepath.Join("/", h.Root, confDir, "ceph.*"))
	if err != nil {
		return err
	}
	for _, path := range append(keyrings, filepath.Join("/", h.Root, runDir)) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
