package appliance

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roost/appliance/api"
	"roost/appliance/linux"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/durable"
	"roost/pxe"
	"roost/updater"
)

// fakeSystem answers gates as told.
type fakeSystem struct {
	states map[string]string
	failed []string
	exit   error
	asked  int
}

func (s *fakeSystem) UnitState(_ context.Context, unit string) (string, error) {
	s.asked++
	return s.states[unit], nil
}
func (s *fakeSystem) FailedUnits(context.Context) ([]string, error) { return s.failed, nil }
func (s *fakeSystem) RunConfined(context.Context, string, []string, time.Duration) error {
	return s.exit
}

func TestGates(t *testing.T) {
	system := &fakeSystem{states: map[string]string{"ssh.service": "active", "web.service": "activating"}}
	site := errors.New("no answer")
	g := &Gates{System: system, Controller: func(context.Context) error { return site }}
	list := []images.Gate{
		{Name: "ssh", Kind: "unit", Unit: "ssh.service"}, {Name: "web", Kind: "unit", Unit: "web.service"}, {Name: "units", Kind: "units"},
		{Name: "site", Kind: "controller"}, {Name: "check", Kind: "program", Exec: []string{"/bin/true"}}, {Name: "later", Kind: "moon"},
	}
	outcome := func() string {
		var out []string
		for _, r := range g.Check(t.Context(), list) {
			if !r.Held {
				out = append(out, r.Name+": "+r.Output)
			}
		}
		return strings.Join(out, "; ")
	}
	if got, want := outcome(), `web: web.service is activating; site: no answer; later: gate kind "moon" is not known to this release`; got != want {
		t.Errorf("got %s", got)
	}
	system.failed, system.exit, site = []string{"a.service", "b.mount"}, errors.New("exit 1"), nil
	if got := outcome(); !strings.Contains(got, "units: failed: a.service, b.mount; check: exit 1") || strings.Contains(got, "site:") {
		t.Errorf("got %s", got)
	}
}

