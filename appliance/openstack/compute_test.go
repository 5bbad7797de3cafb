package openstack

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/appliance/service/servicetest"
)

func someHypervisor() hypervisor {
	secrets := map[string]string{}
	for _, name := range hostSecrets() {
		secrets[name] = "secret " + name
	}
	return hypervisor{plan: &plan{wish: api.OpenStack{}.Defaults(), node: "controller-0", address: "10.0.0.2", secrets: secrets}, control: true}
}

// TestHypervisor checks that all that a unit is handed and reads is written, that no file has two writers on a host that is
// controller too and that secrets are in
// files of root's only.
func TestHypervisor(t *testing.T) {
	p := someHypervisor()
	there := map[string]int{caFile: 1}
	for _, f := range append(p.files(), p.plan.files()...) {
		there[f.path]++
		for name, secret := range p.secrets {
			if strings.Contains(f.text, secret) && f.mode != 0o600 {
				t.Errorf("secret %s is in /%s, mode %o", name, f.path, f.mode)
			}
		}
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
		for _, line := range []string{"NoNewPrivileges=yes", "CapabilityBoundingSet="} {
			if !strings.Contains(u.text(), line) {
				t.Errorf("%s lacks %s", u.name, line)
			}
		}
		if strings.Contains(u.text(), "User=") != (u.user != "root") {
			t.Errorf("%s is not %s's", u.name, u.user)
		}
	}
}

// TestFacts has what the machine is decide how machines and packets run.
func TestFacts(t *testing.T) {
	text := func(p hypervisor) (out string) {
		for _, f := range p.files() {
			out += f.text
		}
		return out
	}
	poor, rich := someHypervisor(), someHypervisor()
	rich.kvm, rich.switching = true, true
	for _, test := range []struct {
		plan hypervisor
		has  []string
	}{
		{poor, []string{"virt_type = qemu\n", `ovn-bridge-datapath-type=\"netdev\"`}},
		{rich, []string{"virt_type = kvm\n", `ovn-bridge-datapath-type=\"system\"`}},
	} {
		for _, want := range test.has {
			if !strings.Contains(text(test.plan), want) {
				t.Errorf("no file has %q", want)
			}
		}
	}
}

// TestWanted tells where virtual machines run.
func TestWanted(t *testing.T) {
	wish := &api.Config{Components: api.Components{OpenStack: &api.OpenStack{}}}
	for personality, want := range map[api.Personality]bool{"controller": false, "all-in-one": true, "worker": true, "storage": false, "witness": false} {
		h := &Compute{Control: personality.Controls(), Carries: personality.Carries(), Host: Host{Machine: &machine{}, Keys: keep{}}}
		if h.Wanted(wish) != want || h.Wanted(&api.Config{}) {
			t.Errorf("%s: wanted is not %v", personality, want)
		}
	}
	apart := &Compute{Carries: true}
	steps := apart.Steps(wish)
	if err := steps[0].Make(t.Context()); len(steps) != 1 || err == nil || !strings.Contains(err.Error(), "controller alone") {
		t.Errorf("a host apart from the controller: %v", err)
	}
}

// TestComputeKeys keeps of the site's secrets what such a host needs, then writes its settings, and takes them away.
func TestComputeKeys(t *testing.T) {
	a, have := Authority{Signer: servicetest.NewSigner(t)}, service.Secrets{}
	if _, err := a.Found(have, site(), time.Now()); err != nil {
		t.Fatal(err)
	}
	keys := keep{}
	h := &Compute{Control: true, Carries: true, Host: Host{Root: t.TempDir(), Machine: &machine{running: map[string]time.Time{}}, Keys: keys, Node: "controller-0", Now: time.Now,
		Join: func(_ context.Context, join api.Join) (*api.Material, error) {
			return a.Issue(have, controller(), &join, time.Now())
		}}}
	config := controller().Config
	for i, name := range []string{"keys", "settings"} {
		step := h.Steps(config)[i]
		if step.Name != name || step.Holds(t.Context()) == nil {
			t.Fatalf("%s holds before it is made", step.Name)
		}
		if err := step.Make(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := h.Steps(config)[i].Holds(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var kept map[string][]byte
	if err := json.Unmarshal(keys[secretsFile], &kept); err != nil || len(kept) != len(hostSecrets()) {
		t.Errorf("kept %d secrets: %v", len(kept), err)
	}
	if _, err := os.Stat(filepath.Join(h.Root, runDir, "nova-compute.conf")); err != nil {
		t.Error(err)
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

// TestRegistered asks the APIs whether they know the host, as nova's user.
func TestRegistered(t *testing.T) {
	answers := map[string]string{
		"/v3/auth/tokens":             `{"token": {}}`,
		"/v2.1/os-services":           `{"services": [{"id": "1", "binary": "nova-conductor", "state": "up"}]}`,
		"/v2.0/agents":                `{"agents": [{"binary": "ovn-controller", "alive": true}, {"binary": "neutron-ovn-metadata-agent", "alive": false}]}`,
		"/v2.1/os-hypervisors/detail": `{"hypervisors": [{"state": "up", "service": {"host": "other"}}]}`,
	}
	s := servicetest.NewSigner(t)
	address := serveAPIs(t, s, answers)
	b := &hosting{part{Host: &Host{Keys: keep{"ca.crt": []byte(s.RootPEM())}, Now: time.Now, Dial: func(context.Context, string, string) (net.Conn, error) { return net.Dial("tcp", address) }},
		plan: plan{node: "controller-0", address: "10.0.0.2", secrets: map[string]string{userSecret("nova"): "word"}}, user: "nova", project: "service"}}
	if err := b.hasConductor(t.Context()); err != nil {
		t.Error(err)
	}
	for name, test := range map[string]struct {
		asks func(context.Context) error
		then string
	}{
		"/v2.0/agents":                {b.hasNetwork, strings.ReplaceAll(answers["/v2.0/agents"], "false", "true")},
		"/v2.1/os-hypervisors/detail": {b.hasHypervisor, strings.ReplaceAll(answers["/v2.1/os-hypervisors/detail"], "other", "controller-0")},
	} {
		if err := test.asks(t.Context()); err == nil {
			t.Errorf("%s: it holds too early", name)
		}
		answers[name] = test.then
		if err := test.asks(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// serveAPIs answers requests by their path.
func serveAPIs(t *testing.T, s *servicetest.Signer, answers map[string]string) (address string) {
	t.Helper()
	key, request, err := service.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := s.Service(request, "controller-0", []net.IP{net.IPv4(10, 0, 0, 2)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(chain), key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains([]string{http.MethodGet, http.MethodPost}, r.Method) || answers[r.URL.Path] == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodPost {
			w.Header().Set("X-Subject-Token", "token")
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = w.Write([]byte(answers[r.URL.Path]))
	})}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}
