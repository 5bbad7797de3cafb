package ceph

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/appliance/service/servicetest"
	"roost/images/durable"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const fsid = "6f7c1c1e-52a0-4a3e-9d29-3a1d5a7d7f10"

func someKeys() map[string]string {
	keys := map[string]string{secretFSID: fsid}
	for _, user := range append(poolUsers(), userMonitor, userAdmin, userReader, userBootstrap, manager("one"), metadata("one"), gateway("one")) {
		keys[user] = keyOf([]byte("seed"), user)
	}
	keys[secretAccess], keys[secretSecret] = "ACCESS", "AQ-secret"
	return keys
}

// TestFiles holds every setting and unit of a controller and of a host with disks only.
func TestFiles(t *testing.T) {
	p := plan{wish: api.Ceph{}.Defaults(), node: "one", monitor: netip.MustParseAddr("10.77.0.2"), address: netip.MustParseAddr("10.77.0.2"),
		inner: netip.MustParseAddr("10.78.0.2"), control: true, memory: 32 << 30}
	plain := osd{Path: "/dev/disk/by-id/a", UUID: "01234567-89ab-cdef-0123-456789abcdef", ID: 3}
	secret := plain
	secret.Encrypted, secret.ID = true, 4
	for name, change := range map[string]func(*plan){
		"controller": func(*plan) {},
		"worker":     func(p *plan) { p.control = false },
		"services":   func(p *plan) { p.wish.Files, p.wish.Objects = true, true },
		"one-copy": func(p *plan) {
			p.wish.Copies, p.wish.Pools, p.memory = 1, []string{"a", "b"}, 8<<30
			p.address = netip.MustParseAddr("fd00::2")
			p.monitor, p.inner = p.address, p.address
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := p
			change(&p)
			files := p.files(someKeys())
			if name == "worker" {
				for _, o := range []osd{plain, secret} {
					files = append(files, o.makeOSD().file(), o.runOSD().file())
				}
			}
			var got strings.Builder
			for _, f := range files {
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

// TestJudge decides about every kind of disk.
func TestJudge(t *testing.T) {
	const mine, other = "01234567-89ab-cdef-0123-456789abcdef", "11111111-2222-3333-4444-555555555555"
	osdOf := func(uuid, cluster string, done bool) *contents {
		l := &label{uuid: uuid, meta: map[string]string{"ceph_fsid": cluster, "whoami": "2"}}
		if done {
			l.meta["mkfs_done"], l.meta["ready"] = "yes", "ready"
		}
		return &contents{osd: l}
	}
	made, begun := &osd{UUID: mine, ID: 2, Made: true}, &osd{UUID: mine, ID: 2}
	blank, files, trouble := &contents{}, &contents{others: "ext4"}, errors.New("there is no such device")
	for name, test := range map[string]struct {
		disk  api.CephDisk
		noted *osd
		found *contents
		want  deed
		says  string
	}{
		"a new blank disk":                   {found: blank, want: create},
		"a new disk with files":              {found: files, want: refuse, says: "/dev/a holds ext4: it is left alone; say wipe: true"},
		"the same, to be wiped":              {disk: api.CephDisk{Wipe: true}, found: files, want: create},
		"no disk":                            {want: refuse, says: "cannot use disk /dev/a: there is no such device"},
		"an OSD that is made":                {noted: made, found: osdOf(mine, fsid, true), want: serve},
		"the same, and wipe":                 {disk: api.CephDisk{Wipe: true}, noted: made, found: osdOf(mine, fsid, true), want: serve},
		"an OSD that was begun":              {noted: begun, found: osdOf(mine, fsid, false), want: create},
		"an OSD that was about to be":        {noted: begun, found: files, want: create},
		"an OSD of another cluster":          {found: osdOf(other, "else", true), want: refuse, says: "OSD 2 of the Ceph cluster else"},
		"one of another, to be wiped":        {disk: api.CephDisk{Wipe: true}, found: osdOf(other, "else", true), want: create},
		"an OSD of this cluster, not noted":  {found: osdOf(other, fsid, true), want: adopt},
		"not noted, and wipe":                {disk: api.CephDisk{Wipe: true}, found: osdOf(other, fsid, true), want: adopt},
		"half an OSD of this cluster":        {found: osdOf(other, fsid, false), want: refuse, says: "wipe: true"},
		"a dead disk":                        {noted: made, want: refuse, says: "of OSD 2 does not answer: there is no such device; to replace it"},
		"another disk in its place":          {noted: made, found: blank, want: refuse, says: "it holds nothing"},
		"another disk in its place, to wipe": {disk: api.CephDisk{Wipe: true}, noted: made, found: files, want: refuse, says: "it holds ext4"},
		"gone and dead":                      {disk: api.CephDisk{Gone: true}, noted: made, want: purge},
		"gone, another in its place":         {disk: api.CephDisk{Gone: true}, noted: made, found: blank, want: purge},
		"said to be gone, but there":         {disk: api.CephDisk{Gone: true}, noted: made, found: osdOf(mine, fsid, true), want: refuse, says: "take it out first"},
		"gone for long":                      {disk: api.CephDisk{Gone: true}, want: nothing},
		"encrypted":                          {noted: &osd{UUID: mine, Encrypted: true, Made: true}, found: &contents{luks: mine, others: "LUKS"}, want: serve},
		"encrypted by somebody":              {found: &contents{luks: other, others: "LUKS"}, want: refuse, says: "holds LUKS"},
	} {
		test.disk.Path = "/dev/a"
		got, err := judge(test.disk, test.noted, test.found, trouble, fsid)
		if got != test.want || (err != nil) != (test.want == refuse) || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %s, %v", name, got, err)
		}
	}
}

// world is a machine with disks, systemd and Ceph, as far as a bring-up sees them.
type world struct {
	t      *testing.T
	root   string
	signer *servicetest.Signer

	mu      sync.Mutex // guards the fields below
	disks   map[string][]byte
	units   map[string]string // to state
	started map[string]time.Time
	osds    []member
	pools   []pool
	files   bool            // a file system
	users   string          // keyrings that were imported
	objects map[string]bool // users of the gateway, by the names of their keys
	figures string          // address
	acts    []string
	left    int // acts before the daemon dies; negative: it lives
}

var errDied = errors.New("the daemon died")

// act counts what changes the world. The one before which the daemon dies does not happen, and none after it.
func (w *world) act(format string, args ...any) error {
	if w.left == 0 {
		return errDied
	}
	w.left--
	w.acts = append(w.acts, fmt.Sprintf(format, args...))
	return nil
}

func (w *world) Addresses() []string    { return []string{"10.77.0.2"} }
func (w *world) Memory() (int64, error) { return 8 << 30, nil }

func (w *world) UnitState(_ context.Context, unit string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if state, ok := w.units[unit]; ok {
		return state, nil
	}
	return "inactive", nil
}

func (w *world) UnitStarted(_ context.Context, unit string) (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.started[unit], nil
}

func (w *world) StopUnit(_ context.Context, unit string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.units[unit] == "" {
		return nil
	}
	if err := w.act("stop %s", unit); err != nil {
		return err
	}
	delete(w.units, unit)
	return nil
}

var (
	makes = regexp.MustCompile(`ceph-osd --mkfs --id (\d+) --osd-uuid (\S+)`)
	link  = regexp.MustCompile(`ln -s (\S+) `)
)

func (w *world) StartUnit(_ context.Context, unit string) error {
	text, err := os.ReadFile(filepath.Join(w.root, unitDir, unit))
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.act("start %s", unit); err != nil {
		return err
	}
	w.units[unit], w.started[unit] = "active", time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) // files have the true time, tests do not
	if found := makes.FindSubmatch(text); found != nil {
		device := string(link.FindSubmatch(text)[1])
		if content := w.disks[device]; !bytes.Equal(content[:4], make([]byte, 4)) && !bytes.HasPrefix(content, []byte("bluestore")) {
			w.t.Errorf("OSD made on %s, which holds %q", device, content[:8])
		}
		copy(w.disks[device], finished(string(found[2]), fsid, string(found[1])))
	}
	for i := range w.osds {
		if unit == fmt.Sprintf("ceph-osd@%d.service", w.osds[i].ID) {
			w.osds[i].Up, w.osds[i].In = 1, 1
		}
	}
	return nil
}

// Run is the ceph program.
func (w *world) Run(_ context.Context, input []byte, program string, args ...string) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.units["ceph-mon@one.service"] != "active" {
		return nil, errors.New("timed out")
	}
	if program == "radosgw-admin" {
		return nil, w.makeUser(input, args)
	}
	if program != "ceph" || args[0] != "--connect-timeout" || strings.Contains(strings.Join(args, " "), "==") {
		return nil, fmt.Errorf("cannot run %s %q", program, args)
	}
	args = args[2:]
	if args[0] == "--name" {
		args = args[4:]
	}
	line := strings.TrimSuffix(strings.Join(args, " "), " --format json")
	switch {
	case line == "status":
		return w.status(), nil
	case line == "osd dump":
		return json.Marshal(map[string]any{"osds": w.osds, "pools": w.pools})
	case strings.HasPrefix(line, "osd new "):
		return w.newOSD(args[2], input)
	case strings.HasPrefix(line, "auth get-key"):
		return []byte("adopted\n"), nil
	}
	if err := w.act("ceph %s", line); err != nil {
		return nil, err
	}
	switch fields := strings.Fields(line); fields[1] + " " + fields[2] {
	case "import --in-file":
		w.users += string(input)
	case "set mgr":
		w.figures = fields[4]
	case "new " + fileSystem:
		i := slices.IndexFunc(w.pools, func(p pool) bool { return p.Name == fields[3] })
		w.pools[i].Applications[fileSystem], w.files = map[string]any{"metadata": fileSystem}, true
	case "pool create":
		w.pools = append(w.pools, pool{Name: fields[3], Size: 3, MinSize: 2, Applications: map[string]map[string]any{}})
	case "pool application":
		i := slices.IndexFunc(w.pools, func(p pool) bool { return p.Name == fields[4] })
		w.pools[i].Applications[fields[5]] = map[string]any{}
	case "purge " + fields[2]:
		w.osds = slices.DeleteFunc(w.osds, func(m member) bool { return fmt.Sprint(m.ID) == fields[2] })
	default:
		return nil, fmt.Errorf("unknown command %s", line)
	}
	return nil, nil
}

func (w *world) newOSD(uuid string, input []byte) ([]byte, error) {
	if !strings.Contains(string(input), `"cephx_secret":"`) {
		return nil, fmt.Errorf("no secret in %q", input)
	}
	id := 0
	for _, m := range w.osds {
		if m.UUID == uuid {
			return fmt.Appendf(nil, "%d\n", m.ID), nil
		}
		id = max(id, m.ID+1)
	}
	if err := w.act("ceph osd new"); err != nil {
		return nil, err
	}
	w.osds = append(w.osds, member{ID: id, UUID: uuid})
	return fmt.Appendf(nil, "%d\n", id), nil
}

func (w *world) status() []byte {
	health := map[string]any{"status": "HEALTH_OK"}
	for _, m := range w.osds {
		if w.units[fmt.Sprintf("ceph-osd@%d.service", m.ID)] != "active" {
			health = map[string]any{"status": "HEALTH_WARN", "checks": map[string]any{"OSD_DOWN": map[string]any{"summary": map[string]any{"message": "1 osds down"}}}}
		}
	}
	services := map[string]string{}
	if w.units["ceph-mgr@one.service"] == "active" {
		services["prometheus"] = "http://" + w.figures + ":9283/"
	}
	files := map[string]any{"by_rank": []any{}}
	if w.files {
		files["id"] = 1
	}
	if w.files && w.serves("ceph-mds@one.service", metadata("one")) {
		files["by_rank"] = []any{map[string]any{"status": "up:active"}}
	}
	b, err := json.Marshal(map[string]any{
		"quorum_names": []string{"one"}, "health": health, "mgrmap": map[string]any{"available": len(services) > 0, "services": services}, "fsmap": files,
		"pgmap": map[string]any{"pgs_by_state": []any{map[string]any{"state_name": "active+clean", "count": 33}}},
	})
	if err != nil {
		w.t.Error(err)
	}
	return b
}

// serves reports whether a service is up that the cluster knows.
func (w *world) serves(unit, user string) bool {
	return w.units[unit] == "active" && strings.Contains(w.users, "["+user+"]\n\tkey = "+someKeys()[user])
}

// makeUser is radosgw-admin.
func (w *world) makeUser(input []byte, args []string) error {
	if line := strings.Join(args, " "); line != "metadata put user:site" {
		return fmt.Errorf("unknown command %s", line)
	}
	if err := w.act("radosgw-admin"); err != nil {
		return err
	}
	var put struct {
		Data struct {
			Keys []struct {
				Access string `json:"access_key"`
				Secret string `json:"secret_key"`
			} `json:"keys"`
		} `json:"data"`
	}
	if err := json.Unmarshal(input, &put); err != nil || put.Data.Keys[0].Secret != "AQ-secret" {
		return fmt.Errorf("cannot read user %s: %w", input, err)
	}
	w.objects[put.Data.Keys[0].Access] = true
	return nil
}

// ServeHTTP is the gateway.
func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	signed := r.Header.Get("Authorization")
	found := regexp.MustCompile("^AWS4-HMAC-SHA256 Credential=([A-Z]+)/20[0-9]{6}/default/s3/aws4_request, SignedHeaders=[a-z0-9;-]+, Signature=[0-9a-f]{64}$").FindStringSubmatch(signed)
	if signed != "" && (found == nil || !w.objects[found[1]]) {
		out.WriteHeader(http.StatusForbidden)
	}
}

