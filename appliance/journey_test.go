package appliance

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/depot"
	"roost/pxe"
)

// startController runs the control plane of an installed controller.
func (l *lab) startController(m *machine) {
	l.t.Helper()
	authority, err := m.identity.OpenAuthority()
	if err != nil {
		l.t.Fatal(err)
	}
	c, err := OpenController(context.Background(), ControllerConfig{
		Dir: filepath.Join(m.dir, "control"), Identity: m.identity, Authority: authority, Addresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		Keys: []*ecdsa.PublicKey{&l.key.PublicKey}, Limits: l.limits, Beat: 100 * time.Millisecond, Log: l.log,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.stop = l.serve(c, l.address)
}

// TestJourney walks a site through its life: the seed makes the controller, the controller admits a worker, releases are
// rolled out, one fails and is rolled back, the controller restarts and knows all.
func TestJourney(t *testing.T) {
	l := newLab(t)
	controller, worker := l.machine(0), l.machine(1)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	started := 0
	t.Cleanup(func() {
		cancel()
		for range started {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})

	seedDepot := filepath.Join(l.dir, "depot")
	one := l.found(ctx, controller)
	l.startController(controller)
	run := func(m *machine) {
		started++
		go func() { ended <- m.run(ctx) }()
	}
	run(controller)
	l.await("controller-0", serving)

	// A worker is discovered, refused without a release, approved and installed.
	go worker.discover(ctx, l.address)
	waiting := l.await(mac(1), func(h *api.Host) bool { return h.Phase == api.Discovered && h.Availability == api.Online })
	approval := api.Approval{Personality: "worker", Name: "worker-0"}
	if _, err := l.admin.Approve(ctx, waiting.ID, approval); !api.NotFound.In(err) {
		t.Errorf("approval without a release on the shelf: %v", err)
	}
	l.push(seedDepot, one)
	if _, err := l.admin.Approve(ctx, waiting.ID, api.Approval{Personality: "controller"}); !api.Invalid.In(err) {
		t.Errorf("approval as a second controller: %v", err)
	}
	if _, err := l.admin.Approve(ctx, waiting.ID, approval); err != nil {
		t.Fatal(err)
	}
	l.await("worker-0", func(h *api.Host) bool { return h.Phase == api.Installed })
	if !strings.Contains(worker.text(), trust.Show(waiting.Fingerprint)) {
		t.Errorf("the console does not show the machine's fingerprint:\n%s", worker.text())
	}
	run(worker)
	l.await("worker-0", serving)

	// Release 2 goes to the worker first and the controller last.
	two := l.publishSite(seedDepot, "2.0")
	update := l.update(two, api.Done)
	if len(update.Hosts) != 2 || update.Hosts[0].Name != "worker-0" || update.Hosts[1].Name != "controller-0" || update.Hosts[1].Started.Before(update.Hosts[0].Finished) {
		t.Errorf("rollout: %+v", update.Hosts)
	}
	for _, name := range []string{"worker-0", "controller-0"} {
		l.await(name, func(h *api.Host) bool {
			return serving(h) && h.Software.Running.Digest == two.Manifest.Digest && h.Software.Fallback != nil
		})
	}
	if site, err := l.admin.Site(ctx); err != nil || site.Current != two.Manifest.Digest {
		t.Errorf("release for new machines after the rollout: %v, %v", site, err)
	}
	if _, err := l.admin.StartUpdate(ctx, api.Update{Release: api.Release{Digest: two.Manifest.Digest}}); !api.Conflict.In(err) {
		t.Errorf("the same release twice: %v", err)
	}
	if _, err := l.admin.StartUpdate(ctx, api.Update{Release: api.Release{Digest: one.Manifest.Digest}}); !api.Conflict.In(err) {
		t.Errorf("an older release: %v", err)
	}

	l.failingRelease(seedDepot, worker, two)
	l.requestedRollback(one, two)
	l.restart(controller, two)
}

// found has the seed admit the first controller, and only it, and leaves the controller installed.
func (l *lab) found(ctx context.Context, controller *machine) *depot.Release {
	l.t.Helper()
	shelf := filepath.Join(l.dir, "depot")
	one := l.publish("oci:"+shelf, "1.0")
	rootKey, err := trust.ParseKey(l.secrets.RootKey)
	if err != nil {
		l.t.Fatal(err)
	}
	address := freeAddress(l.t)
	seed, err := OpenSeed(ctx, SeedConfig{Site: l.file, RootKey: rootKey, Dir: filepath.Join(l.dir, "seed"), Depot: shelf,
		Release: one.Manifest.Digest, Address: address, Log: l.log})
	if err != nil {
		l.t.Fatal(err)
	}
	stop := l.serve(seed, address)
	defer stop()
	if err := controller.discover(ctx, address); err != nil {
		l.t.Fatal(err)
	}
	if v := assigned(seed, 0); v.Refuse == "" {
		l.t.Error("the seed would boot the installed controller again")
	}
	if v := assigned(seed, 9); v.Release != one.Manifest.Digest {
		l.t.Errorf("the seed does not let an unknown machine be discovered: %s", v.Refuse)
	}
	if err := controller.load(); err != nil {
		l.t.Fatal(err)
	}
	return one
}

// failingRelease rolls out a release whose gate does not hold.
func (l *lab) failingRelease(shelf string, worker *machine, good *depot.Release) {
	l.t.Helper()
	ctx := context.Background()
	worker.engine.fails("3.0")
	three := l.publishSite(shelf, "3.0")
	update := l.update(three, api.Paused)
	failure := update.Hosts[0].Failure
	if update.Hosts[0].State != "failed" || failure == nil || failure.Gate == "" || len(failure.Log) == 0 || update.Hosts[1].State != "waiting" {
		l.t.Errorf("paused update: %+v, failure %+v", update.Hosts, failure)
	}
	l.await("worker-0", func(h *api.Host) bool {
		return serving(h) && h.Software.Running.Digest == good.Manifest.Digest && h.Software.Refuses(three.Manifest.Digest)
	})
	if _, err := l.admin.StartUpdate(ctx, api.Update{Release: api.Release{Digest: three.Manifest.Digest}}); !api.Conflict.In(err) {
		l.t.Errorf("a second update while one is paused: %v", err)
	}
	if _, err := l.admin.AbortUpdate(ctx, update.ID); err != nil {
		l.t.Error(err)
	}
	if _, err := l.admin.StartUpdate(ctx, api.Update{Release: api.Release{Digest: three.Manifest.Digest}}); !api.Conflict.In(err) || !strings.Contains(err.Error(), "refuses") {
		l.t.Errorf("a failed release again: %v", err)
	}
	if _, err := l.admin.Clear(ctx, "worker-0", ""); err != nil {
		l.t.Error(err)
	}
	l.await("worker-0", func(h *api.Host) bool { return !h.Software.Refuses(three.Manifest.Digest) && h.Software.Cleared == nil })
}

func (l *lab) requestedRollback(one, two *depot.Release) {
	l.t.Helper()
	ctx := context.Background()
	four := l.publishSite(filepath.Join(l.dir, "depot"), "4.0")
	if _, err := l.admin.StartUpdate(ctx, api.Update{Release: api.Release{Digest: four.Manifest.Digest}, Only: []string{"worker-0"}}); err != nil {
		l.t.Fatal(err)
	}
	l.await("worker-0", func(h *api.Host) bool {
		return serving(h) && h.Software.Running.Digest == four.Manifest.Digest && !h.Software.Trial && h.Software.Fallback != nil
	})
	l.settled(api.Done)
	if _, err := l.admin.Rollback(ctx, "worker-0"); err != nil {
		l.t.Fatal(err)
	}
	l.await("worker-0", func(h *api.Host) bool {
		return serving(h) && h.Software.Running.Digest == two.Manifest.Digest && h.Software.Rollback == "" && h.Software.Refuses(four.Manifest.Digest)
	})
}

// restart stops the control plane and starts it again: hosts come back by themselves and nothing is forgotten.
func (l *lab) restart(controller *machine, two *depot.Release) {
	l.t.Helper()
	ctx := context.Background()
	before, _, err := l.admin.Audit(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	l.stop()
	l.stop = nil
	l.startController(controller)
	for _, name := range []string{"worker-0", "controller-0"} {
		l.await(name, func(h *api.Host) bool { return serving(h) && h.Software.Running.Digest == two.Manifest.Digest })
	}
	after, _, err := l.admin.Audit(ctx)
	if err != nil || len(after) < len(before) {
		l.t.Errorf("audit record had %d lines before the restart and %d after, %v", len(before), len(after), err)
	}
	actions := map[string]bool{}
	for _, r := range after {
		actions[r.Action+" "+r.Result] = true
	}
	for _, want := range []string{"discover host ok", "approve host ok", "approve host not-found", "start update ok", "start update conflict",
		"update is paused ok", "abort update ok", "clear failures of host ok", "roll back host ok"} {
		if !actions[want] {
			l.t.Errorf("the audit record does not say %q; it says %v", want, actions)
		}
	}
}

// push copies a release to the site over the operator's connection, as roost release push does.
func (l *lab) push(shelf string, r *depot.Release) {
	l.t.Helper()
	to, err := depot.Open(context.Background(), "docker://"+l.address+"/edge", depot.Options{Transport: l.admin.Transport()})
	if err != nil {
		l.t.Fatal(err)
	}
	defer to.Close()
	if _, err := depot.Copy(context.Background(), r, to, depot.CopyOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) publishSite(shelf string, version images.Version) *depot.Release {
	l.t.Helper()
	r := l.publish("oci:"+shelf, version)
	l.push(shelf, r)
	return r
}

// update rolls a release out and waits until the update is in the wanted state.
func (l *lab) update(r *depot.Release, want api.State) *api.Update {
	l.t.Helper()
	if _, err := l.admin.StartUpdate(context.Background(), api.Update{Release: api.Release{Version: r.Document.Version}}); err != nil {
		l.t.Fatal(err)
	}
	return l.settled(want)
}

func (l *lab) settled(want api.State) *api.Update {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	settled := errors.New("settled")
	var u *api.Update
	look := func() (err error) {
		if u, err = l.admin.Update(ctx, "latest"); err == nil && u.State != api.Running {
			return settled
		}
		return nil
	}
	_, revision, err := l.admin.Updates(ctx)
	if err == nil {
		err = look()
	}
	if err == nil {
		err = l.admin.Watch(ctx, revision, []string{"update"}, func(api.Event) error { return look() })
	}
	if !errors.Is(err, settled) || u.State != want {
		l.t.Fatalf("update is %+v, want %s; %v", u, want, err)
	}
	return u
}

// assigned asks as a boot server would, after the records have settled.
func assigned(c *Control, n int) pxe.Verdict {
	if err := c.roster.read(context.Background()); err != nil {
		return pxe.Verdict{Refuse: err.Error()}
	}
	address, _ := net.ParseMAC(mac(n))
	return c.Assigner().Assign(context.Background(), pxe.Client{MAC: address})
}

func (e *engine) fails(version images.Version) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bad = func(v images.Version) bool { return v == version }
}

func (m *machine) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.console.String()
}
