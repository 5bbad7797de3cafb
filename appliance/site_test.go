package appliance

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/linux"
	"roost/appliance/software"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/durable"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
	"roost/updater"
	"roost/updater/slot"
)

// lab is a site in one process: real store, real TLS on loopback, real registry, real update decisions; machines are
// simulated where a disk or a reboot would be.
type lab struct {
	t       *testing.T
	dir     string
	file    *trust.SiteFile
	secrets *trust.Secrets
	key     *ecdsa.PrivateKey // signs releases
	log     *slog.Logger

	limits  trust.Limits
	roots   map[string]string // root hash by version, of releases made to be installed for real
	address string            // of the controller, the same after its restart
	stop    func()
	admin   *client.Client
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, dir: t.TempDir(), roots: map[string]string{}, key: releasetest.Key(t), log: slog.New(slog.DiscardHandler)}
	if testing.Verbose() && os.Getenv("LAB_LOG") != "" {
		l.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	l.address = freeAddress(t)
	l.file = &trust.SiteFile{Name: "lab", Controller: "https://" + l.address, First: trust.Selector{MAC: mac(0)}}
	l.file.Config.AuthorizedKeys = []string{"ssh-ed25519 AAAA ann"}
	secrets, err := trust.NewSite(l.file, "ann", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l.secrets = secrets
	context := client.Context{Site: "lab", URL: l.file.Controller, Root: l.file.Root, Certificate: secrets.OperatorCertificate, Key: string(secrets.OperatorKey)}
	if l.admin, err = context.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l.stop != nil {
			l.stop()
		}
	})
	return l
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func mac(n int) string { return fmt.Sprintf("52:54:00:00:%02x:%02x", n>>8, n&0xff) }

// serve runs a control plane until stop is called.
func (l *lab) serve(c *Control, address string) (stop func()) {
	l.t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, listener) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Errorf("control plane: %v", err)
		}
	}
}

func (l *lab) publish(ref string, version images.Version) *depot.Release {
	r := imagestest.Release("edge", version)
	r.Needs.Disk = 1 << 30
	return depottest.Publish(l.t, ref, r, l.key)
}

// machine is a simulated machine: what survives a reboot is in its fields.
type machine struct {
	lab      *lab
	n        int
	dir      string // its state partition
	boots    int
	engine   *engine
	console  strings.Builder
	mu       sync.Mutex // guards console
	identity *trust.Identity
	disk     api.Disk
	writes   installer // installs the machine; nil: install
}

type installer func(ctx context.Context, key *trust.Key, a *api.Assignment, site *client.Client, progress func(int64, int64)) error

func (l *lab) machine(n int) *machine {
	return &machine{lab: l, n: n, dir: filepath.Join(l.dir, fmt.Sprintf("machine%d", n)), disk: api.Disk{Path: "/dev/vda", Size: 20 << 30}}
}

func (m *machine) inventory() (*api.Inventory, error) {
	i := &api.Inventory{Schema: 1, Memory: 4 << 30}
	i.System.UUID = fmt.Sprintf("6c6f0000-0000-4000-8000-%012x", m.n)
	i.Firmware.Kind, i.Firmware.SecureBoot = "uefi", "enabled"
	i.CPU.Architecture, i.CPU.Threads = "amd64", 4
	i.NICs = []api.NIC{{Name: "eth0", MAC: mac(m.n)}}
	i.Disks = []api.Disk{m.disk}
	return i, nil
}

// discover boots the machine from the network and runs until it is installed.
func (m *machine) discover(ctx context.Context, enrolAt string) error {
	pin, err := trust.RootFingerprint(m.lab.file.Root)
	if err != nil {
		return err
	}
	m.boots++
	boot := &linux.Boot{Origin: "network", MAC: mac(m.n)}
	boot.Site = &struct {
		Name          string        `json:"name"`
		Controller    string        `json:"controller"`
		CAFingerprint images.Digest `json:"caFingerprint"`
	}{"lab", "https://" + enrolAt, pin}
	ctx, off := context.WithCancel(ctx)
	defer off()
	installed, write := false, m.writes
	if write == nil {
		write = m.install
	}
	d := &Discovery{
		Boot: boot, BootID: fmt.Sprintf("boot-%d-%d", m.n, m.boots), Inventory: m.inventory, Now: time.Now, Log: m.lab.log,
		Patience: time.Second, Pause: 20 * time.Millisecond, Install: write, Console: m.say,
		Reboot: func(context.Context) error { installed = true; off(); return nil },
	}
	err = d.Run(ctx)
	if installed {
		return nil
	}
	return err
}