// dial reaches the gateway where it runs, with the certificate that it was handed.
func (w *world) dial(_ context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.serves("ceph-radosgw@one.service", gateway("one")) || address != "10.77.0.2:7480" {
		return nil, errors.New("connection refused")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(w.root, keyDir, gatewayCert), filepath.Join(w.root, keyDir, gatewayKey))
	if err != nil {
		return nil, err
	}
	here, there := net.Pipe()
	go func() {
		conn := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{pair}})
		defer conn.Close()
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		answer := httptest.NewRecorder()
		w.ServeHTTP(answer, request)
		answer.Result().Write(conn) // who asked says what became of it
	}()
	return here, nil
}

// memory is an open disk of the world.
type memory struct {
	w    *world
	path string
}

func (m memory) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(m.w.disks[m.path]).ReadAt(b, at)
}

func (m memory) WriteAt(b []byte, at int64) (int, error) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if err := m.w.act("wipe %s at %d", m.path, at); err != nil {
		return 0, err
	}
	return copy(m.w.disks[m.path][at:], b), nil
}

func (m memory) Close() error { return nil }
func (m memory) Sync() error  { return nil }
func (m memory) Size() int64  { return int64(len(m.w.disks[m.path])) }

func (w *world) open(path string, _ bool) (Device, error) {
	if w.disks[path] == nil {
		return nil, errors.New("there is no such device")
	}
	return memory{w, path}, nil
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, root: t.TempDir(), disks: map[string][]byte{}, units: map[string]string{}, started: map[string]time.Time{}, objects: map[string]bool{}, left: -1}
	w.signer = servicetest.NewSigner(t)
	for _, path := range []string{"/dev/a", "/dev/b", "/dev/c", "/dev/d"} {
		w.disks[path] = make([]byte, 10<<20)
	}
	return w
}

