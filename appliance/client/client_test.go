package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/images"
)

// authority is a certificate authority of a site.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	a.cert = a.sign(template, template, &a.key.PublicKey)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// serve serves with a certificate of this authority for the given name, showing the root where asked.
func (a *authority) serve(name string, root bool, handler http.Handler) *httptest.Server {
	a.t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leaf := a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}, a.cert, &key.PublicKey)
	certificate := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	if root {
		certificate.Certificate = append(certificate.Certificate, a.cert.Raw)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	server.Config.ErrorLog = nil
	server.StartTLS()
	a.t.Cleanup(server.Close)
	return server
}

func site(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"schema":1,"name":"lab"}`) }

func TestWhoIsBelieved(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	pin := images.DigestOf(own.cert.Raw)
	good := own.serve(ServerName, true, http.HandlerFunc(site)).URL
	bare := own.serve(ServerName, false, http.HandlerFunc(site)).URL
	foreign := other.serve(ServerName, true, http.HandlerFunc(site)).URL
	misnamed := own.serve("worker.roost.internal", true, http.HandlerFunc(site)).URL
	for _, test := range []struct {
		name   string
		config Config
		ok     bool
	}{
		{"root", Config{URL: good, Root: own.pem()}, true},
		{"root, chain without it", Config{URL: bare, Root: own.pem()}, true},
		{"pin", Config{URL: good, Pin: pin}, true},
		{"pin, root not shown", Config{URL: bare, Pin: pin}, false},
		{"another site's root", Config{URL: foreign, Root: own.pem()}, false},
		{"another site's pin", Config{URL: foreign, Pin: pin}, false},
		{"a host of the site posing as its controller, root", Config{URL: misnamed, Root: own.pem()}, false},
		{"a host of the site posing as its controller, pin", Config{URL: misnamed, Pin: pin}, false},
	} {
		c, err := New(test.config)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		_, err = c.Site(t.Context())
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	for _, bad := range []Config{{URL: good}, {URL: "http://10.0.0.1", Pin: pin}, {URL: "10.0.0.1:7443", Pin: pin}, {URL: good, Root: []byte("x")}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestProblemsComeBack(t *testing.T) {
	a := newAuthority(t)
	answers := map[string]string{
		"/v1/hosts/gone":  `{"type":"urn:roost:problem:gone","status":410,"detail":"cannot find it","kind":"gone"}`,
		"/v1/hosts/other": `<html>proxy error</html>`,
	}
	server := a.serve(ServerName, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusGone)
		fmt.Fprint(w, answers[r.URL.Path])
	}))
	c, err := New(Config{URL: server.URL, Root: a.pem()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Host(t.Context(), "gone"); !api.Gone.In(err) || err.Error() != "cannot find it" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Host(t.Context(), "other"); err == nil || !strings.Contains(err.Error(), "410") {
		t.Errorf("got %v", err)
	}
	server.Close()
	if _, err := c.Host(t.Context(), "gone"); err == nil || !strings.HasPrefix(err.Error(), "cannot reach controller") {
		t.Errorf("got %v", err)
	}
}

// TestWatchReconnects breaks the stream after each event and expects the client to ask on after the last.
func TestWatchReconnects(t *testing.T) {
	a := newAuthority(t)
	var asked []string
	server := a.serve(ServerName, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		after := r.Header.Get("Last-Event-ID")
		asked = append(asked, after)
		next := map[string]int{"5": 6, "6": 8, "8": 9}[after]
		fmt.Fprintf(w, ": watching\n\nid: %d\nevent: host\ndata: {\"revision\":%d,\"kind\":\"host\",\"id\":\"h\"}\n\n", next, next)
	}))
	c, err := New(Config{URL: server.URL, Root: a.pem()})
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	var seen []int64
	err = c.Watch(t.Context(), 5, []string{"host"}, func(e api.Event) error {
		seen = append(seen, e.Revision)
		if len(seen) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || fmt.Sprint(seen) != "[6 8 9]" || fmt.Sprint(asked) != "[5 6 8]" {
		t.Errorf("saw %v, asked after %v, ended with %v", seen, asked, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Watch(ctx, 5, nil, func(api.Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestContext(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("ROOST_SITE", "")
	if _, err := ContextPath(""); err == nil || !strings.Contains(err.Error(), "site init") {
		t.Errorf("no site: %v", err)
	}
	path, err := ContextPath("lab")
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Context{Site: "lab", URL: "https://10.0.0.1:7443", Key: "secret"}).Save(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("context file has mode %v, %v", info.Mode(), err)
	}
	if only, err := ContextPath(""); err != nil || only != path {
		t.Errorf("the only site: %q %v", only, err)
	}
	other := filepath.Join(filepath.Dir(path), "other.json")
	if err := (&Context{Site: "other"}).Save(other); err != nil {
		t.Fatal(err)
	}
	if _, err := ContextPath(""); err == nil {
		t.Error("one of two sites was chosen")
	}
	t.Setenv("ROOST_SITE", "other")
	if got, err := ContextPath(""); err != nil || got != other {
		t.Errorf("ROOST_SITE: %q %v", got, err)
	}
	if got, _ := ContextPath("./x.json"); got != "./x.json" {
		t.Errorf("a path: %q", got)
	}
	if _, err := Open("none"); err == nil || !strings.Contains(err.Error(), "no context file") {
		t.Errorf("a missing site: %v", err)
	}
	if _, err := Open("lab"); err == nil || !strings.Contains(err.Error(), "operator certificate") {
		t.Errorf("a broken certificate: %v", err)
	}
}
