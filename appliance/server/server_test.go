package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/host"
	"roost/appliance/software"
	"roost/appliance/store"
	"roost/appliance/trust"
	"roost/images"
)

type emptyShelf struct{}

func (emptyShelf) Release(_ context.Context, d images.Digest) (*api.Release, *images.Needs, error) {
	return nil, nil, api.NotFound.Errorf("cannot find release %s", d)
}

func (emptyShelf) Releases(context.Context) ([]api.Release, error) { return []api.Release{}, nil }

// office is a server with one person of each role, a host, a host whose key was replaced, and a stranger.
type office struct {
	t       *testing.T
	server  *Server
	handler http.Handler
	store   *store.Store
	callers map[string]*tls.ConnectionState
}

func newOffice(t *testing.T) *office {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	key, _ := trust.NewKey()
	root, err := trust.NewRoot("lab", key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, store: s, callers: map[string]*tls.ConnectionState{"nobody": {}}}
	site := &api.Site{Schema: 1, Name: "lab", Operators: map[images.Digest]string{}}
	for _, name := range []string{"reader", "operator", "admin", "dismissed"} {
		key, _ := trust.NewKey()
		cert, err := root.Operator(key.Public(), name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		o.callers[name] = connection(t, cert)
		if name != "dismissed" {
			site.Operators[trust.Fingerprint(key.Public())] = name + " " + name
		}
	}
	hosts := map[string]*api.Host{}
	for _, id := range []string{"host", "replaced", "removed"} {
		key, _ := trust.NewKey()
		cert, err := root.Node(key.Public(), id, "worker", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		o.callers[id] = connection(t, cert)
		hosts[id] = &api.Host{Schema: 1, ID: id, Name: id, Phase: api.InService, Fingerprint: trust.Fingerprint(key.Public())}
	}
	hosts["replaced"].Fingerprint = "sha256:other"
	delete(hosts, "removed")
	stranger, _ := trust.Enrol(time.Now())
	self, _ := stranger.Certificate()
	o.callers["stranger"] = connection(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: self.Certificate[0]})))
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Sites().Put(tx, site)
		for _, h := range hosts {
			store.Hosts().Put(tx, h)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	registry := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) })
	o.server = New(Config{
		Store: s, Authority: root, Shelf: emptyShelf{}, Registry: registry,
		Trust: trust.New(trust.Config{Store: s, Authority: root, Shelf: emptyShelf{}}), Host: host.New(host.Config{Store: s}),
		Software: software.New(software.Config{Store: s, Shelf: emptyShelf{}}),
	})
	o.handler = o.server.Handler()
	return o
}

func connection(t *testing.T, chain string) *tls.ConnectionState {
	t.Helper()
	block, _ := pem.Decode([]byte(chain))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
}

func (o *office) call(caller, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = "10.0.0.1:1234"
	r.TLS = o.callers[caller]
	if strings.HasPrefix(path, "/v1/watch") { // it would not end
		ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
		defer cancel()
		r = r.WithContext(ctx)
	}
	w := httptest.NewRecorder()
	o.handler.ServeHTTP(w, r)
	return w
}

// TestAccess asks every route as everyone and expects refusal exactly where the table says so.
func TestAccess(t *testing.T) {
	o := newOffice(t)
	may := map[access][]string{
		anyone:    {"nobody", "stranger", "host", "replaced", "removed", "reader", "operator", "admin", "dismissed"},
		enrolling: {"stranger", "host", "replaced", "removed", "reader", "operator", "admin", "dismissed"},
		node:      {"host"},
		reader:    {"reader", "operator", "admin"},
		operator:  {"operator", "admin"},
		admin:     {"admin"},
	}
	for _, r := range o.server.routes {
		path := inPath.ReplaceAllString(r.path, "nothing")
		for caller := range o.callers {
			w := o.call(caller, r.method, path, "{}")
			refused := w.Code == http.StatusForbidden || w.Code == http.StatusGone && caller == "removed" && r.access == node
			allowed := strings.Contains(" "+strings.Join(may[r.access], " ")+" ", " "+caller+" ")
			if refused == allowed {
				t.Errorf("%s %s as %s: %d %s", r.method, path, caller, w.Code, w.Body)
			}
		}
	}
	for _, test := range []struct {
		method string
		may    string
	}{{http.MethodGet, "host reader operator admin"}, {http.MethodPut, "operator admin"}, {http.MethodPost, "operator admin"}, {http.MethodDelete, "operator admin"}} {
		for caller := range o.callers {
			w := o.call(caller, test.method, "/v2/edge/blobs/uploads/", "")
			if allowed := strings.Contains(" "+test.may+" ", " "+caller+" "); (w.Code == http.StatusOK) != allowed {
				t.Errorf("registry %s as %s: %d", test.method, caller, w.Code)
			}
		}
	}
}

