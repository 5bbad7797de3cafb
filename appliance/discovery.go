package appliance

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/linux"
	"roost/appliance/trust"
	"roost/images"
)

// Discovery is a machine that is not part of a site: it reports itself, waits, and installs what it is granted.
type Discovery struct {
	Boot      *linux.Boot
	BootID    string
	Pins      []images.Digest // fingerprints of site roots that the image trusts; empty: the first one shown is believed
	Inventory func() (*api.Inventory, error)
	Vitals    func(context.Context) *api.Vitals // nil outside of a machine
	// Install writes the granted release and the identity to the disk. It may be called again after it failed.
	Install  func(ctx context.Context, key *trust.Key, assignment *api.Assignment, site *client.Client, progress func(done, total int64)) error
	Reboot   func(context.Context) error
	Console  func(line string)
	Dial     func(*client.Config) // changes how the site is reached; nil outside of tests
	Patience time.Duration        // of one wait for the grant; 25 s when zero
	Pause    time.Duration        // before what failed is tried again, doubled up to a minute; 2 s when zero
	Expect   func(time.Duration)  // called whenever it gets on, with the time in which it will again; nil: nobody asks
	Now      func() time.Time
	Log      *slog.Logger
}

// Run returns when the machine goes down to start from its disk, or ctx ends. Every failure is told on the console and
// tried again: there is nobody else to do it.
func (d *Discovery) Run(ctx context.Context) error {
	if d.Patience == 0 {
		d.Patience = 25 * time.Second
	}
	if d.Pause == 0 {
		d.Pause = 2 * time.Second
	}
	if d.Expect == nil {
		d.Expect = func(time.Duration) {}
	}
	if d.Boot.Site == nil || d.Boot.Site.Controller == "" {
		return d.restartLater(ctx)
	}
	key, err := d.greet()
	if err != nil {
		return err
	}
	pause := d.Pause
	for {
		d.Expect(roundLimit)
		err := d.once(ctx, key)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		d.Console("roost: " + err.Error() + "; trying again")
		d.Log.Warn("cannot join a site yet", "error", err)
		if api.Gone.In(err) || api.NotFound.In(err) {
			pause = d.Pause
		}
		if !rest(ctx, pause+rand.N(pause)) {
			return ctx.Err()
		}
		pause = min(2*pause, time.Minute)
	}
}

// restartLater is what is left to a machine that has heard of no site: the initrd asks for one, at every start.
func (d *Discovery) restartLater(ctx context.Context) error {
	d.Console("roost: no boot server of a site answered on any network of this machine")
	d.Console(fmt.Sprintf("roost: connect it to the network of a site; it restarts in %s to ask again", restartPause))
	d.Expect(restartPause + roundLimit)
	if !rest(ctx, restartPause) {
		return ctx.Err()
	}
	return d.Reboot(ctx)
}

const restartPause = 5 * time.Minute

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// greet makes the machine's key and shows what an operator compares.
func (d *Discovery) greet() (*trust.Key, error) {
	pin := d.Boot.Site.CAFingerprint
	if _, err := images.ParseDigest(string(pin)); err != nil {
		return nil, fmt.Errorf("cannot trust site %s: %w", d.Boot.Site.Name, err)
	}
	if len(d.Pins) > 0 && !slices.Contains(d.Pins, pin) {
		return nil, fmt.Errorf("cannot trust site %s: its root %s is none of those this image trusts", d.Boot.Site.Name, pin)
	}
	key, err := trust.Enrol(d.Now())
	if err != nil {
		return nil, err
	}
	d.Console("")
	d.Console("roost: this machine is not part of a site yet")
	d.Console("roost:   machine  " + trust.Show(key.Fingerprint()))
	d.Console("roost:   site     " + trust.Show(pin) + "  (" + d.Boot.Site.Name + ", " + d.Boot.Site.Controller + ")")
	return key, nil
}