// host is the daemon of the world, newly started.
func (w *world) host() *Host {
	keys, err := durable.Open(filepath.Join(w.root, keyDir), 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	return &Host{
		Root: w.root, Machine: w, Keys: keys, OpenDisk: w.open, Node: "one", Control: true, Controllers: []string{"https://10.77.0.2:7443"}, Now: time.Now,
		Dial: w.dial,
		Signatures: func(r io.ReaderAt, _ int64) ([]string, error) {
			b := make([]byte, 4)
			if _, err := r.ReadAt(b, 0); err != nil || string(b) != "XFSB" {
				return nil, err
			}
			return []string{"XFS"}, nil
		},
		Join: func(_ context.Context, join api.Join) (*api.Material, error) {
			if err := w.act("join"); err != nil {
				return nil, err
			}
			m := &api.Material{Secrets: map[string][]byte{diskKey: bytes.Repeat([]byte{7}, 32)}, Authorities: map[string]string{"site": w.signer.RootPEM()}}
			if request := join.Requests[certGateway]; request != "" {
				chain, err := w.signer.Service(request, "one", []net.IP{net.IPv4(10, 77, 0, 2)}, time.Now())
				if err != nil {
					return nil, err
				}
				m.Certificates = map[string]string{certGateway: chain}
			}
			for name, key := range someKeys() {
				m.Secrets[name] = []byte(key)
			}
			return m, nil
		},
	}
}

// ensure has the daemon look once.
func (w *world) ensure(h *Host, c *api.Config) error {
	agent := &service.Agent{Components: []service.Component{h}, Image: []string{name}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	return agent.Ensure(w.t.Context(), h, c)
}

func wish(disks ...api.CephDisk) *api.Config {
	return &api.Config{Components: api.Components{Ceph: &api.Ceph{Disks: disks}}}
}

func three() *api.Config {
	return wish(api.CephDisk{Path: "/dev/a"}, api.CephDisk{Path: "/dev/b"}, api.CephDisk{Path: "/dev/c"})
}

// all asks for everything on three disks.
func all() *api.Config {
	c := three()
	c.Ceph.Files, c.Ceph.Objects = true, true
	return c
}

// whole demands what all asks for.
func (w *world) whole() error {
	if len(w.osds) != 3 || len(w.pools) != 10 || !w.files || !w.objects["ACCESS"] {
		return fmt.Errorf("OSDs %v, pools %v, file system %v, users of the gateway %v", w.osds, w.pools, w.files, w.objects)
	}
	return nil
}

// TestServices brings up the file system and the gateway, after a crash before each thing that is done, and drops them when
// nobody asks for them any more.
func TestServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.host()
		if err := errors.Join(w.ensure(h, all()), w.whole()); err != nil {
			t.Fatal(err)
		}
		done := len(w.acts)
		if err := w.ensure(h, all()); err != nil || len(w.acts) != done {
			t.Errorf("at the second look: %v, %v", err, w.acts[done:])
		}
		pools := slices.IndexFunc(w.acts, func(act string) bool { return strings.HasSuffix(act, "enable default.rgw.buckets.data rgw") })
		for n := pools; n < done; n++ { // TestCrash dies before
			w := newWorld(t)
			w.left = n
			if err := w.ensure(w.host(), all()); err == nil {
				t.Errorf("died before act %d of %d without a word", n, done)
			}
			w.left = -1
			if err := errors.Join(w.ensure(w.host(), all()), w.whole()); err != nil {
				t.Fatalf("died before act %d of %v, then: %v", n, w.acts, err)
			}
		}
		if err := w.ensure(h, three()); err != nil {
			t.Fatal(err)
		}
		if w.units["ceph-mds@one.service"] != "" || w.units["ceph-radosgw@one.service"] != "" || w.units["ceph-mon@one.service"] == "" {
			t.Errorf("left: %v", w.units)
		}
	})
}

