package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/inventory"
	"roost/appliance/linux"
	"roost/appliance/software"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/durable"
	"roost/updater"
	"roost/updater/slot"
)

// daemon is roostd on this machine.
type daemon struct {
	root     string // / on a machine
	machine  linux.Machine
	boot     *linux.Boot
	bootID   string
	state    *durable.Dir
	identity *durable.Dir
	log      *slog.Logger
	pulse    *pulse
	vitals   *vitals

	mu       sync.Mutex // guards hardware and read
	hardware *api.Inventory
	read     time.Time
}

// openDaemon reads what this machine is.
func openDaemon(root string, log *slog.Logger) (d *daemon, err error) {
	d = &daemon{root: root, machine: linux.Machine{Root: root}, log: log, pulse: newPulse(time.Now, log)}
	if d.boot, err = d.machine.Boot(); err != nil {
		return nil, err
	}
	d.vitals = &vitals{machine: d.machine, boot: d.boot}
	if d.bootID, err = d.machine.BootID(); err != nil {
		return nil, err
	}
	if d.state, err = durable.Open(filepath.Join(root, stateDir), 0o600); err != nil {
		return nil, err
	}
	d.identity, err = durable.Open(filepath.Join(root, identityDir), 0o600)
	return d, err
}

// Run is the daemon: it finds out what this machine is and does that until ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	d, err := openDaemon("/", log)
	if err != nil {
		return err
	}
	id, err := trust.LoadIdentity(d.identity)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.machine.Watchdog(ctx, d.pulse.alive) })
	group.Go(func() error { return d.live(ctx, id) })
	return group.Wait()
}

// reachController asks the site for its facts, as a host.
func (d *daemon) reachController(ctx context.Context) error {
	id, err := trust.LoadIdentity(d.identity)
	if err != nil {
		return err
	}
	if id == nil {
		return errors.New("this machine is not part of a site")
	}
	site, err := (&Node{Identity: id}).connect()
	if err != nil {
		return err
	}
	defer site.Close()
	_, err = site.Site(ctx)
	return err
}

// live decides which of the three kinds of machine this is.
func (d *daemon) live(ctx context.Context, id *trust.Identity) error {
	switch {
	case id == nil && d.boot.Origin != "disk":
		d.ready("waits to become part of a site")
		return d.discover(ctx)
	case id == nil:
		d.machine.Console("roost: this disk holds no identity; boot the machine from the network and approve it to install it anew")
		return errors.New("cannot run: started from the disk, but it holds no identity")
	}
	return d.serve(ctx, id)
}

func (d *daemon) ready(status string) {
	if err := d.machine.Notify(true, status); err != nil {
		d.log.Warn("cannot tell systemd", "error", err)
	}
}

func (d *daemon) discover(ctx context.Context) error {
	pins, err := d.pins()
	if err != nil {
		return err
	}
	install := d.install
	if d.boot.Contained() {
		install = d.adopt
	}
	discovery := &Discovery{
		Boot: d.boot, BootID: d.bootID, Pins: pins, Inventory: d.inventory, Vitals: d.vitals.read, Install: install, Reboot: d.machine.Reboot,
		Console: d.machine.Console, Expect: d.pulse.part("discovery"), Now: time.Now, Log: d.log,
	}
	return discovery.Run(ctx)
}

// inventory reads the hardware, at most once a minute.
func (d *daemon) inventory() (*api.Inventory, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.hardware == nil || now.Sub(d.read) > time.Minute {
		d.hardware, d.read = inventory.Read(d.root), now
		d.boot.Describe(d.hardware)
	}
	return d.hardware, nil
}

// serve is the life of an installed host. The update engine starts first: it must know in which boot it finds itself before
// anything depends on the version.
func (d *daemon) serve(ctx context.Context, id *trust.Identity) error {
	node := &Node{Identity: id, Dir: d.identity, State: d.state, Log: d.log, Hardware: d.inventory, Alive: d.pulse.loop("node")}
	site, err := node.connect()
	if err != nil {
		return err
	}
	defer site.Close()
	keys, err := d.releaseKeys()
	if err != nil {
		return err
	}
	slots, esp, closer, err := d.openDisk()
	if err != nil {
		return err
	}
	defer closer.Close()
	gates := &Gates{System: d.machine, Controller: func(ctx context.Context) error { _, err := site.Site(ctx); return err }}
	fetcher := &Fetcher{Registry: id.Assignment.Controllers[0], Transport: site.Transport(), Keys: keys}
	engine, host, err := openEngine(d, slots, esp, fetcher, gates)
	if err != nil {
		return err
	}
	if err := engine.Start(ctx); err != nil {
		return err
	}
	node.Agent = &software.Agent{Engine: engine, Files: d.state, RootHash: d.boot.RootHash, Slot: runningSlot(slots, d.boot.RootHash),
		Records: slot.Records{Dir: d.state}.List, Begin: host.Begin, Log: d.log}
	if engine.Kept != nil {
		node.Agent.Kept = engine.Kept.Record
	}
	if err := node.Agent.Load(); err != nil {
		return err
	}
	return d.runHost(ctx, id, node, &parts{site: site, engine: engine, gates: gates})
}

