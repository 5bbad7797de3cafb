package kubernetes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/images"
	"roost/images/durable"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestFiles holds every setting and unit of a host that runs all of Kubernetes, and of one that runs pods only.
func TestFiles(t *testing.T) {
	p := plan{wish: api.Kubernetes{}.Defaults(), node: "one", address: "10.77.0.2", server: "https://10.77.0.2:6443", control: true, alone: true,
		dns: "10.96.0.10"}
	for name, change := range map[string]func(*plan){
		"controller": func(*plan) {}, "worker": func(p *plan) { p.control = false }, "divided": func(p *plan) { p.control, p.system = false, "0-1,8" },
		"volumes": func(p *plan) { p.volumes, p.alone = true, false },
	} {
		t.Run(name, func(t *testing.T) {
			p := p
			change(&p)
			var got strings.Builder
			for _, f := range append(p.files(), file{netFile, 0o644, p.network("10.244.0.0/24")}) {
				fmt.Fprintf(&got, "-- %s %o --\n%s", f.path, f.mode, f.text)
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || string(want) != got.String() {
				t.Errorf("files changed (%v); got\n%s", err, got.String())
			}
		})
	}
}

// TestAddons reads the manifests: each object has its place in the API, and every value is filled in.
func TestAddons(t *testing.T) {
	for _, upstream := range [][]string{nil, {"10.0.0.53", "10.0.0.54"}} {
		list, err := addons("10.96.0.10", "cluster.local", "roost.local/coredns:1", upstream, true)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) < 10 || strings.Contains(string(b), "{{") || !strings.Contains(string(b), `"clusterIP":"10.96.0.10"`) {
			t.Errorf("got %s", b)
		}
		if got := strings.Contains(string(b), "forward . 10.0.0.53 10.0.0.54"); got != (upstream != nil) {
			t.Errorf("forwards: %v with %v", got, upstream)
		}
		seen := map[string]bool{}
		for _, o := range list {
			path, err := pathOf(o)
			if err != nil || seen[path] {
				t.Errorf("%s: %v", path, err)
			}
			seen[path] = true
		}
	}
}

// fakeMachine is a host whose units start at once, and remembers what was done to it.
type fakeMachine struct {
	root string

	mu      sync.Mutex // guards the fields below
	started map[string]time.Time
	images  []string
	program string
	acts    []string
	crash   string // the act before which the machine dies
}

func (m *fakeMachine) act(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name == m.crash {
		m.crash = ""
		panic("crash before " + name)
	}
	m.acts = append(m.acts, name)
}

func (m *fakeMachine) Load(_ context.Context, program string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.program = program
	return nil
}

func (m *fakeMachine) HasTable(context.Context, string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.program == "" {
		return errors.New("no such table")
	}
	return nil
}

func (m *fakeMachine) UnitState(_ context.Context, unit string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started[unit].IsZero() {
		return "inactive", nil
	}
	return "active", nil
}

func (m *fakeMachine) UnitStarted(_ context.Context, unit string) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started[unit], nil
}

func (m *fakeMachine) StartUnit(_ context.Context, unit string) error {
	m.act("start " + unit)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started[unit] = time.Now()
	return nil
}

func (m *fakeMachine) StopUnit(_ context.Context, unit string) error {
	m.act("stop " + unit)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.started, unit)
	return nil
}

func (m *fakeMachine) Containers(context.Context) ([]string, error) { return m.images, nil }

func (m *fakeMachine) ImportContainer(_ context.Context, archive string) error {
	m.act("import " + filepath.Base(archive))
	m.images = append(m.images, "roost.local/pause:1.0", "roost.local/coredns:1.14.6")
	return nil
}

func (m *fakeMachine) Addresses() []string { return []string{"fe80::1", "10.77.0.2"} }

// door is the store's; it is open once asked.
type door struct{ open bool }

func (d *door) Opened() error {
	if !d.open {
		return errors.New("closed")
	}
	return nil
}

func (d *door) Open(context.Context) error { d.open = true; return nil }

// cluster is an API server with as much behind it as a bring-up asks for. It judges clients by their certificates.
type cluster struct {
	t       *testing.T
	mu      sync.Mutex // guards objects
	objects map[string]json.RawMessage
	server  *httptest.Server
}

