package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

func testSite() *api.Site {
	return &api.Site{Name: "edge", Controllers: []string{"https://10.77.0.2:7443"}}
}

func found(t *testing.T) service.Secrets {
	t.Helper()
	have := service.Secrets{}
	if added, err := (Authority{}).Found(have, testSite(), noon()); err != nil || !added {
		t.Fatal(added, err)
	}
	return have
}

func asker(personality api.Personality) service.Asker {
	return service.Asker{
		Site: testSite(), Host: &api.Host{ID: "h1", Name: "one", Personality: personality, Addresses: []string{"10.77.0.2", "fe80::1"}},
		Config: &api.Config{Components: api.Components{Kubernetes: &api.Kubernetes{}}, Interfaces: []api.Interface{{Addresses: []string{"192.0.2.7/24"}}}},
	}
}

// request makes a key and asks for a certificate over it.
func request(t *testing.T) (key []byte, text string) {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	if text, err = newRequest(key); err != nil {
		t.Fatal(err)
	}
	return key, text
}

// TestFound makes each secret once and never replaces one.
func TestFound(t *testing.T) {
	have := found(t)
	before := maps.Clone(have)
	if added, err := (Authority{}).Found(have, testSite(), noon()); err != nil || added {
		t.Fatal(added, err)
	}
	delete(have, accountKey)
	if added, err := (Authority{}).Found(have, testSite(), noon()); err != nil || !added {
		t.Fatal(added, err)
	}
	for name, value := range before {
		if same := string(value) == string(have[name]); same != (name != accountKey) {
			t.Errorf("%s stayed the same: %v", name, same)
		}
	}
	if n := len(have); n != 10 {
		t.Errorf("%d secrets", n)
	}
}

// TestIssue has every certificate judged by Go's library and by openssl: under its own authority for its own use, and under
// no other.
func TestIssue(t *testing.T) {
	have := found(t)
	by := asker("all-in-one")
	join := &api.Join{Schema: 1, Requests: map[string]string{}}
	keys := map[string][]byte{}
	for name := range hostCertificates() {
		keys[name], join.Requests[name] = request(t)
	}
	out, err := (Authority{}).Issue(have, by, join, noon())
	if err != nil {
		t.Fatal(err)
	}
	if out.Address != "https://10.77.0.2:6443" || len(out.Certificates) != len(keys) || string(out.Secrets[accountKey]) != string(have[accountKey]) {
		t.Errorf("got %s, %d certificates", out.Address, len(out.Certificates))
	}
	want := map[string]string{
		certServer: "CN=kube-apiserver", certKubelet: "CN=system:node:one,O=system:nodes", certNode: "CN=system:node:one,O=system:nodes",
		certProxy: "CN=system:kube-proxy", certController: "CN=system:kube-controller-manager", certScheduler: "CN=system:kube-scheduler",
		certToKubelet: "CN=roost:apiserver", certToStore: "CN=kubernetes", certFront: "CN=front-proxy-client",
		certRoost: "CN=roost:controller,O=system:masters", certPolicy: "CN=roost:policy", certVolumes: "CN=roost:volumes",
	}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		t.Run(name, func(t *testing.T) {
			judge(t, name, out, keys[name], want[name])
		})
	}
}

func judge(t *testing.T, name string, out *api.Material, key []byte, subject string) {
	leaf, err := parseCertificate([]byte(out.Certificates[name]))
	if err != nil {
		t.Fatal(err)
	}
	kind := hostCertificates()[name]
	usage, purpose := x509.ExtKeyUsageClientAuth, "sslclient"
	if name == certServer || name == certNode {
		usage, purpose = x509.ExtKeyUsageServerAuth, "sslserver"
		for _, host := range []string{"one", "10.77.0.2", "192.0.2.7"} {
			if err := leaf.VerifyHostname(host); err != nil {
				t.Error(err)
			}
		}
	}
	if name == certServer {
		for _, host := range []string{"kubernetes.default.svc.cluster.local", "kubernetes", "10.96.0.1", "127.0.0.1"} {
			if err := leaf.VerifyHostname(host); err != nil {
				t.Error(err)
			}
		}
	}
	if got := leaf.Subject.String(); got != subject {
		t.Errorf("subject %s, want %s", got, subject)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "leaf")
	if err := os.WriteFile(file, []byte(out.Certificates[name]), 0o600); err != nil {
		t.Fatal(err)
	}
	for authority, text := range out.Authorities {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(text))
		_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: noon()})
		if (err == nil) != (authority == kind.ca) {
			t.Errorf("under %s: %v", authority, err)
		}
		path := filepath.Join(dir, authority)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath("openssl"); err != nil {
			t.Skip("openssl is not installed")
		}
		said, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", "1795348800", "-CAfile", path, file).CombinedOutput()
		if (err == nil) != (authority == kind.ca) {
			t.Errorf("openssl under %s: %v %s", authority, err, said)
		}
	}
	authority := []byte(out.Authorities[kind.ca])
	if err := usable([]byte(out.Certificates[name]), key, authority, noon()); err != nil {
		t.Error(err)
	}
	if err := usable([]byte(out.Certificates[name]), key, authority, noon().Add(61*24*time.Hour)); err == nil {
		t.Error("is still usable two months later")
	}
	other, _ := request(t)
	if err := usable([]byte(out.Certificates[name]), other, authority, noon()); err == nil {
		t.Error("is usable with another key")
	}
}