func (m *machine) say(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.console.WriteString(line + "\n")
}

// install verifies and reads the release as the installer would, and keeps the identity.
func (m *machine) install(ctx context.Context, key *trust.Key, a *api.Assignment, site *client.Client, progress func(int64, int64)) error {
	fetcher := &Fetcher{Registry: a.Registry, Transport: site.Transport(), Keys: []*ecdsa.PublicKey{&m.lab.key.PublicKey}}
	source, err := fetcher.Open(ctx, a.Repository+"@"+string(a.Release))
	if err != nil {
		return err
	}
	root, err := source.Open(ctx, images.KindRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := io.Copy(io.Discard, root); err != nil {
		return err
	}
	progress(1, 1)
	dir, err := durable.Open(filepath.Join(m.dir, "identity"), 0o600)
	if err != nil {
		return err
	}
	m.engine = &engine{lab: m.lab, running: installed(source), name: a.Name}
	return key.Save(dir, a)
}

func installed(s *updater.Source) slot.Installed {
	return slot.Installed{Manifest: s.Manifest, Name: s.Release.Name, Version: s.Release.Version, RootHash: s.Release.RootHash, File: s.Release.Name + "_" + string(s.Release.Version)}
}

// run boots the machine from its disk as a host of the site, again after every reboot, until ctx ends.
func (m *machine) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := m.boot(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) boot(ctx context.Context) error {
	m.boots++
	dir, err := durable.Open(filepath.Join(m.dir, "identity"), 0o600)
	if err != nil {
		return err
	}
	state, err := durable.Open(filepath.Join(m.dir, "state"), 0o600)
	if err != nil {
		return err
	}
	if m.identity, err = trust.LoadIdentity(dir); err != nil || m.identity == nil {
		return fmt.Errorf("no identity: %v", err)
	}
	if m.boots == 2 { // the installer leaves the first configuration
		if err := state.Write(configFile, []byte(`{"schema":1,"hostname":"x"}`)); err != nil {
			return err
		}
	}
	bootID := fmt.Sprintf("boot-%d-%d", m.n, m.boots)
	boot, off := context.WithCancel(ctx)
	defer off()
	client, err := (&Node{Identity: m.identity}).connect()
	if err != nil {
		return err
	}
	defer client.Close()
	m.engine.start(bootID, off, &Fetcher{Registry: m.identity.Assignment.Controllers[0], Transport: client.Transport(), Keys: []*ecdsa.PublicKey{&m.lab.key.PublicKey}})
	agent := &software.Agent{Engine: m.engine, Files: state, RootHash: m.engine.root(), Slot: "a", Log: m.lab.log,
		Records: func() ([]slot.Installed, error) { return []slot.Installed{m.engine.current()}, nil }}
	if err := agent.Load(); err != nil {
		return err
	}
	node := &Node{
		Identity: m.identity, Dir: dir, State: state, Agent: agent, Hardware: m.inventory, Beat: 100 * time.Millisecond, Log: m.lab.log,
		Facts: func(context.Context) api.Report { return api.Report{BootID: bootID, Origin: "disk", Healthy: true} },
	}
	engine := make(chan struct{})
	go func() {
		defer close(engine)
		m.engine.run(boot)
	}()
	err = node.Run(boot)
	off()
	<-engine
	return err
}

// engine takes the real decisions of package updater over a disk that is two variables.
type engine struct {
	lab  *lab
	name string
	bad  func(images.Version) bool // versions whose gate does not hold

	mu      sync.Mutex // guards the fields below
	state   updater.State
	running slot.Installed
	bootID  string
	fetcher *Fetcher
	reboot  func()
	wake    chan struct{}
}

func (e *engine) start(bootID string, reboot func(), fetcher *Fetcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bootID, e.reboot, e.fetcher, e.wake = bootID, reboot, fetcher, make(chan struct{}, 1)
	if e.state.Phase == "" {
		e.state.Phase = updater.Idle
	}
	e.tellLocked(updater.Started{Boot: bootID, RootHash: e.running.RootHash, File: e.running.File, Trial: e.state.Phase == updater.Armed, Option: -1})
}

func (e *engine) root() string { return e.current().RootHash }

func (e *engine) current() slot.Installed {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running
}

func (e *engine) Status() updater.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

func (e *engine) machine() updater.Machine {
	m := updater.Machine{Boot: e.bootID, Architecture: "amd64", Running: e.running, Room: 1 << 40,
		Spare: slot.Slot{ID: slot.B, RootHash: "x", Root: 1 << 40, Verity: 1 << 40}}
	if e.state.Phase == updater.Committed {
		m.Fallback = e.state.From
	}
	return m
}

func (e *engine) Update(ctx context.Context, reference string, force bool) error {
	source, err := e.fetcher.Open(ctx, reference)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tellLocked(updater.Request{Reference: reference, Manifest: source.Manifest, Release: source.Release, Force: force, Machine: e.machine()})
}

func (e *engine) Rollback(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tellLocked(updater.Rollback{Machine: e.machine()})
}

func (e *engine) Clear(manifest images.Digest) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tellLocked(updater.Clear{Manifest: manifest})
}