func TestProblems(t *testing.T) {
	o := newOffice(t)
	for _, test := range []struct {
		method, path, body string
		status             int
		kind               api.Kind
	}{
		{"GET", "/v1/hosts/none", "", 404, api.NotFound},
		{"GET", "/v1/nothing", "", 404, api.NotFound},
		{"POST", "/v1/hosts/host/approve", `{"personality":"worker","nmae":"x"}`, 400, api.Invalid},
		{"POST", "/v1/hosts/host/approve", `{"personality":"king"}`, 400, api.Invalid},
		{"POST", "/v1/hosts/host/approve", `{"personality":"worker"}{}`, 400, api.Invalid},
		{"POST", "/v1/hosts/host/approve", `{`, 400, api.Invalid},
		{"POST", "/v1/hosts/host/approve", strings.Repeat(" ", bodyLimit+1) + "{}", 400, api.Invalid},
		{"POST", "/v1/hosts/host/rollback", "{}", 409, api.Conflict},
		{"GET", "/v1/hosts?limit=0", "", 400, api.Invalid},
		{"GET", "/v1/hosts?limit=5000", "", 400, api.Invalid},
		{"GET", "/v1/watch?kinds=grant", "", 400, api.Invalid},
		{"GET", "/v1/watch?after=x", "", 400, api.Invalid},
		{"GET", "/v1/updates/latest", "", 404, api.NotFound},
		{"POST", "/v1/updates", `{"release":{"version":"9"}}`, 404, api.NotFound},
	} {
		w := o.call("operator", test.method, test.path, test.body)
		var p api.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Errorf("%s %s: %v in %s", test.method, test.path, err, w.Body)
			continue
		}
		if w.Code != test.status || p.Status != test.status || p.Kind != test.kind || p.Type != "urn:roost:problem:"+string(test.kind) ||
			w.Header().Get("Content-Type") != "application/problem+json" || !strings.HasPrefix(p.Detail, "cannot ") {
			t.Errorf("%s %s: %d %+v", test.method, test.path, w.Code, p)
		}
	}
	// Refused mutations of operators are in the audit record; those of strangers are not.
	o.call("stranger", "POST", "/v1/hosts/host/approve", "{}")
	w := o.call("reader", "GET", "/v1/audit", "")
	if !strings.Contains(w.Body.String(), `"action":"roll back host"`) || strings.Contains(w.Body.String(), "enrolling/") {
		t.Errorf("audit record: %s", w.Body)
	}
}

func TestOperatorsStayPrivate(t *testing.T) {
	o := newOffice(t)
	if w := o.call("nobody", "GET", "/v1/site", ""); w.Code != 200 || strings.Contains(w.Body.String(), "operators") {
		t.Errorf("a stranger sees %s", w.Body)
	}
	if w := o.call("reader", "GET", "/v1/site", ""); !strings.Contains(w.Body.String(), "operators") {
		t.Errorf("an operator sees %s", w.Body)
	}
}