// once reports, waits and installs; it returns nil when the machine is going down.
func (d *Discovery) once(ctx context.Context, key *trust.Key) error {
	pin := d.Boot.Site.CAFingerprint
	site, err := d.connect(client.Config{URL: d.Boot.Site.Controller, Pin: pin, Certificate: key.Certificate})
	if err != nil {
		return err
	}
	defer site.Close()
	host, err := d.report(ctx, site, key)
	if err != nil {
		return err
	}
	d.Console(fmt.Sprintf("roost: known to site %s as %s; waiting for approval", d.Boot.Site.Name, host.Name))
	grant, err := d.await(ctx, site)
	if err != nil {
		return err
	}
	assignment, err := trust.Open(grant, trust.Expect{Root: pin, Key: key.Fingerprint(), Nonce: key.Nonce})
	if err != nil {
		return err
	}
	d.Console(fmt.Sprintf("roost: approved as %s %s; installing to %s", assignment.Personality, assignment.Name, assignment.Disk))
	return d.install(ctx, key, assignment)
}

func (d *Discovery) connect(config client.Config) (*client.Client, error) {
	if d.Dial != nil {
		d.Dial(&config)
	}
	return client.New(config)
}

func (d *Discovery) report(ctx context.Context, site *client.Client, key *trust.Key) (*api.Host, error) {
	inventory, err := d.Inventory()
	if err != nil {
		return nil, err
	}
	enrolment := api.Enrolment{
		Origin: d.Boot.Origin, Release: d.Boot.Release, BootMAC: d.Boot.MAC, Address: d.Boot.Address, BootID: d.BootID,
		SecureBoot: inventory.Firmware.SecureBoot, Inventory: *inventory,
	}
	if d.Vitals != nil {
		enrolment.Vitals = d.Vitals(ctx)
	}
	if err := key.Requests(&enrolment); err != nil {
		return nil, err
	}
	return site.Enrol(ctx, enrolment)
}

// await polls for the grant. Waiting is not failing: it goes on as long as the site knows the machine.
func (d *Discovery) await(ctx context.Context, site *client.Client) (*api.Grant, error) {
	for {
		d.Expect(d.Patience + roundLimit)
		grant, err := site.AwaitGrant(ctx, d.Patience)
		if err != nil || grant != nil {
			return grant, err
		}
	}
}

// install installs and reports how it goes, with the certificate of the grant.
func (d *Discovery) install(ctx context.Context, key *trust.Key, assignment *api.Assignment) error {
	id := &trust.Identity{Assignment: assignment, Node: key.Node, Chain: assignment.Certificate}
	site, err := d.connect(client.Config{URL: d.Boot.Site.Controller, Root: []byte(assignment.Root), Certificate: func() (*tls.Certificate, error) { return id.Certificate() }})
	if err != nil {
		return err
	}
	defer site.Close()
	tell := &teller{site: site, bootID: d.BootID, vitals: d.Vitals, log: d.Log}
	if err := tell.say(ctx, api.Installing, 0, "begins to write "+assignment.Disk); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		tell.run(running)
	}()
	shown := int64(0)
	d.Expect(installLimit)
	err = d.Install(ctx, key, assignment, site, func(done, total int64) {
		d.Expect(installLimit)
		tell.progress(done, total)
		if tenth := done * 10 / max(total, 1); tenth > shown {
			shown = tenth
			d.Console(fmt.Sprintf("roost: %d%% written", shown*10))
		}
	})
	stop()
	<-told
	if err != nil {
		tell.say(ctx, api.Installing, 0, err.Error()) // the site hears it again when the machine enrols again
		return err
	}
	d.Console("roost: installed; restarting from " + assignment.Disk)
	if err := tell.say(ctx, api.Installed, 100, "restarts from its disk"); err != nil {
		d.Log.Warn("cannot tell the site that the installation is done", "error", err)
	}
	return d.Reboot(ctx)
}
