package trust_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/appliance/trust"
	"roost/images"
)

// desk is a manager with a clock that the test moves.
type desk struct {
	t       *testing.T
	now     time.Time
	store   *store.Store
	manager *trust.Manager
	pin     images.Digest
}

const release = images.Digest("sha256:release")

type shelf struct{}

func (shelf) Release(_ context.Context, d images.Digest) (*api.Release, *images.Needs, error) {
	if d != release {
		return nil, nil, api.NotFound.Errorf("cannot find release %s", d)
	}
	return &api.Release{Digest: d, Name: "edge", Version: "1", Architecture: "amd64"}, &images.Needs{Disk: 10, Memory: 2 << 30}, nil
}

func newDesk(t *testing.T, change func(*trust.Config)) *desk {
	t.Helper()
	d := &desk{t: t, now: epoch}
	clock := func() time.Time { return d.now }
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Name: "c", Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	_, controller := site(t)
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Sites().Put(tx, &api.Site{Schema: 1, Name: "lab", Current: release, Controllers: []string{"https://c:7443"}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	config := trust.Config{Store: s, Authority: controller, Shelf: shelf{}, Registry: "https://c:7443", Now: clock}
	if change != nil {
		change(&config)
	}
	d.store, d.manager = s, trust.New(config)
	d.pin = images.DigestOf(controller.Root().Raw)
	return d
}

// machine makes an enrolment of a machine with the given UUID number and MAC.
func machine(t *testing.T, uuid, mac string) (*trust.Key, *api.Enrolment) {
	t.Helper()
	key, err := trust.Enrol(epoch)
	if err != nil {
		t.Fatal(err)
	}
	e := &api.Enrolment{Origin: "network", BootMAC: mac}
	e.Inventory.System.UUID = uuid
	e.Inventory.Firmware.Kind, e.Inventory.CPU.Architecture = "uefi", "amd64"
	e.Inventory.NICs = []api.NIC{{Name: "eth0", MAC: mac}}
	e.Inventory.Disks = []api.Disk{{Path: "/dev/sda", Size: 100}, {Path: "/dev/sdb", Size: 50}, {Path: "/dev/sdc", Size: 5}}
	if err := key.Requests(e); err != nil {
		t.Fatal(err)
	}
	return key, e
}

func (d *desk) enrol(uuid, mac string) (*trust.Key, *api.Host) {
	d.t.Helper()
	key, e := machine(d.t, uuid, mac)
	h, err := d.manager.Enrol(d.t.Context(), key.Fingerprint(), "10.0.0.1", e)
	if err != nil {
		d.t.Fatal(err)
	}
	return key, h
}

func (d *desk) approve(ref string, a api.Approval) (*api.Host, error) {
	if a.Personality == "" {
		a.Personality = "worker"
	}
	return d.manager.Approve(d.t.Context(), store.Actor{Name: "operator/ann"}, ref, &a)
}

func (d *desk) host(id string) (h *api.Host) {
	d.t.Helper()
	if err := d.store.View(d.t.Context(), func(tx *store.Tx) error { h = store.Hosts().Get(tx, id); return nil }); err != nil {
		d.t.Fatal(err)
	}
	return h
}

const (
	uuidA, uuidB = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"
	macA, macB   = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
)

func TestApproveGrants(t *testing.T) {
	d := newDesk(t, nil)
	key, h := d.enrol(uuidA, macA)
	if h.Phase != api.Discovered || h.Storage != 155 {
		t.Errorf("discovered as %+v", h)
	}
	if grant, err := d.manager.Await(t.Context(), key.Fingerprint(), 0); err != nil || grant != nil {
		t.Fatalf("a grant before the approval: %v %v", grant, err)
	}
	h, err := d.approve(h.Fingerprint.Hex()[:8], api.Approval{Name: "w1"})
	if err != nil || h.Phase != api.Approved || h.Disk != "/dev/sdb" || h.Approval.By != "operator/ann" {
		t.Fatalf("approved as %+v, %v", h, err)
	}
	grant, err := d.manager.Await(t.Context(), key.Fingerprint(), 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err := trust.Open(grant, trust.Expect{Root: d.pin, Key: key.Fingerprint(), Nonce: key.Nonce})
	if err != nil || a.Host != h.ID || a.Disk != "/dev/sdb" || a.Release != release || a.Config.Hostname != "w1" {
		t.Errorf("assignment %+v, %v", a, err)
	}
	if _, err := d.approve("w1", api.Approval{}); !api.Conflict.In(err) {
		t.Errorf("approved twice: %v", err)
	}
}

// TestApproveResources gives hosts the site's resources or their own, and refuses what a machine does not have.
func TestApproveResources(t *testing.T) {
	d := newDesk(t, func(c *trust.Config) {
		c.Configure = func(*api.Host, *api.Inventory) *api.Config {
			return &api.Config{Resources: api.Resources{Processors: api.Processors{Platform: "0-1"}}}
		}
	})
	for n, test := range []struct {
		name    string
		threads int
		own     *api.Resources
		want    api.CPUs
		refused string
	}{
		{name: "the site's", threads: 4, want: "0-1"},
		{name: "the site's are all it has", threads: 2, refused: "all that the machine has (give it its own resources"},
		{name: "its own", threads: 2, own: &api.Resources{Processors: api.Processors{Platform: "0"}}, want: "0"},
		{name: "none", threads: 1, own: &api.Resources{}},
		{name: "too many", threads: 2, own: &api.Resources{Processors: api.Processors{Platform: "0,2"}}, refused: "no processor 2"},
		{name: "no list", threads: 2, own: &api.Resources{Processors: api.Processors{Platform: "all"}}, refused: "no number of a processor"},
		{name: "pages of the platform's", threads: 4, own: &api.Resources{HugePages: []api.HugePages{{Size: "1Gi", Count: 3}}}, refused: "of which the platform needs 2048"},
		{name: "pages beside the platform's", threads: 4, own: &api.Resources{HugePages: []api.HugePages{{Size: "1Gi", Count: 2}}}},
	} {
		key, e := machine(t, "", fmt.Sprintf("52:54:00:01:00:%02x", n))
		e.Inventory.CPU.Threads, e.Inventory.Memory = test.threads, 4<<30
		h, err := d.manager.Enrol(t.Context(), key.Fingerprint(), fmt.Sprintf("10.0.0.%d", n+1), e)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.approve(h.ID, api.Approval{Resources: test.own, Fingerprint: h.Fingerprint})
		if test.refused != "" {
			if !api.Invalid.In(err) || !strings.Contains(err.Error(), test.refused) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		grant, err := d.manager.Await(t.Context(), key.Fingerprint(), 0)
		if err != nil {
			t.Fatal(err)
		}
		a, err := trust.Open(grant, trust.Expect{Root: d.pin, Key: key.Fingerprint(), Nonce: key.Nonce})
		if err != nil || a.Config.Processors.Platform != test.want {
			t.Errorf("%s: got %+v, %v", test.name, a.Config.Resources, err)
		}
	}
}

func TestApproveRefuses(t *testing.T) {
	d := newDesk(t, nil)
	_, h := d.enrol(uuidA, macA)
	for name, test := range map[string]struct {
		approval api.Approval
		kind     api.Kind
	}{
		"an unknown personality":   {api.Approval{Personality: "king"}, api.Invalid},
		"a second controller":      {api.Approval{Personality: "controller"}, api.Invalid},
		"another fingerprint":      {api.Approval{Fingerprint: "sha256:other"}, api.Conflict},
		"a missing release":        {api.Approval{Release: "sha256:none"}, api.NotFound},
		"a missing disk":           {api.Approval{Disk: "/dev/sdz"}, api.Invalid},
		"a disk that is too small": {api.Approval{Disk: "/dev/sdc"}, api.Invalid},
		"a bad name":               {api.Approval{Name: "a b"}, api.Invalid},
	} {
		if _, err := d.approve(h.ID, test.approval); !test.kind.In(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.approve("nobody", api.Approval{}); !api.NotFound.In(err) {
		t.Errorf("nobody: %v", err)
	}
	if got := d.host(h.ID); got.Phase != api.Discovered {
		t.Errorf("a refused approval left the host %s", got.Phase)
	}
	key, e := machine(t, uuidB, macB)
	e.Inventory.Firmware.Kind = "bios"
	b, err := d.manager.Enrol(t.Context(), key.Fingerprint(), "10.0.0.2", e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.approve(b.ID, api.Approval{}); !api.Invalid.In(err) || !strings.Contains(err.Error(), "UEFI") {
		t.Errorf("a BIOS machine: %v", err)
	}
}

// TestApproveGone approves a machine that is no longer there.
func TestApproveGone(t *testing.T) {
	d := newDesk(t, nil)
	_, h := d.enrol(uuidA, macA)
	d.now = d.now.Add(2 * time.Minute)
	if _, err := d.approve(h.ID, api.Approval{}); !api.Gone.In(err) || !strings.Contains(err.Error(), "left") {
		t.Errorf("approval of a machine that left: %v", err)
	}
	if err := d.manager.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.host(h.ID); got.Availability != api.Offline {
		t.Errorf("a machine that left is %s", got.Availability)
	}
	// It comes back with a new key: the same record, discovered anew.
	_, again := d.enrol(uuidA, macA)
	if again.ID != h.ID || again.Fingerprint == h.Fingerprint || again.Availability != api.Online || len(again.Rivals) != 0 {
		t.Errorf("back as %+v", again)
	}
	if _, err := d.approve(h.ID, api.Approval{}); err != nil {
		t.Error(err)
	}
	d.now = d.now.Add(25 * time.Hour)
	_, other := d.enrol(uuidB, macB)
	d.now = d.now.Add(25 * time.Hour)
	if err := d.manager.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.host(other.ID) != nil {
		t.Error("a machine not heard of for a day is still listed")
	}
}

// TestRivals has two live machines claim one identity.
func TestRivals(t *testing.T) {
	d := newDesk(t, nil)
	key, first := d.enrol(uuidA, macA)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := d.manager.Await(ctx, key.Fingerprint(), time.Hour)
		waiting <- err
	}()
	_, second := d.enrol(uuidA, macA)
	if second.ID == first.ID || len(second.Rivals) != 1 || len(d.host(first.ID).Rivals) != 1 {
		t.Fatalf("a second live claimant: %+v", second)
	}
	if _, err := d.approve(first.ID, api.Approval{}); !api.Conflict.In(err) || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("approved without comparing: %v", err)
	}
	if _, err := d.approve(first.ID, api.Approval{Fingerprint: first.Fingerprint}); !api.Conflict.In(err) || !strings.Contains(err.Error(), "alive") {
		t.Errorf("approved beside a live twin: %v", err)
	}
	if err := d.manager.Forget(t.Context(), store.Actor{Name: "operator/ann"}, second.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.approve(first.ID, api.Approval{}); err != nil {
		t.Errorf("after the rival is forgotten: %v", err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	cancel()
	// Boards that share a UUID are told apart by their MAC addresses once a person has compared.
	_, third := d.enrol(uuidA, macB)
	if len(third.Rivals) != 1 {
		t.Errorf("a shared UUID is not flagged: %+v", third)
	}
	if _, err := d.approve(third.ID, api.Approval{Fingerprint: third.Fingerprint}); err != nil {
		t.Errorf("a shared UUID with another MAC: %v", err)
	}
	if d.host(first.ID) == nil {
		t.Error("a host with other MAC addresses was replaced")
	}
}

func TestEnrolIsBounded(t *testing.T) {
	d := newDesk(t, func(c *trust.Config) { c.Limits = trust.Limits{Waiting: 2, Burst: 5, Rate: 1} })
	key, e := machine(t, uuidA, macA)
	for _, bad := range []func(*api.Enrolment){
		func(e *api.Enrolment) { e.Schema = 2 },
		func(e *api.Enrolment) { e.Nonce = "short" },
		func(e *api.Enrolment) { e.Inventory.NICs = nil },
		func(e *api.Enrolment) { e.Request = "nothing" },
		func(e *api.Enrolment) { e.Authority = e.Request[:100] },
	} {
		changed := *e
		bad(&changed)
		if _, err := d.manager.Enrol(t.Context(), key.Fingerprint(), "10.0.0.9", &changed); !api.Invalid.In(err) {
			t.Errorf("bad enrolment: %v", err)
		}
	}
	if _, err := d.manager.Enrol(t.Context(), key.Fingerprint(), "10.0.0.9", e); !api.Busy.In(err) {
		t.Errorf("the sixth at once from one address: %v", err)
	}
	other, _ := machine(t, uuidA, macA)
	if _, err := d.manager.Enrol(t.Context(), other.Fingerprint(), "10.0.0.8", e); !api.Denied.In(err) {
		t.Errorf("a request of another key: %v", err)
	}
	d.enrol(uuidA, macA)
	d.enrol(uuidB, macB)
	third, e3 := machine(t, "aaaaaaaa-0000-4000-8000-000000000003", "52:54:00:00:00:0c")
	if _, err := d.manager.Enrol(t.Context(), third.Fingerprint(), "10.0.0.3", e3); !api.Busy.In(err) {
		t.Errorf("one more than may wait: %v", err)
	}
}

func TestForgottenKeyIsGone(t *testing.T) {
	d := newDesk(t, nil)
	key, h := d.enrol(uuidA, macA)
	result := make(chan error, 1)
	go func() {
		_, err := d.manager.Await(context.Background(), key.Fingerprint(), time.Hour)
		result <- err
	}()
	if err := d.manager.Forget(t.Context(), store.Actor{Name: "operator/ann"}, h.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !api.Gone.In(err) {
		t.Errorf("a forgotten machine's wait ends with %v", err)
	}
	if _, err := d.manager.Renew(t.Context(), h.ID, "x"); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a forgotten host renews: %v", err)
	}
}