// TestOpenAPI checks the generated document as far as its consumers depend on it: every route, no dangling reference.
func TestOpenAPI(t *testing.T) {
	o := newOffice(t)
	w := o.call("nobody", "GET", "/v1/openapi.json", "")
	var document struct {
		OpenAPI string                                `json:"openapi"`
		Paths   map[string]map[string]json.RawMessage `json:"paths"`
		Parts   struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || document.OpenAPI != "3.1.0" {
		t.Fatalf("%v in %s", err, w.Body)
	}
	ids := map[string]bool{}
	for _, r := range o.server.routes {
		raw := document.Paths[r.path][strings.ToLower(r.method)]
		var operation struct {
			ID     string `json:"operationId"`
			Access string `json:"x-access"`
		}
		if err := json.Unmarshal(raw, &operation); err != nil || operation.Access != string(r.access) || ids[operation.ID] {
			t.Errorf("%s %s is described as %s", r.method, r.path, raw)
		}
		ids[operation.ID] = true
	}
	for _, match := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllSubmatch(w.Body.Bytes(), -1) {
		if document.Parts.Schemas[string(match[1])] == nil {
			t.Errorf("schema %s is referred to and not there", match[1])
		}
	}
	if !bytes.Contains(w.Body.Bytes(), []byte(`"HostList"`)) || document.Parts.Schemas["Host"] == nil {
		t.Error("no schema of hosts")
	}
}

// TestWatchResumes reads events over HTTP, breaks off, and goes on after the last one seen.
func TestWatchResumes(t *testing.T) {
	o := newOffice(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = o.callers["reader"]
		o.handler.ServeHTTP(w, r)
	}))
	server.Start()
	defer server.Close()
	var first int64
	rename := func(name string) {
		revision, err := o.store.Update(t.Context(), func(tx *store.Tx) error {
			store.Hosts().Put(tx, &api.Host{ID: "h", Name: name})
			store.PerHost[api.Grant]("grant").PutAs(tx, "h", &api.Grant{Chain: "secret"})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = revision
		}
	}
	rename("one")
	rename("two")
	rename("three")
	read := func(after int64, want int) (got []api.Event) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/v1/watch?kinds=host", nil)
		r.Header.Set("Last-Event-ID", fmt.Sprint(after))
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		buffer := make([]byte, 64<<10)
		text := ""
		for strings.Count(text, "data: ") < want {
			n, err := response.Body.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			text += string(buffer[:n])
		}
		if strings.Contains(text, "secret") {
			t.Error("the watch shows a grant")
		}
		for _, line := range strings.Split(text, "\n") {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				var e api.Event
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					t.Fatal(err)
				}
				got = append(got, e)
			}
		}
		return got
	}
	events := read(first-1, 2)
	if !strings.Contains(string(events[0].Object), `"one"`) || !strings.Contains(string(events[1].Object), `"two"`) {
		t.Fatalf("events %+v", events)
	}
	if rest := read(events[1].Revision, 1); !strings.Contains(string(rest[0].Object), `"three"`) {
		t.Errorf("resumed with %+v", rest)
	}
}

// FuzzBody gives any bytes to every route that takes a body: they are refused, or are a value that survives its own JSON.
func FuzzBody(f *testing.F) {
	routes := (&Server{}).table()
	for _, seed := range []string{`{}`, `{"personality":"worker","name":"w1"}`, `{"release":{"digest":"sha256:00"},"only":["a"],"parallelism":3}`,
		`{"schema":1,"inventory":{"nics":[{"mac":"52:54:00:00:00:01"}]}}`, `{"schema":1,"software":{"failures":[{"log":["x"]}]}}`, `{} {}`, `[`, `null`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, r := range routes {
			if r.in == nil {
				continue
			}
			value := reflect.New(r.in).Interface()
			if decode(body, value) != nil {
				continue
			}
			again, err := json.Marshal(value)
			if err != nil {
				t.Fatalf("%s %s: %v", r.method, r.path, err)
			}
			if err := decode(again, reflect.New(r.in).Interface()); err != nil {
				t.Errorf("%s %s does not take its own %s: %v", r.method, r.path, again, err)
			}
		}
	})
}