// TestBringUp brings Ceph up from nothing, finds nothing to do, and comes back after a restart of the machine.
func TestBringUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.host()
		if err := w.ensure(h, three()); err != nil {
			t.Fatal(err)
		}
		if len(w.osds) != 3 || len(w.pools) != 1 || !strings.Contains(w.users, "profile rbd pool=volumes") {
			t.Errorf("OSDs %v, pools %v, rights %q", w.osds, w.pools, w.users)
		}
		done := len(w.acts)
		if err := w.ensure(h, three()); err != nil || len(w.acts) != done {
			t.Errorf("at the second look: %v, %v", err, w.acts[done:])
		}
		for _, dir := range []string{"run", "etc"} {
			if err := os.RemoveAll(filepath.Join(w.root, dir)); err != nil {
				t.Fatal(err)
			}
		}
		w.units = map[string]string{}
		if err := w.ensure(w.host(), three()); err != nil {
			t.Fatal(err)
		}
		want := []string{"ceph config set mgr mgr/prometheus/server_addr 10.77.0.2 --force", "start ceph-mgr@one.service", "start ceph-mon@one.service", "start ceph-osd@0.service", "start ceph-osd@1.service", "start ceph-osd@2.service"}
		got := slices.Sorted(slices.Values(w.acts[done:]))
		if !slices.Equal(got, want) {
			t.Errorf("after a restart %v", got)
		}
	})
}

