package trust_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/trust"
	"roost/images"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func site(t *testing.T) (*trust.Authority, *trust.Authority) {
	t.Helper()
	rootKey, _ := trust.NewKey()
	root, err := trust.NewRoot("lab", rootKey, epoch)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := trust.NewKey()
	chain, err := root.Intermediate(key.Public(), "c0", epoch)
	if err != nil {
		t.Fatal(err)
	}
	controller, err := trust.OpenAuthority([]byte(chain+root.RootPEM()), key)
	if err != nil {
		t.Fatal(err)
	}
	return root, controller
}

func state(t *testing.T, chain string) *tls.ConnectionState {
	t.Helper()
	out := &tls.ConnectionState{}
	for rest := []byte(chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out.PeerCertificates = append(out.PeerCertificates, cert)
	}
}

func TestIdentify(t *testing.T) {
	root, controller := site(t)
	otherRoot, otherController := site(t)
	key, _ := trust.NewKey()
	must := func(chain string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	enrol, err := trust.Enrol(epoch)
	if err != nil {
		t.Fatal(err)
	}
	self, _ := enrol.Certificate()
	selfPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: self.Certificate[0]}))
	server, err := controller.Server(nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	serverPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate[0]}))
	for _, test := range []struct {
		name, chain string
		at          time.Duration
		kind, id    string
	}{
		{"node of the controller", must(controller.Node(key.Public(), "h1", "worker", epoch)), 0, "node", "h1"},
		{"node of the root", must(root.Node(key.Public(), "h1", "controller", epoch)), 0, "node", "h1"},
		{"operator", must(root.Operator(key.Public(), "ann", epoch)), 0, "operator", "ann"},
		{"enrolling", selfPEM, 0, "enrolling", ""},
		{"expired node", must(controller.Node(key.Public(), "h1", "worker", epoch)), 91 * 24 * time.Hour, "", ""},
		{"node of a namesake site", must(otherController.Node(key.Public(), "h1", "worker", epoch)), 0, "", ""},
		{"operator of a namesake site", must(otherRoot.Operator(key.Public(), "ann", epoch)), 0, "", ""},
		{"server certificate as client", serverPEM, 0, "enrolling", ""},
		{"nothing", "", 0, "", ""},
	} {
		caller := trust.Identify(state(t, test.chain), root.Root(), epoch.Add(test.at))
		if caller.Kind != test.kind || caller.ID != test.id {
			t.Errorf("%s: got %q %q, want %q %q", test.name, caller.Kind, caller.ID, test.kind, test.id)
		}
	}
	if _, err := controller.Operator(key.Public(), "eve", epoch); err == nil {
		t.Error("a controller made an operator")
	}
	if _, err := controller.Intermediate(key.Public(), "c1", epoch); err == nil {
		t.Error("a controller made an authority")
	}
}

