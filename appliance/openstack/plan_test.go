package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/appliance/service/servicetest"
)

func site() *api.Site { return &api.Site{Name: "edge", Controllers: []string{"https://10.0.0.2:7443"}} }

func controller() service.Asker {
	return service.Asker{Host: &api.Host{Name: "controller-0", Personality: "controller"}, Site: site(), Config: &api.Config{
		Components: api.Components{OpenStack: &api.OpenStack{}}, Interfaces: []api.Interface{{Addresses: []string{"10.0.0.2/24"}}}}}
}

// TestIssue gives secrets to those alone who may have them, and makes each once.
func TestIssue(t *testing.T) {
	a, have := Authority{Signer: servicetest.NewSigner(t)}, service.Secrets{}
	if added, err := a.Found(have, site(), time.Now()); !added || err != nil {
		t.Fatal(added, err)
	}
	before, _ := json.Marshal(have)
	if added, err := a.Found(have, site(), time.Now()); added || err != nil {
		t.Error("secrets are made twice", err)
	}
	if after, _ := json.Marshal(have); string(before) != string(after) {
		t.Error("a secret was replaced")
	}
	_, request, err := service.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	worker, unwilling := controller(), controller()
	worker.Host = &api.Host{Name: "worker-0", Personality: "worker"}
	unwilling.Config = &api.Config{}
	for name, test := range map[string]struct {
		by   service.Asker
		join api.Join
		kind api.Kind // empty: it works
		gets int
	}{
		"controller":         {controller(), api.Join{Requests: map[string]string{certServer: request}}, "", len(have)},
		"another name":       {controller(), api.Join{Requests: map[string]string{"root": request}}, api.Denied, 0},
		"no request":         {controller(), api.Join{Requests: map[string]string{certServer: "x"}}, api.Invalid, 0},
		"worker":             {worker, api.Join{}, api.Denied, 0},
		"without the wish":   {unwilling, api.Join{}, api.Denied, 0},
		"administrator":      {service.Asker{Operator: "ann", Role: "admin", Site: site()}, api.Join{}, "", 1},
		"reader":             {service.Asker{Operator: "bob", Role: "reader", Site: site()}, api.Join{}, "", 1},
		"nobody":             {service.Asker{Operator: "eve", Role: "", Site: site()}, api.Join{}, api.Denied, 0},
		"operator's request": {service.Asker{Operator: "ann", Role: "admin", Site: site()}, api.Join{Requests: map[string]string{certServer: request}}, api.Denied, 0},
	} {
		out, err := a.Issue(have, test.by, &test.join, time.Now())
		if test.kind != "" {
			if !test.kind.In(err) {
				t.Errorf("%s: got %v, want kind %s", name, err, test.kind)
			}
			continue
		}
		if err != nil || len(out.Secrets) != test.gets {
			t.Errorf("%s: got %d secrets, want %d: %v", name, len(out.Secrets), test.gets, err)
		}
	}
	out, err := a.Issue(have, service.Asker{Role: "reader", Site: site()}, &api.Join{}, time.Now())
	if err != nil || string(out.Secrets["user.reader"]) != string(have["user.reader"]) {
		t.Errorf("a reader does not get the reader's password: %v", err)
	}
}

// TestSecrets finds no secret where others than root can read, nor in a unit, where every program could.
func TestSecrets(t *testing.T) {
	p := plan{wish: api.OpenStack{}.Defaults(), node: "controller-0", address: "10.0.0.2", secrets: map[string]string{}}
	for i, name := range append(append(passwords(), credentialKeys()...), tokenKeys+"2026-09-01", tokenKeys+"2026-10-01", tokenKeys+"2026-10-31") {
		p.secrets[name] = fmt.Sprintf("secret-%d-of-the-site", i)
	}
	p.ceph = &storage{Address: "10.0.0.2", FSID: "f", Keys: map[string]string{}}
	secrets := maps.Clone(p.secrets)
	for _, user := range poolUsers() {
		p.ceph.Keys[user] = "key of " + user
		secrets[user] = p.ceph.Keys[user]
	}
	found := map[string]bool{}
	for _, f := range p.files() {
		for name, secret := range secrets {
			if !strings.Contains(f.text, secret) {
				continue
			}
			found[name] = true
			if f.mode != 0o600 || !strings.HasPrefix(f.path, runDir+"/") {
				t.Errorf("secret %s is in /%s, mode %o", name, f.path, f.mode)
			}
		}
	}
	for name := range secrets {
		person := name == userSecret("operator") || name == userSecret("reader") || name == secretQueue
		if !found[name] && !person {
			t.Errorf("secret %s is in no file", name)
		}
	}
}

// TestUnits checks that all that a unit is handed and reads is written by the plan, and that no file is of two minds.
func TestUnits(t *testing.T) {
	p := plan{wish: api.OpenStack{}.Defaults(), node: "controller-0", address: "10.0.0.2", secrets: map[string]string{}}
	checkUnits(t, p)
	p.ceph = &storage{}
	checkUnits(t, p)
}

func checkUnits(t *testing.T, p plan) {
	t.Helper()
	there := map[string]int{caFile: 1, keyDir + "/server.crt": 1, keyDir + "/server.key": 1}
	for _, f := range p.files() {
		there[f.path]++
	}
	for path, n := range there {
		if n != 1 {
			t.Errorf("/%s is written %d times", path, n)
		}
	}
	for _, u := range p.units() {
		for _, path := range u.inputs() {
			if there[path] == 0 {
				t.Errorf("%s reads /%s, which nobody writes", u.name, path)
			}
		}
		for _, line := range []string{"NoNewPrivileges=yes", "ProtectSystem=strict", "User=" + u.user, "CapabilityBoundingSet="} {
			if !strings.Contains(u.text(), line) {
				t.Errorf("%s lacks %s", u.name, line)
			}
		}
	}
}