func (c *cluster) serve(secrets service.Secrets) {
	key, text := request(c.t)
	out, err := (Authority{}).Issue(secrets, asker("controller"), &api.Join{Schema: 1, Requests: map[string]string{certServer: text}}, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(out.Certificates[certServer]), key)
	if err != nil {
		c.t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(secrets[clusterCA+".crt"])
	c.server = httptest.NewUnstartedServer(c)
	c.server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	c.server.StartTLS()
	c.t.Cleanup(func() {
		c.server.CloseClientConnections()
		c.server.Close()
	})
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who := r.TLS.PeerCertificates[0].Subject.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.URL.Path == "/readyz":
	case r.URL.Query().Get("watch") != "":
		w.(http.Flusher).Flush()
		c.mu.Unlock()
		<-r.Context().Done()
		c.mu.Lock()
	case who == "CN=roost:policy" && r.Method == http.MethodGet:
		fmt.Fprint(w, `{"metadata":{"resourceVersion":"1"},"items":[]}`)
	case r.Method == http.MethodPatch && strings.Contains(who, "system:masters"):
		var o json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			c.t.Error(err)
		}
		if strings.HasSuffix(r.URL.Path, "/deployments/coredns") {
			o = json.RawMessage(strings.TrimSuffix(string(o), "}") + `,"status":{"availableReplicas":1}}`)
		}
		c.objects[r.URL.Path] = o
		fmt.Fprint(w, `{}`)
	case r.URL.Path == "/api/v1/nodes/one" && who == "CN=system:node:one,O=system:nodes":
		fmt.Fprint(w, `{"spec":{"podCIDR":"10.244.0.0/24"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`)
	case r.URL.Path == "/apis/storage.k8s.io/v1/csinodes/one" && who == "CN=system:node:one,O=system:nodes":
		fmt.Fprint(w, `{"spec":{"drivers":[{"name":"another"},{"name":"rbd.roost.local"}]}}`)
	case c.objects[r.URL.Path] != nil:
		w.Write(c.objects[r.URL.Path])
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// newHost makes a host of the fakes and what its site has.
func newHost(t *testing.T) (*Host, *fakeMachine) {
	t.Helper()
	secrets := service.Secrets{}
	if _, err := (Authority{}).Found(secrets, testSite(), time.Now()); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, objects: map[string]json.RawMessage{}}
	c.serve(secrets)
	m := &fakeMachine{root: t.TempDir(), started: map[string]time.Time{}}
	archive := filepath.Join(m.root, images.ContainersPath, "all.tar")
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(archive, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	keys, err := durable.Open(filepath.Join(m.root, keyDir), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return &Host{
		Root: m.root, Machine: m, Keys: keys, Enforcer: &Enforcer{Firewall: m}, Store: &door{}, Node: "one", Control: true,
		Controllers: testSite().Controllers, Now: time.Now,
		Image: []images.Component{{Name: "kubernetes", Containers: []string{"roost.local/pause:1.0", "roost.local/coredns:1.14.6"}}},
		Join: func(_ context.Context, join api.Join) (*api.Material, error) {
			m.act("join")
			return (Authority{}).Issue(secrets, asker("controller"), &join, time.Now())
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, c.server.Listener.Addr().String())
		},
	}, m
}

// ensure brings the host where config wants it; a crash of the machine ends it.
func ensure(t *testing.T, h *Host, config *api.Config) (err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	agent := &service.Agent{Components: []service.Component{h}, Image: []string{"kubernetes"}, Now: time.Now}
	agent.Log = discard()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	agent.Configure(config)
	if err := agent.Ensure(ctx, h, config); err != nil {
		return err
	}
	return agent.Ready("kubernetes")
}

// follow runs the enforcer of a host until the test ends.
func follow(t *testing.T, h *Host) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Enforcer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func wanted() *api.Config {
	return &api.Config{Components: api.Components{Kubernetes: &api.Kubernetes{}}}
}

// TestBringUp brings all of it up from nothing, leaves it alone while nothing changes, mends what breaks, and takes it away.
func TestBringUp(t *testing.T) {
	h, m := newHost(t)
	follow(t, h)
	if err := ensure(t, h, wanted()); err != nil {
		t.Fatal(err)
	}
	want := []string{"join", "start containerd.service", "start kube-apiserver.service", "import all.tar", "start kube-controller-manager.service",
		"start kube-scheduler.service", "start kubelet.service", "start kube-proxy.service"}
	if !slices.Equal(m.acts, want) {
		t.Errorf("did %q", m.acts)
	}
	if !strings.Contains(m.program, "masquerade") {
		t.Errorf("packet filter: %s", m.program)
	}
	network, err := os.ReadFile(filepath.Join(m.root, netFile))
	if err != nil || !strings.Contains(string(network), "10.244.0.0/24") {
		t.Errorf("network: %s, %v", network, err)
	}
	m.acts = nil
	if err := ensure(t, h, wanted()); err != nil || len(m.acts) > 0 {
		t.Errorf("did again %q, %v", m.acts, err)
	}
	// A unit that stopped is started; a setting that changed starts what reads it, and nothing else.
	delete(m.started, "kube-scheduler.service")
	other := wanted()
	other.Kubernetes.Services = "10.112.0.0/16"
	if err := ensure(t, h, other); err != nil {
		t.Fatal(err)
	}
	want = []string{"start kube-apiserver.service", "start kube-controller-manager.service", "start kube-scheduler.service", "start kubelet.service"}
	if !slices.Equal(m.acts, want) {
		t.Errorf("did %q", m.acts)
	}
	m.acts = nil
	if err := ensure(t, h, &api.Config{}); err != nil {
		t.Fatal(err)
	}
	if len(m.started) > 0 || h.gone(t.Context()) != nil {
		t.Errorf("left %v", m.started)
	}
	m.acts = nil
	if err := ensure(t, h, &api.Config{}); err != nil || len(m.acts) > 0 {
		t.Errorf("left again: %q, %v", m.acts, err)
	}
}

// TestDivide changes whose the processors are, and how many there are: the kubelet's state of before is gone when it starts, and
// stays as long as nothing changes, also when the daemon dies before it could begin.
func TestDivide(t *testing.T) {
	h, m := newHost(t)
	follow(t, h)
	state, online := filepath.Join(m.root, cpuState), filepath.Join(m.root, "sys/devices/system/cpu/online")
	for _, dir := range []string{filepath.Dir(state), filepath.Dir(online)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for n, step := range []struct {
		platform, online string
		kept             bool
	}{{"", "0-3", true}, {"0", "0-3", false}, {"0", "0-3", true}, {"0-1", "0-3", false}, {"0-1", "0-7", false}, {"0-1", "0-7", true}, {"", "0-7", false}, {"", "0-3", true}} {
		if err := errors.Join(os.WriteFile(online, []byte(step.online+"\n"), 0o644), os.WriteFile(state, []byte("{}"), 0o644)); err != nil {
			t.Fatal(err)
		}
		config := wanted()
		config.Processors.Platform = api.CPUs(step.platform)
		m.crash = "stop kubelet.service"
		err := ensure(t, h, config)
		if _, missing := os.Stat(state); missing != nil || (err == nil) != step.kept {
			t.Fatalf("step %d: %v, state before the kubelet stops: %v", n, err, missing)
		}
		m.crash = ""
		if err := ensure(t, h, config); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(state); (err == nil) != step.kept {
			t.Errorf("step %d: state %v, want it kept: %v", n, err, step.kept)
		}
	}
}

// TestBringUpCrash kills the daemon before each act, of a bring-up and of leaving. The next one finishes it, with the same keys.
func TestBringUpCrash(t *testing.T) {
	for _, act := range []string{"join", "start containerd.service", "start kube-apiserver.service", "import all.tar", "start kube-scheduler.service",
		"start kubelet.service", "stop kubelet.service", "stop kube-apiserver.service", "stop kubepods.slice"} {
		t.Run(act, func(t *testing.T) {
			h, m := newHost(t)
			follow(t, h)
			m.crash = act
			leaves := strings.HasPrefix(act, "stop")
			err := ensure(t, h, wanted())
			if leaves {
				if err != nil {
					t.Fatal(err)
				}
				err = ensure(t, h, &api.Config{})
			}
			if err == nil || !strings.Contains(err.Error(), "crash before "+act) {
				t.Fatalf("got %v", err)
			}
			key, _ := h.Keys.Read(certKubelet + ".key")
			config := wanted()
			if leaves {
				config = &api.Config{}
			}
			if err := ensure(t, h, config); err != nil {
				t.Fatal(err)
			}
			if again, _ := h.Keys.Read(certKubelet + ".key"); len(key) > 0 && string(again) != string(key) {
				t.Error("made another key")
			}
			if leaves != (len(m.started) == 0) {
				t.Errorf("runs %v", m.started)
			}
		})
	}
}

// TestNoSecrets finds no private key in any setting or unit, and no file of keys that others may read.
func TestNoSecrets(t *testing.T) {
	h, m := newHost(t)
	follow(t, h)
	if err := ensure(t, h, wanted()); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(m.root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		private := strings.HasPrefix(path, filepath.Join(m.root, keyDir)+"/")
		if private && info.Mode().Perm() != 0o600 || !private && strings.Contains(string(content), "PRIVATE KEY") {
			t.Errorf("%s, mode %o", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNameServers(t *testing.T) {
	got := nameServers("# nameserver 1.1.1.1\nsearch x\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver\nnameserver x\n nameserver 2001:db8::1\n")
	if strings.Join(got, " ") != "10.0.0.53 2001:db8::1" {
		t.Errorf("got %q", got)
	}
}