// parts of a host that know each other only here.
type parts struct {
	site   *client.Client
	engine *updater.Updater
	gates  *Gates
}

// runHost runs the parts of a host, those of a controller among them.
func (d *daemon) runHost(ctx context.Context, id *trust.Identity, node *Node, p *parts) error {
	group, ctx := errgroup.WithContext(ctx)
	var control *Control
	if id.Authority != nil {
		var err error
		if control, err = d.control(ctx, id, group); err != nil {
			return err
		}
	}
	agent, loops, err := d.components(id, p.site, control)
	if err != nil {
		return err
	}
	p.gates.Component = agent.Ready
	node.Facts = func(ctx context.Context) api.Report {
		report := d.facts(ctx, p.gates, p.engine)
		report.Components = agent.Status()
		if err := writeStatus(d.root, report.Components); err != nil {
			d.log.Warn("cannot keep facts", "error", err)
		}
		return report
	}
	node.Apply = func(ctx context.Context, c *api.Config) error {
		agent.Configure(c)
		return d.apply(ctx, c)
	}
	group.Go(func() error { return node.Run(ctx) })
	group.Go(func() error { return p.engine.Run(ctx) })
	group.Go(func() error { return agent.Run(ctx) })
	for _, loop := range loops {
		group.Go(func() error { return loop(ctx) })
	}
	status := fmt.Sprintf("%s of site %s", id.Assignment.Name, id.Assignment.Site)
	d.ready(status)
	d.machine.Console("roost: " + status + " runs " + d.version())
	return group.Wait()
}

// version names the running image, for the console.
func (d *daemon) version() string {
	image, err := d.machine.Image()
	if err != nil {
		d.log.Warn("cannot tell which release runs", "error", err)
		return "an unknown release"
	}
	if d.boot.Trial {
		return image.String() + " on trial"
	}
	return image.String()
}

// control adds the control plane, and the boot server where the configuration wants one.
func (d *daemon) control(ctx context.Context, id *trust.Identity, group *errgroup.Group) (*Control, error) {
	authority, err := id.OpenAuthority()
	if err != nil {
		return nil, err
	}
	keys, err := d.releaseKeys()
	if err != nil {
		return nil, err
	}
	control, err := OpenController(ctx, ControllerConfig{
		Dir: filepath.Join(d.root, controlDir), Identity: id, Authority: authority, Addresses: ownAddresses(d.machine), Keys: keys, Log: d.log,
		pulse: d.pulse,
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", ":"+apiPort)
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("cannot serve API: %w", err)
	}
	group.Go(func() error { return control.Run(ctx, listener) })
	config := id.Assignment.Config
	if config.Provisioning != "" && config.PXE != "" && config.PXE != "off" {
		group.Go(func() error { return d.provision(ctx, control, id.Assignment) })
	}
	return control, nil
}

func ownAddresses(m linux.Machine) (out []net.IP) {
	for _, a := range m.Addresses() {
		out = append(out, net.ParseIP(a))
	}
	return out
}

// facts is what the machine says of itself at a beat.
func (d *daemon) facts(ctx context.Context, gates *Gates, engine *updater.Updater) api.Report {
	report := api.Report{BootID: d.bootID, Origin: d.boot.Origin, SecureBoot: d.machine.SecureBoot(), Addresses: d.machine.Addresses(),
		Vitals: d.vitals.read(ctx)}
	list, err := d.gatesOf(engine.Status())
	if err != nil {
		report.Reason = err.Error()
		return report
	}
	report.Healthy, report.Reason = gates.Healthy(ctx, list, time.Now())
	return report
}

// gatesOf returns the gates of the running release: the update engine knows those of what it installed, and the installer
// left those of the first.
func (d *daemon) gatesOf(state updater.State) ([]images.Gate, error) {
	if state.Target != nil && state.Target.RootHash == d.boot.RootHash {
		return state.Target.Gates, nil
	}
	b, err := d.state.Read(gatesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var gates []images.Gate
	if err == nil {
		err = json.Unmarshal(b, &gates)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", gatesFile, err)
	}
	return gates, nil
}

// apply writes the files of a configuration that was just committed and lets the services read them.
func (d *daemon) apply(ctx context.Context, c *api.Config) error {
	if err := writeConfig(d.root, c); err != nil {
		return err
	}
	return d.machine.Reload(ctx, "systemd-networkd.service")
}