// machine is a host whose units run when they are started.
type machine struct {
	running map[string]time.Time
	ran     []string
	broken  string // this one does not run to its end
	slow    bool   // services take their time until they are up
}

func (m *machine) Run(_ context.Context, _ []byte, program string, args ...string) ([]byte, error) {
	if m.broken == program {
		return nil, errors.New("it failed")
	}
	m.ran = append(m.ran, program+" "+strings.Join(args, " "))
	return nil, nil
}
func (m *machine) Addresses() []string { return []string{"10.0.0.2"} }
func (m *machine) UnitState(_ context.Context, unit string) (string, error) {
	switch {
	case m.running[unit].IsZero():
		return "inactive", nil
	case m.slow:
		return "activating", nil
	}
	return "active", nil
}
func (m *machine) UnitStarted(_ context.Context, unit string) (time.Time, error) {
	return m.running[unit], nil
}
func (m *machine) StartUnit(_ context.Context, unit string) error {
	m.running[unit] = time.Now()
	return nil
}
func (m *machine) RunUnit(_ context.Context, unit string) error {
	if unit == m.broken {
		return errors.New("it failed")
	}
	m.ran = append(m.ran, unit)
	return nil
}
func (m *machine) StopUnit(_ context.Context, unit string) error {
	delete(m.running, unit)
	return nil
}

// keep is a directory in memory.
type keep map[string][]byte

func (k keep) Read(name string) ([]byte, error) {
	if b, ok := k[name]; ok {
		return b, nil
	}
	return nil, os.ErrNotExist
}
func (k keep) Write(name string, b []byte) error { k[name] = b; return nil }

// TestKeysAndSettings makes what the first steps of a bring-up are about, twice, and takes it away.
func TestKeysAndSettings(t *testing.T) {
	a, have := Authority{Signer: servicetest.NewSigner(t)}, service.Secrets{}
	if _, err := a.Found(have, site(), time.Now()); err != nil {
		t.Fatal(err)
	}
	m, joins := &machine{running: map[string]time.Time{}}, 0
	h := &Controller{Control: true, Host: Host{Root: t.TempDir(), Machine: m, Keys: keep{}, Node: "controller-0", Now: time.Now, Join: func(_ context.Context, join api.Join) (*api.Material, error) {
		joins++
		return a.Issue(have, controller(), &join, time.Now())
	}}}
	config := controller().Config
	for range 2 {
		for _, step := range h.Steps(config)[:2] {
			if step.Holds(t.Context()) == nil {
				continue
			}
			if err := step.Make(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := step.Holds(t.Context()); err != nil {
				t.Errorf("%s: %v", step.Name, err)
			}
		}
	}
	if joins != 1 {
		t.Errorf("joined %d times", joins)
	}
	conf := filepath.Join(h.Root, runDir, "nova.conf")
	info, err := os.Stat(conf)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("nova.conf: %v, %v", info, err)
	}
	if err := os.Chmod(conf, 0o644); err != nil {
		t.Fatal(err)
	}
	steps := h.Steps(config)
	if err := steps[0].Holds(t.Context()); err != nil {
		t.Error(err)
	}
	if err := steps[1].Holds(t.Context()); err == nil {
		t.Error("settings that all can read are as they should be")
	}
	leave := h.Steps(&api.Config{})[0]
	if err := leave.Holds(t.Context()); err == nil {
		t.Error("it has left before it did")
	}
	if err := leave.Make(t.Context()); err != nil {
		t.Error(err)
	}
	if err := leave.Holds(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCredentials writes what clients read, and a shell's quotes hold.
func TestCredentials(t *testing.T) {
	c, err := NewCredentials("edge", &api.Material{Address: "fd00::2", Authorities: map[string]string{"site": "PEM"}, Secrets: map[string][]byte{"user.admin": []byte("it's")}})
	if err != nil {
		t.Fatal(err)
	}
	clouds, err := c.Clouds("/x/ca.crt")
	if err != nil || !strings.Contains(string(clouds), `"auth_url": "https://[fd00::2]:5000/v3"`) {
		t.Errorf("got %s, %v", clouds, err)
	}
	if text := string(c.Shell("/x/ca.crt")); !strings.Contains(text, `export OS_PASSWORD='it'\''s'`+"\n") {
		t.Errorf("got %s", text)
	}
	if _, err := NewCredentials("edge", &api.Material{Address: "10.0.0.2"}); err == nil {
		t.Error("credentials without a password")
	}
}

// TestStart starts what does not run with its newest settings, and breaks off nothing that is about to be up.
func TestStart(t *testing.T) {
	p := someHypervisor()
	m := &machine{running: map[string]time.Time{}, slow: true}
	b := &part{Host: &Host{Root: t.TempDir(), Machine: m, Keys: keep{}}, has: p}
	if err := b.writeSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	step := b.start(unitLibvirt)
	for range 2 {
		if err := step.Make(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	first := m.running[unitLibvirt]
	if err := step.Holds(t.Context()); err == nil {
		t.Error("a service that is about to be up is up")
	}
	if err := step.Make(t.Context()); err != nil || m.running[unitLibvirt] != first {
		t.Errorf("it was broken off: %v", err)
	}
	if err := os.Chtimes(filepath.Join(b.Root, libvirtSet), time.Time{}, first.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := step.Make(t.Context()); err != nil || m.running[unitLibvirt] == first {
		t.Errorf("it keeps its old settings: %v", err)
	}
}