func (e *engine) tellLocked(event updater.Event) error {
	next, _, err := updater.Step(e.state, event)
	if err != nil {
		return err
	}
	if next.Phase != e.state.Phase {
		next.Since = time.Now().UTC().Truncate(time.Second)
	}
	e.state = next
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return nil
}

// run performs what the decisions ask for.
func (e *engine) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		}
		for ctx.Err() == nil && e.advance() {
		}
	}
}

func (e *engine) advance() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, action, _ := updater.Step(e.state, updater.Did{}) // an event that fits nothing: only the action is asked for
	var event updater.Event = updater.Did{Action: action}
	switch action {
	case updater.None:
		return false
	case updater.Snapshot, updater.Check:
		var results []updater.Result
		held := action == updater.Snapshot || e.bad == nil || !e.bad(e.running.Version)
		for _, gate := range e.state.Target.Gates {
			results = append(results, updater.Result{Name: gate.Name, Held: held})
		}
		event = updater.Round{Results: results, Uptime: time.Hour}
	case updater.Gather:
		event = updater.Found{Log: []string{"web: cannot listen"}}
	case updater.Reboot:
		if e.state.Phase == updater.Armed {
			e.running = e.state.Target.Installed
		} else {
			e.running = *e.state.From
		}
		e.reboot()
		return false
	}
	if err := e.tellLocked(event); err != nil {
		e.lab.t.Errorf("%s: %s: %v", e.name, action, err)
		return false
	}
	return true
}

// await watches the site until check holds of the host.
func (l *lab) await(name string, check func(h *api.Host) bool) *api.Host {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	found := errors.New("found")
	var host *api.Host
	look := func() error {
		hosts, _, err := l.admin.Hosts(ctx)
		if err != nil {
			return nil // the controller is restarting
		}
		for i, h := range hosts {
			if h.Name == name || slices.Contains(h.MACs, name) {
				host = &hosts[i]
				if check(host) {
					return found
				}
			}
		}
		return nil
	}
	var revision int64
	for ctx.Err() == nil {
		hosts, r, err := l.admin.Hosts(ctx)
		_ = hosts
		if err == nil {
			revision = r
			break
		}
		rest(ctx, 20*time.Millisecond)
	}
	err := look()
	if err == nil {
		err = l.admin.Watch(ctx, revision, []string{"host"}, func(api.Event) error { return look() })
	}
	if !errors.Is(err, found) {
		l.t.Fatalf("%s is not as wanted: %v; last seen as %+v", name, err, host)
	}
	return host
}

func serving(h *api.Host) bool {
	return h.Phase == api.InService && h.Administrative == api.Unlocked && h.Operational == api.Enabled && h.Availability == api.Available
}

// load reads the identity that the installation left.
func (m *machine) load() error {
	dir, err := durable.Open(filepath.Join(m.dir, "identity"), 0o600)
	if err != nil {
		return err
	}
	m.identity, err = trust.LoadIdentity(dir)
	if err == nil && m.identity == nil {
		err = errors.New("no identity")
	}
	return err
}