// TestCrash kills the daemon before each thing that it does, and has a new one go on.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n := 0; ; n++ {
			w := newWorld(t)
			w.disks["/dev/b"] = append([]byte("XFSB"), make([]byte, 8<<20)...)
			c := three()
			c.Ceph.Disks[1].Wipe = true
			w.left = n
			err := w.ensure(w.host(), c)
			if err == nil {
				if n < 12 {
					t.Errorf("done after %d acts: %v", n, w.acts)
				}
				return
			}
			w.left = -1
			if err := w.ensure(w.host(), c); err != nil {
				t.Fatalf("died before act %d of %v, then: %v", n, w.acts, err)
			}
			if len(w.osds) != 3 || len(w.pools) != 1 {
				t.Errorf("died before act %d: OSDs %v, pools %v", n, w.osds, w.pools)
			}
		}
	})
}

// TestDisks changes the document of a cluster that works.
func TestDisks(t *testing.T) {
	for name, test := range map[string]struct {
		before func(*world)
		disks  []api.CephDisk
		says   string // in the error; empty: all is well
		osds   string // ids
		acts   []string
	}{
		"a disk is added":       {disks: []api.CephDisk{{Path: "/dev/a"}, {Path: "/dev/b"}, {Path: "/dev/c"}, {Path: "/dev/d"}}, osds: "0123"},
		"a disk is left out":    {disks: []api.CephDisk{{Path: "/dev/a"}, {Path: "/dev/b"}}, says: "/dev/c has OSD", osds: "012"},
		"a missing disk":        {disks: []api.CephDisk{{Path: "/dev/a"}, {Path: "/dev/b"}, {Path: "/dev/c"}, {Path: "/dev/x"}}, says: "/dev/x: there is no such device", osds: "012"},
		"gone, but not":         {disks: []api.CephDisk{{Path: "/dev/a"}, {Path: "/dev/b"}, {Path: "/dev/c", Gone: true}}, says: "take it out first", osds: "012"},
		"one dies":              {before: func(w *world) { delete(w.disks, "/dev/c") }, disks: three().Ceph.Disks, says: "/dev/c of OSD", osds: "012"},
		"it is purged":          {before: func(w *world) { delete(w.disks, "/dev/c") }, disks: []api.CephDisk{{Path: "/dev/a"}, {Path: "/dev/b"}, {Path: "/dev/c", Gone: true}}, osds: "two"},
		"it is replaced":        {before: func(w *world) { delete(w.disks, "/dev/c") }, disks: []api.CephDisk{{Path: "/dev/a"}, {Path: "/dev/b"}, {Path: "/dev/c", Gone: true}, {Path: "/dev/d"}}, osds: "three"},
		"a disk with files":     {before: func(w *world) { copy(w.disks["/dev/d"], "XFSB") }, disks: append(three().Ceph.Disks, api.CephDisk{Path: "/dev/d"}), says: "/dev/d holds XFS", osds: "012"},
		"the same, to be wiped": {before: func(w *world) { copy(w.disks["/dev/d"], "XFSB") }, disks: append(three().Ceph.Disks, api.CephDisk{Path: "/dev/d", Wipe: true}), osds: "0123"},
		"of another cluster": {before: func(w *world) {
			copy(w.disks["/dev/d"], finished("11111111-2222-3333-4444-555555555555", "else", "9"))
		}, disks: append(three().Ceph.Disks, api.CephDisk{Path: "/dev/d"}), says: "Ceph cluster else", osds: "012"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				h := w.host()
				if err := w.ensure(h, three()); err != nil {
					t.Fatal(err)
				}
				if test.before != nil {
					test.before(w)
				}
				// The site may have more disks than the document's copies for the sake of these cases.
				err := w.ensure(h, wish(test.disks...))
				if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
					t.Errorf("got %v", err)
				}
				ids := ""
				for _, m := range w.osds {
					ids += fmt.Sprint(m.ID)
				}
				want := map[string]int{"two": 2, "three": 3}[test.osds]
				if ids != test.osds && (want == 0 || len(w.osds) != want) {
					t.Errorf("OSDs %s, want %s; did %v", ids, test.osds, w.acts)
				}
			})
		})
	}
}

// TestLeave stops everything and keeps disks, notes and keys; and comes back to them.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.host()
		if err := w.ensure(h, three()); err != nil {
			t.Fatal(err)
		}
		before := slices.Clone(w.disks["/dev/a"])
		if err := w.ensure(h, &api.Config{}); err != nil {
			t.Fatal(err)
		}
		if len(w.units) > 0 || !bytes.Equal(before, w.disks["/dev/a"]) {
			t.Errorf("still there: %v", w.units)
		}
		if left, err := filepath.Glob(filepath.Join(w.root, confDir, "*")); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
		if err := w.ensure(h, three()); err != nil || len(w.osds) != 3 {
			t.Errorf("back: %v, OSDs %v", err, w.osds)
		}
	})
}

// TestSecrets are in no unit, setting that all may read, or argument.
func TestSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := w.ensure(w.host(), all()); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(w.root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			info, statErr := d.Info()
			if err == nil && bytes.Contains(text, []byte("key = ")) && info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %s", path, info.Mode())
			}
			return errors.Join(err, statErr)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, act := range w.acts {
			if strings.Contains(act, "AQ") {
				t.Errorf("said %q", act)
			}
		}
	})
}