// TestIssueRefuses gives nobody what is not theirs.
func TestIssueRefuses(t *testing.T) {
	have := found(t)
	_, good := request(t)
	unwanted := asker("worker")
	unwanted.Config = &api.Config{}
	person := service.Asker{Site: testSite(), Operator: "ann", Role: "reader"}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p384)
	if err != nil {
		t.Fatal(err)
	}
	foreign := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	for name, test := range map[string]struct {
		by            service.Asker
		cert, request string
		kind          api.Kind
	}{
		"worker asks for administrator":  {asker("worker"), certRoost, good, api.Denied},
		"worker asks for API server":     {asker("worker"), certServer, good, api.Denied},
		"worker asks for the store":      {asker("worker"), certToStore, good, api.Denied},
		"host that does not want it":     {unwanted, certKubelet, good, api.Denied},
		"host asks as operator":          {asker("controller"), certOperator, good, api.Denied},
		"operator asks as host":          {person, certKubelet, good, api.Denied},
		"operator asks as administrator": {person, certRoost, good, api.Denied},
		"unknown name":                   {asker("worker"), "x", good, api.Denied},
		"no request":                     {asker("worker"), certKubelet, "x", api.Invalid},
		"request and more":               {asker("worker"), certKubelet, good + "x", api.Invalid},
		"another kind of key":            {asker("worker"), certKubelet, foreign, api.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := (Authority{}).Issue(have, test.by, &api.Join{Schema: 1, Requests: map[string]string{test.cert: test.request}}, noon())
			if !test.kind.In(err) {
				t.Errorf("got %v, want kind %s", err, test.kind)
			}
		})
	}
	out, err := (Authority{}).Issue(have, asker("worker"), &api.Join{Schema: 1, Requests: map[string]string{certKubelet: good}}, noon())
	if err != nil || len(out.Secrets) != 0 {
		t.Errorf("a worker gets secrets %v, %v", slices.Collect(maps.Keys(out.Secrets)), err)
	}
}

// TestKubeconfig gives an operator the rights of their role for a day.
func TestKubeconfig(t *testing.T) {
	have := found(t)
	key, join, err := NewAccess()
	if err != nil {
		t.Fatal(err)
	}
	out, err := (Authority{}).Issue(have, service.Asker{Site: testSite(), Operator: "ann", Role: "reader"}, &join, noon())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := parseCertificate([]byte(out.Certificates[certOperator]))
	if err != nil {
		t.Fatal(err)
	}
	if got := leaf.Subject.String(); got != "CN=ann,O=roost:reader" || leaf.NotAfter.After(noon().Add(25*time.Hour)) {
		t.Errorf("certificate of %s until %s", got, leaf.NotAfter)
	}
	text, err := Kubeconfig("edge", out, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"server": "https://10.77.0.2:6443"`, `"current-context": "edge"`, "client-key-data"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if _, err := Kubeconfig("edge", &api.Material{}, key); err == nil {
		t.Error("makes a kubeconfig of nothing")
	}
}

// TestDoor makes TLS settings that let in the control plane's certificate.
func TestDoor(t *testing.T) {
	config, err := Door(found(t), noon())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
	if err != nil || leaf.VerifyHostname("127.0.0.1") != nil || config.ClientCAs == nil {
		t.Errorf("got %v, %v", leaf, err)
	}
}

// FuzzAnswer signs only what is a request.
func FuzzAnswer(f *testing.F) {
	have := service.Secrets{}
	if _, err := (Authority{}).Found(have, testSite(), noon()); err != nil {
		f.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	good, err := newRequest(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		cert, err := answer(text, subject{name: "x"}, have[clusterCA+".crt"], have[clusterCA+".key"], noon())
		if err != nil {
			return
		}
		if leaf, err := parseCertificate([]byte(cert)); err != nil || leaf.Subject.CommonName != "x" || leaf.IsCA {
			t.Errorf("signed %v, %v", leaf, err)
		}
	})
}