func TestHealthIsFresh(t *testing.T) {
	system := &fakeSystem{states: map[string]string{"ssh.service": "active"}}
	g := &Gates{System: system}
	list := []images.Gate{{Name: "ssh", Kind: "unit", Unit: "ssh.service"}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, step := range []struct {
		state   string
		pause   time.Duration
		healthy bool
		asked   int
	}{
		{"active", 0, true, 1},
		{"failed", 5 * time.Second, true, 1}, // a good answer stands for a while
		{"failed", 20 * time.Second, false, 2},
		{"active", time.Second, true, 3}, // a bad one does not
	} {
		now = now.Add(step.pause)
		system.states["ssh.service"] = step.state
		healthy, reason := g.Healthy(t.Context(), list, now)
		if healthy != step.healthy || healthy != (reason == "") || system.asked != step.asked {
			t.Errorf("%+v: healthy %v, %q, asked %d times", step, healthy, reason, system.asked)
		}
	}
}

func TestRender(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct{ name, config, hostname, dhcp string }{
		{"none", "", "roost\n", "DHCP=yes"},
		{"good", `{"schema":1,"hostname":"w1","interfaces":[{"mac":"52:54:00:00:00:01","addresses":["10.0.0.5/24"]}]}`, "w1\n", "LinkLocalAddressing=no"},
		{"torn", `{"schema":1,"host`, "roost\n", "DHCP=yes"},
		{"invalid", `{"schema":1,"hostname":"a b"}`, "roost\n", "DHCP=yes"},
	} {
		root := t.TempDir()
		if test.config != "" {
			if err := os.MkdirAll(filepath.Join(root, stateDir), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, stateDir, configFile), []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // every boot does it again
			if _, err := render(root, log); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		name, _ := os.ReadFile(filepath.Join(root, "etc/hostname"))
		network, _ := os.ReadFile(filepath.Join(root, "etc/systemd/network/90-roost-default.network"))
		if string(name) != test.hostname || !strings.Contains(string(network), test.dhcp) {
			t.Errorf("%s: host name %q, network %q", test.name, name, network)
		}
	}
}

// TestWorkerConfig holds what hosts of a site have in common.
func TestWorkerConfig(t *testing.T) {
	common := api.Config{DNS: []string{"10.0.0.53"}, NTP: []string{"10.0.0.1"}, Hosts: []string{"10.0.0.2 c"}, AuthorizedKeys: []string{"ssh-rsa x"},
		Components: api.Components{Kubernetes: &api.Kubernetes{}},
		Resources:  api.Resources{Processors: api.Processors{Platform: "0"}, HugePages: []api.HugePages{{Size: "2Mi", Count: 1}}}}
	first := common
	first.Revision, first.Hostname, first.PXE, first.Provisioning, first.Interfaces = 1, "controller-0", "dhcp", "52:54:00:00:00:01", []api.Interface{{DHCP: true}}
	if got := workerConfig(&api.Assignment{Config: first})(nil, nil); !reflect.DeepEqual(got, &common) {
		t.Errorf("got %+v", got)
	}
}

// TestRenderTemplates holds that files of components get this machine's values, and that one which lacks a value takes
// nothing else with it.
func TestRenderTemplates(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/a/name": "I am {{hostname}}", "etc/address": "at {{address}}", "etc/name": "iqn:{{id}}", "etc/future": "{{colour}}",
	} {
		path := filepath.Join(root, images.TemplatesPath, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	if _, err := render(root, log); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "etc/a/name")); string(got) != "I am roost" {
		t.Errorf("wrote %q, %v", got, err)
	}
	for _, name := range []string{"/etc/address", "/etc/name", "/etc/future"} {
		if _, err := os.Stat(filepath.Join(root, name)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(said.String(), name) {
			t.Errorf("%s without its value: %v; said %s", name, err, said.String())
		}
	}
	c := `{"schema":1,"hostname":"w1","interfaces":[{"mac":"52:54:00:00:00:01","addresses":["10.0.0.5/24"]}]}`
	path := filepath.Join(root, stateDir, configFile)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(c), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := render(root, log); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(root, "etc/address"))
	if got, _ := os.ReadFile(filepath.Join(root, "etc/address")); err != nil || string(got) != "at 10.0.0.5" || info.Mode().Perm() != 0o640 {
		t.Errorf("wrote %q, %v, %v", got, info, err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(root, identityDir), 0o700), os.WriteFile(filepath.Join(root, identityDir, "host-id"), []byte("6c6f-1\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := render(root, log); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "etc/name")); string(got) != "iqn:6c6f-1" {
		t.Errorf("with an identity: wrote %q, %v", got, err)
	}
}

// TestInstallFiles holds that an installed system finds its identity, and that nothing of it lies elsewhere.
func TestInstallFiles(t *testing.T) {
	key, err := trust.Enrol(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := &api.Assignment{Schema: 1, Site: "lab", Host: "6c6f0000-0000-4000-8000-000000000001", Name: "w1", Controllers: []string{"https://c:7443"}}
	files, err := installFiles(key, a, &images.Release{Gates: []images.Gate{{Name: "units", Kind: "units"}}})
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	for _, f := range files {
		if !strings.HasPrefix(f.Path, "lib/roost/") || f.Mode != 0o600 {
			t.Errorf("%s has mode %o", f.Path, f.Mode)
		}
		path := filepath.Join(state, "var", f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := durable.Open(filepath.Join(state, identityDir), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := trust.LoadIdentity(dir); err != nil || id == nil || id.Assignment.Name != "w1" {
		t.Errorf("identity: %+v %v", id, err)
	}
	d := &daemon{boot: &linux.Boot{}}
	if d.state, err = durable.Open(filepath.Join(state, stateDir), 0o600); err != nil {
		t.Fatal(err)
	}
	if gates, err := d.gatesOf(updater.State{}); err != nil || len(gates) != 1 || gates[0].Name != "units" {
		t.Errorf("gates of the first release: %v %v", gates, err)
	}
}

func TestPinsRefuseAnotherSite(t *testing.T) {
	d := &Discovery{Boot: &linux.Boot{}, Now: time.Now, Console: func(string) {}, Log: slog.New(slog.DiscardHandler)}
	site := images.DigestOf([]byte("root"))
	d.Boot.Site = &struct {
		Name          string        `json:"name"`
		Controller    string        `json:"controller"`
		CAFingerprint images.Digest `json:"caFingerprint"`
	}{"lab", "https://10.0.0.1:7443", site}
	if _, err := d.greet(); err != nil {
		t.Errorf("first use: %v", err)
	}
	d.Pins = []images.Digest{images.DigestOf([]byte("another"))}
	if _, err := d.greet(); err == nil || !strings.Contains(err.Error(), "none of those this image trusts") {
		t.Errorf("another site's root: %v", err)
	}
	d.Pins = append(d.Pins, site)
	if _, err := d.greet(); err != nil {
		t.Errorf("a pinned root: %v", err)
	}
	d.Boot.Site.CAFingerprint = "sha256:short"
	if _, err := d.greet(); err == nil {
		t.Error("a broken fingerprint is accepted")
	}
}

func TestNoSiteRestartsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		var restarted time.Time
		began := time.Now()
		d := &Discovery{
			Boot: &linux.Boot{Origin: "iso"}, Now: time.Now, Console: func(line string) { said = append(said, line) }, Log: slog.New(slog.DiscardHandler),
			Reboot: func(context.Context) error { restarted = time.Now(); return nil },
		}
		if err := d.Run(t.Context()); err != nil || restarted.Sub(began) != restartPause {
			t.Errorf("restarted after %s, %v", restarted.Sub(began), err)
		}
		if len(said) != 2 || !strings.Contains(said[0], "no boot server of a site answered") {
			t.Errorf("the console says %q", said)
		}
	})
}

func TestBootInterface(t *testing.T) {
	loopback := &api.Config{Provisioning: "52:54:00:00:00:99", PXE: "dhcp", Range: "10.0.0.10-10.0.0.20"}
	if _, err := bootInterface(loopback); err == nil {
		t.Error("an interface that is not there is served")
	}
}

func TestPartitionNames(t *testing.T) {
	for disk, want := range map[string]string{"/dev/vda": "/dev/vda1", "/dev/nvme0n1": "/dev/nvme0n1p1", "/dev/mmcblk0": "/dev/mmcblk0p1", "/dev/sdz": "/dev/sdz1"} {
		if got := partition(disk, 1); got != want {
			t.Errorf("%s: %s, want %s", disk, got, want)
		}
	}
}

// TestCrashNotes tells records of this failure from those that were there before.
func TestCrashNotes(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	state, err := durable.Open(filepath.Join(root, "state"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	h := &engineHost{machine: linux.Machine{Root: root}, state: state}
	put("var/lib/systemd/pstore/1/dmesg.txt", "an old panic")
	if err := h.Begin(); err != nil {
		t.Fatal(err)
	}
	if found, err := h.Evidence(t.Context(), "none"); err != nil || len(found.Pstore) != 0 {
		t.Errorf("before the crash: %q %v", found.Pstore, err)
	}
	put("var/lib/systemd/pstore/2/dmesg.txt", "a new panic")
	for range 2 { // gathering may run twice
		if found, err := h.Evidence(t.Context(), "none"); err != nil || len(found.Pstore) != 1 || found.Pstore[0] != "a new panic" {
			t.Errorf("after the crash: %q %v", found.Pstore, err)
		}
	}
}

func TestRosterBars(t *testing.T) {
	barred := bar([]*api.Host{
		{Name: "a", Phase: api.InService, MACs: []string{mac(1), mac(2)}}, {Name: "b", Phase: api.Installed, MACs: []string{mac(3)}},
		{Name: "c", Phase: api.Discovered, MACs: []string{mac(4)}}, {Name: "d", Phase: api.Approved, MACs: []string{mac(5)}}, {Name: "e", Phase: api.Installing, MACs: []string{mac(6)}},
	})
	for n, want := range map[int]bool{1: true, 2: true, 3: true, 4: false, 5: false, 6: false, 7: false} {
		if _, got := barred[mac(n)]; got != want {
			t.Errorf("machine %d barred %v, want %v", n, got, want)
		}
	}
	unread := &roster{}
	if v := unread.Assign(t.Context(), pxe.Client{}); v.Refuse == "" {
		t.Error("a roster that has read nothing lets machines boot")
	}
}