// TestGrantBinds changes each bound part of a grant and expects refusal.
func TestGrantBinds(t *testing.T) {
	root, controller := site(t)
	pin, err := trust.RootFingerprint(root.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	key, _ := trust.Enrol(epoch)
	expect := trust.Expect{Root: pin, Key: key.Fingerprint(), Nonce: key.Nonce}
	assignment := func() *api.Assignment {
		chain, err := controller.Node(key.Node.Public(), "h1", "worker", epoch)
		if err != nil {
			t.Fatal(err)
		}
		return &api.Assignment{Schema: 1, Site: "lab", Root: root.RootPEM(), Host: "h1", Name: "w1", Personality: "worker",
			Fingerprint: key.Fingerprint(), Nonce: key.Nonce, Disk: "/dev/vda", Certificate: chain, Time: epoch}
	}
	for _, signer := range []*trust.Authority{root, controller} {
		grant, err := signer.Grant(assignment())
		if err != nil {
			t.Fatal(err)
		}
		got, err := trust.Open(grant, expect)
		if err != nil || got.Disk != "/dev/vda" {
			t.Fatalf("honest grant: %v", err)
		}
		for i := 0; i < len(grant.Document); i += 7 {
			bad := *grant
			bad.Document = append([]byte(nil), grant.Document...)
			bad.Document[i] ^= 0x01
			if _, err := trust.Open(&bad, expect); err == nil {
				t.Fatalf("grant with byte %d changed is accepted", i)
			}
		}
	}
	otherRoot, otherController := site(t)
	other, _ := trust.Enrol(epoch)
	otherChain, _ := controller.Node(other.Node.Public(), "h1", "worker", epoch)
	h2Chain, _ := controller.Node(key.Node.Public(), "h2", "worker", epoch)
	for name, change := range map[string]func(*api.Assignment){
		"another key":                 func(a *api.Assignment) { a.Fingerprint = other.Fingerprint() },
		"another nonce":               func(a *api.Assignment) { a.Nonce = other.Nonce },
		"another root":                func(a *api.Assignment) { a.Root = otherRoot.RootPEM() },
		"certificate of another key":  func(a *api.Assignment) { a.Certificate = otherChain },
		"certificate of another host": func(a *api.Assignment) { a.Certificate = h2Chain },
		"no certificate":              func(a *api.Assignment) { a.Certificate = "" },
		"a later schema":              func(a *api.Assignment) { a.Schema = 2 },
	} {
		a := assignment()
		change(a)
		grant, err := controller.Grant(a)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.Open(grant, expect); err == nil {
			t.Errorf("a grant with %s is accepted", name)
		}
	}
	grant, _ := otherController.Grant(assignment())
	if _, err := trust.Open(grant, expect); err == nil {
		t.Error("a grant signed by a namesake site's controller is accepted")
	}
	// A worker of the site must not be able to sign for others.
	leaf := assignment().Certificate
	honest, _ := controller.Grant(assignment())
	honest.Chain = leaf
	if _, err := trust.Open(honest, expect); err == nil {
		t.Error("a grant under a node's certificate is accepted")
	}
}

// memory is a directory that stops working after some writes.
type memory struct {
	files map[string][]byte
	left  int
}

func (m *memory) Read(name string) ([]byte, error) {
	b, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m *memory) Write(name string, b []byte) error {
	if m.left == 0 {
		return errors.New("power is gone")
	}
	m.left--
	m.files[name] = append([]byte(nil), b...)
	return nil
}

// TestIdentitySurvivesCrash stops the saving of an identity after every number of writes: the machine then has no
// identity or the whole of it, and saving again completes it.
func TestIdentitySurvivesCrash(t *testing.T) {
	root, _ := site(t)
	key, _ := trust.Enrol(epoch)
	chain, _ := root.Node(key.Node.Public(), "6c6f0000-0000-4000-8000-00000000abcd", "controller", epoch)
	authority, _ := root.Intermediate(key.Authority.Public(), "c0", epoch)
	a := &api.Assignment{Schema: 1, Site: "lab", Root: root.RootPEM(), Host: "6c6f0000-0000-4000-8000-00000000abcd", Name: "c0",
		Fingerprint: key.Fingerprint(), Certificate: chain, Authority: authority}
	for crash := 0; ; crash++ {
		dir := &memory{files: map[string][]byte{}, left: crash}
		err := key.Save(dir, a)
		id, loadErr := trust.LoadIdentity(dir)
		if loadErr != nil {
			t.Fatalf("after %d writes: %v", crash, loadErr)
		}
		if (id != nil) != (err == nil) {
			t.Fatalf("after %d writes: identity %v, save said %v", crash, id != nil, err)
		}
		dir.left = -1
		if err := key.Save(dir, a); err != nil {
			t.Fatal(err)
		}
		if id, err = trust.LoadIdentity(dir); err != nil || id == nil {
			t.Fatalf("saved again after %d writes: %v", crash, err)
		}
		if own, err := id.OpenAuthority(); err != nil || own.Site() != "lab" {
			t.Fatalf("authority: %v", err)
		}
		if m := string(dir.files["machine-id"]); len(m) != 33 || strings.Contains(m, "-") {
			t.Fatalf("machine-id %q", m)
		}
		if crash > 0 && err == nil && dir.files["host-id"] != nil && crash > 8 {
			break
		}
	}
}

func TestSiteFile(t *testing.T) {
	file := &trust.SiteFile{Name: "lab", Controller: "https://10.77.0.2:7443", First: trust.Selector{MAC: "52:54:00:AA:00:01"}}
	file.Config.NTP = []string{"10.77.0.1"}
	file.Config.Processors.Platform = "0"
	file.Config.HugePages = []api.HugePages{{Size: "2Mi", Count: 64}}
	secrets, err := trust.NewSite(file, "ann", epoch)
	if err != nil {
		t.Fatal(err)
	}
	text, err := file.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "PRIVATE") || !strings.Contains(string(text), "\nname: lab\n") && !strings.HasPrefix(string(text), "name: lab\n") {
		t.Errorf("site file:\n%s", text)
	}
	back, err := trust.ParseSite(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	x, _ := json.Marshal(file)
	y, _ := json.Marshal(back)
	if string(x) != string(y) {
		t.Errorf("site file reads back as %s, was %s", y, x)
	}
	key, err := trust.ParseKey(secrets.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := trust.OpenAuthority([]byte(file.Root), key); err != nil || !root.IsRoot() {
		t.Errorf("root: %v", err)
	}
	for _, bad := range []string{
		strings.Replace(string(text), "controller:", "controler:", 1),
		strings.Replace(string(text), "    mac:", "    mack:", 1),
		strings.Replace(string(text), "role: admin", "role: king", 1),
		strings.Replace(string(text), "https://", "http://", 1),
		strings.Replace(string(text), `platform: "0"`, "platform: 1", 1),
		strings.Replace(string(text), "size: 2Mi", "size: 2Ki", 1),
		"name: [", "",
	} {
		if _, err := trust.ParseSite([]byte(bad)); err == nil {
			t.Errorf("accepted:\n%s", bad)
		}
	}
	if back, err = trust.ParseSite([]byte(strings.Replace(string(text), `platform: "0"`, "platform: 0", 1))); err != nil || back.Config.Processors.Platform != "0" {
		t.Errorf("a bare number: %v", err)
	}
	for _, test := range []struct {
		selector trust.Selector
		want     bool
	}{
		{trust.Selector{}, false},
		{trust.Selector{Any: true}, true},
		{trust.Selector{MAC: "52:54:00:AA:00:01"}, true},
		{trust.Selector{MAC: "52:54:00:aa:00:02", Any: true}, false},
		{trust.Selector{MAC: "52:54:00:aa:00:01", Serial: "other"}, false},
		{trust.Selector{Fingerprint: images.DigestOf([]byte("k"))}, true},
	} {
		h := &api.Host{MACs: []string{"52:54:00:aa:00:01"}, Serial: "s", Fingerprint: images.DigestOf([]byte("k"))}
		if test.selector.Matches(h) != test.want {
			t.Errorf("%+v: want %v", test.selector, test.want)
		}
	}
}

func FuzzParseSite(f *testing.F) {
	file := &trust.SiteFile{Name: "lab", Controller: "https://10.77.0.2:7443", First: trust.Selector{Any: true}}
	if _, err := trust.NewSite(file, "ann", epoch); err != nil {
		f.Fatal(err)
	}
	text, _ := file.Encode()
	f.Add(text)
	f.Add([]byte("name: x\nfirst: {any: true}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if site, err := trust.ParseSite(text); err == nil {
			if _, err := site.Encode(); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"schema":1}`), []byte{1}, "")
	f.Fuzz(func(t *testing.T, document, signature []byte, chain string) {
		if _, err := trust.Open(&api.Grant{Document: document, Signature: signature, Chain: chain}, trust.Expect{Root: "x"}); err == nil {
			t.Errorf("accepted %q", document)
		}
	})
}
