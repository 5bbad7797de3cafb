package pxe_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/iana"

	"roost/images"
	"roost/images/uki"
	"roost/pxe"
	"roost/pxe/pxetest"
	"roost/pxe/tftp/tftptest"
)

// shelf is a directory with releases.
type shelf map[images.Digest]*pxe.Offer

func (s shelf) Offer(_ context.Context, release images.Digest) (*pxe.Offer, error) {
	offer := s[release]
	if offer == nil {
		return nil, os.ErrNotExist
	}
	return offer, nil
}

func random(seed uint64, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// stock puts a release with a UKI of about size bytes on the shelf and returns its contents.
func (s shelf) stock(t testing.TB, version images.Version, size int) (*pxe.Offer, map[string][]byte) {
	t.Helper()
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(len(s)) + 1
	rootHash := images.DigestOf([]byte(version)).Hex()
	kernel, initrd := random(seed, size/2), random(seed+100, size/2)
	image, err := uki.Assemble(uki.Parts{Stub: stub, OSRelease: "ID=roost\n", CommandLine: "roothash=" + rootHash + " panic=10",
		Uname: "6.12", SBAT: "roost,1,Roost,edge,1,https://example.org\n", Kernel: kernel, Initrd: initrd})
	if err != nil {
		t.Fatal(err)
	}
	content := map[string][]byte{"uki": image, "root": random(seed+200, size), "verity": random(seed+300, size/10), "kernel": kernel, "initrd": initrd}
	dir := t.TempDir()
	file := func(name string) pxe.File {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content[name], 0o644); err != nil {
			t.Fatal(err)
		}
		return pxe.File{Digest: images.DigestOf(content[name]), Size: int64(len(content[name])), Open: func() (io.ReadSeekCloser, error) { return os.Open(path) }}
	}
	offer := &pxe.Offer{Release: images.DigestOf(image), Name: "edge", Version: version, Architecture: "amd64", RootHash: rootHash,
		Created: time.Unix(1_800_000_000, 0), UKI: file("uki"), Root: file("root"), Verity: file("verity")}
	s[offer.Release] = offer
	return offer, content
}

// running is a server on loopback.
type running struct {
	ports  pxe.Ports
	server *pxe.Server
	relay  *pxetest.Relay
	log    *lockedBuffer
	stop   func()

	mu     sync.Mutex
	events []pxe.Event
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var loopback = netip.MustParseAddr("127.0.0.1")

// freePorts picks ports that nobody has, below those that the kernel gives to sockets that do not ask for one: such a
// socket could take a port between here and the server.
func freePorts(t testing.TB) pxe.Ports {
	t.Helper()
	taken := map[uint16]bool{}
	pick := func(free func(address string) (io.Closer, error)) uint16 {
		for range 1000 {
			port := uint16(20000 + rand.N(10000))
			c, err := free(fmt.Sprintf("0.0.0.0:%d", port))
			if err != nil || taken[port] {
				continue
			}
			taken[port] = true
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			return port
		}
		t.Fatal("no free port")
		return 0
	}
	udp := func(address string) (io.Closer, error) { return net.ListenPacket("udp4", address) }
	tcp := func(address string) (io.Closer, error) { return net.Listen("tcp4", address) }
	return pxe.Ports{DHCP: pick(udp), DHCPClient: pick(udp), BINL: pick(udp), TFTP: pick(udp), HTTP: pick(tcp)}
}

// start serves config on loopback until the test ends or stop is called.
func start(t testing.TB, config pxe.Config) *running {
	t.Helper()
	r := &running{ports: freePorts(t), log: &lockedBuffer{}}
	config.Ports = r.ports
	config.Log = slog.New(slog.NewTextHandler(r.log, nil))
	config.OnEvent = func(e pxe.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	}
	if config.Interfaces == nil {
		config.Interfaces = []pxe.Interface{{Name: "lo", Mode: pxe.Own, Address: loopback,
			Network: pxe.Network{First: netip.MustParseAddr("127.1.0.1"), Last: netip.MustParseAddr("127.1.31.254")}}}
	}
	var err error
	if r.server, err = pxe.New(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := r.server.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); run.Wait() })
	t.Cleanup(r.stop)
	if r.relay, err = pxetest.NewRelay(loopback, netip.AddrPortFrom(loopback, r.ports.DHCP)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.relay.Close() })
	for range 200 { // until the HTTP port is open, which is the last but the DHCP ones
		conn, err := net.Dial("tcp4", netip.AddrPortFrom(loopback, r.ports.HTTP).String())
		if err == nil {
			_ = conn.Close()
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return r
}

func (r *running) machine(n int, arch iana.Arch) *pxetest.Machine {
	return &pxetest.Machine{MAC: net.HardwareAddr{0x52, 0x54, 0, 0, byte(n >> 8), byte(n)}, Arch: arch, Relay: r.relay, TFTPPort: r.ports.TFTP,
		Wait: 200 * time.Millisecond, Tries: 6}
}

// line returns the kinds of a machine's events, by protocol: each reports for itself. Those of HTTP are sorted, for a
// machine asks for the next file before the server has reported the last.
func (r *running) line(mac net.HardwareAddr) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var dhcp, tftp, http []string
	for _, e := range r.events {
		if !bytes.Equal(e.Client.MAC, mac) {
			continue
		}
		line := &dhcp
		if protocol, _, _ := strings.Cut(string(e.Kind), "-"); protocol == "tftp" {
			line = &tftp
		} else if protocol == "http" {
			line = &http
		}
		*line = append(*line, string(e.Kind))
	}
	slices.Sort(http)
	return strings.Join([]string{strings.Join(dhcp, " "), strings.Join(slices.Compact(tftp), " "), strings.Join(http, " ")}, " | ")
}

func TestBootThroughAllStages(t *testing.T) {
	releases := shelf{}
	offer, content := releases.stock(t, "1", 300_000)
	r := start(t, pxe.Config{Shelf: releases, Assigner: pxe.Everyone(offer.Release), Leases: t.TempDir(), Site: pxe.Site{Name: "north", Controller: "https://10.77.0.1:7443", CAFingerprint: "sha256:00"}})
	ctx := context.Background()
	for n, arch := range []iana.Arch{iana.EFI_X86_64, iana.EFI_X86_64_HTTP} {
		m := r.machine(n, arch)
		m.Wait = 10 * time.Second // asks once: what it asks again is an event too
		b, err := m.Load(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.UKI, content["uki"]) {
			t.Errorf("%s: %d bytes of UKI are not those of the release", arch, len(b.UKI))
		}
		if err := m.Init(ctx, b); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("http://127.0.0.1:%d", r.ports.HTTP); b.Base != want {
			t.Errorf("base URL %s, want %s", b.Base, want)
		}
		if b.Site["controller"] != "https://10.77.0.1:7443" || b.Site["name"] != "north" {
			t.Errorf("site %v", b.Site)
		}
		for path, want := range map[string][]byte{".erofs.zst": content["root"], ".verity.zst": content["verity"]} {
			got, err := b.Get(ctx, b.Base+"/root/"+offer.RootHash+path)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", path, len(got), err)
			}
		}
	}
	r.stop()
	http := func(n int) string {
		return strings.Repeat("http-done ", n) + strings.TrimSuffix(strings.Repeat("http-start ", n), " ")
	}
	for n, want := range []string{
		"discover offer ack discover offer ack | tftp-start tftp-done | " + http(3),
		"discover offer ack discover offer ack |  | " + http(4),
	} {
		if got := r.line(r.machine(n, 7).MAC); got != want {
			t.Errorf("events of boot %d:\n got %s\nwant %s", n, got, want)
		}
	}
	for _, e := range r.events {
		if e.Boot.IsZero() || e.Boot.After(e.Time) || e.Client.UUID == "" {
			t.Errorf("event without its boot or machine: %+v", e)
		}
		if e.Kind == pxe.HTTPDone && strings.HasPrefix(e.File, "/root/") && (e.Bytes == 0 || e.Release != offer.Release) {
			t.Errorf("root event %+v", e)
		}
	}
}

// TestOneVerdict asks all three protocols for hosts that may and may not boot.
func TestOneVerdict(t *testing.T) {
	releases := shelf{}
	one, _ := releases.stock(t, "1", 100_000)
	two, _ := releases.stock(t, "2", 100_000)
	var mu sync.Mutex
	verdict := pxe.Verdict{Release: one.Release}
	decide := func(v pxe.Verdict) {
		mu.Lock()
		defer mu.Unlock()
		verdict = v
	}
	r := start(t, pxe.Config{Shelf: releases, Assigner: pxe.AssignerFunc(func(context.Context, pxe.Client) pxe.Verdict {
		mu.Lock()
		defer mu.Unlock()
		return verdict
	})})
	ctx := context.Background()
	b, err := r.machine(1, 7).Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", r.ports.HTTP)
	get := func(path string) string {
		_, err := b.Get(ctx, base+path)
		if err == nil {
			return "ok"
		}
		_, status, _ := strings.Cut(err.Error(), ": ")
		return status
	}
	uki := func(o *pxe.Offer) string { return "/boot/" + o.Release.Hex() + ".efi" }
	for path, want := range map[string]string{
		uki(one):                               "ok",
		uki(two):                               "404 Not Found",
		"/root/" + two.RootHash + ".erofs.zst": "404 Not Found",
		"/":                                    "404 Not Found",
		"/boot/":                               "404 Not Found",
		"/boot/../" + uki(one):                 "404 Not Found",
		"//" + uki(one):                        "404 Not Found",
		strings.ToUpper(uki(one)):              "404 Not Found",
		"/boot/%2e%2e/%2e%2e/etc/passwd":       "404 Not Found",
	} {
		if got := get(path); got != want {
			t.Errorf("GET %s: %s, want %s", path, got, want)
		}
	}
	tftp := func(source netip.Addr, name string) string {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: source.AsSlice()})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // test
		c := &tftptest.Client{Conn: conn, Server: netip.AddrPortFrom(loopback, r.ports.TFTP), Name: name, Timeout: 40 * time.Millisecond, Options: []string{"blksize", "1468"}}
		if _, err := c.Fetch(); err != nil {
			return err.Error()
		}
		return "ok"
	}
	name := func(o *pxe.Offer) string { return "roost-" + o.Release.Hex()[:12] + ".efi" }
	for _, c := range []struct {
		source     netip.Addr
		name, want string
	}{
		{b.Address, name(one), "ok"},
		{b.Address, name(two), "error 1: no such file"},
		{b.Address, "../../etc/passwd", "error 1: no such file"},
		{b.Address, "undionly.kpxe", "error 1: no such file"},
		{loopback, name(one), tftptest.ErrGone.Error()}, // no lease, no byte
	} {
		if got := tftp(c.source, c.name); got != c.want {
			t.Errorf("TFTP of %s to %s: %s, want %s", c.name, c.source, got, c.want)
		}
	}
	decide(pxe.Verdict{Refuse: "host is in service"})
	if got := tftp(b.Address, name(one)); got != "error 2: host is in service" {
		t.Errorf("refused host over TFTP: %s", got)
	}
	if got := get(uki(one)); got != "403 Forbidden" {
		t.Errorf("refused host over HTTP: %s", got)
	}
	refused := r.machine(2, 7)
	refused.Tries, refused.Wait = 2, 50*time.Millisecond
	if _, err := refused.Load(ctx); !errors.Is(err, pxetest.ErrIgnored) {
		t.Errorf("refused host over DHCP: %v", err)
	}
	decide(pxe.Verdict{})
	if got := get(uki(one)); got != "403 Forbidden" {
		t.Errorf("host without a release: %s", got)
	}
	decide(pxe.Verdict{Release: images.DigestOf([]byte("gone"))})
	if got := get(uki(one)); got != "500 Internal Server Error" {
		t.Errorf("release that is not on the shelf: %s", got)
	}
	decide(pxe.Verdict{Release: one.Release})
	arm := r.machine(3, iana.EFI_ARM64)
	arm.Tries, arm.Wait = 2, 50*time.Millisecond
	if _, err := arm.Load(ctx); !errors.Is(err, pxetest.ErrIgnored) {
		t.Errorf("machine of another architecture: %v", err)
	}
	// A host that never asked for an address gets nothing.
	response, err := http.Get(base + uki(one))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("host without a lease: %s", response.Status)
	}
	r.stop()
	if got := r.line(refused.MAC); got != "discover refused discover refused |  | " {
		t.Errorf("events of a refused host: %s", got)
	}
}

// TestOffServesTheLink has another server's DHCP: there are no leases to go by, so hosts on the link are served.
func TestOffServesTheLink(t *testing.T) {
	releases := shelf{}
	offer, _ := releases.stock(t, "1", 10_000)
	r := start(t, pxe.Config{Shelf: releases, Assigner: pxe.Everyone(offer.Release), Interfaces: []pxe.Interface{{Name: "lo", Mode: pxe.Off, Address: loopback}}})
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/boot/%s.efi", r.ports.HTTP, offer.Release.Hex()))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("HTTP: %s", response.Status)
	}
	m := r.machine(1, 7)
	m.Wait, m.Tries = 50*time.Millisecond, 2
	if _, err := m.Address(context.Background()); !errors.Is(err, pxetest.ErrIgnored) {
		t.Errorf("DHCP answers in mode off: %v", err)
	}
}

func TestHTTPDetails(t *testing.T) {
	releases := shelf{}
	offer, content := releases.stock(t, "1", 100_000)
	r := start(t, pxe.Config{Shelf: releases, Assigner: pxe.Everyone(offer.Release)})
	b, err := r.machine(1, 7).Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: b.Address.AsSlice()}}).DialContext}}
	defer client.CloseIdleConnections()
	path := fmt.Sprintf("http://127.0.0.1:%d/boot/%s.efi", r.ports.HTTP, offer.Release.Hex())
	etag := `"` + offer.UKI.Digest.Hex() + `"`
	for _, c := range []struct {
		method string
		header map[string]string
		status int
		body   []byte
	}{
		{"GET", nil, 200, content["uki"]},
		{"HEAD", nil, 200, nil},
		{"GET", map[string]string{"Range": "bytes=1000-"}, 206, content["uki"][1000:]},
		{"GET", map[string]string{"Range": "bytes=10-19", "If-Match": etag}, 206, content["uki"][10:20]},
		{"GET", map[string]string{"Range": "bytes=10-19", "If-Match": `"other"`}, 412, nil},
		{"GET", map[string]string{"Range": "bytes=10-19", "If-Unmodified-Since": "Fri, 15 Jan 2027 08:00:00 GMT"}, 206, content["uki"][10:20]},
		{"GET", map[string]string{"If-None-Match": etag}, 304, nil},
		{"GET", map[string]string{"Range": "bytes=99999999-"}, 416, nil},
		{"POST", nil, 405, nil},
		{"PUT", nil, 405, nil},
	} {
		request, err := http.NewRequest(c.method, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range c.header {
			request.Header.Set(name, value)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != c.status || (c.body != nil && !bytes.Equal(body, c.body)) {
			t.Errorf("%s %v: %s with %d bytes, %v", c.method, c.header, response.Status, len(body), err)
		}
		if c.status != 200 {
			continue
		}
		h := response.Header
		if h.Get("Content-Type") != "application/efi" || h.Get("Etag") != etag || h.Get("Last-Modified") != "Fri, 15 Jan 2027 08:00:00 GMT" ||
			response.ContentLength != offer.UKI.Size || h.Get("Accept-Ranges") != "bytes" || len(response.TransferEncoding) != 0 {
			t.Errorf("%s: headers %v, length %d, encoding %v", c.method, h, response.ContentLength, response.TransferEncoding)
		}
	}
}

func TestBIOSGetsPartsOfTheUKI(t *testing.T) {
	releases := shelf{}
	offer, content := releases.stock(t, "1", 100_000)
	r := start(t, pxe.Config{Shelf: releases, Assigner: pxe.Everyone(offer.Release), IPXE: []byte("a small loader")})
	ctx := context.Background()
	m := r.machine(1, iana.INTEL_X86PC)
	b, err := m.Load(ctx)
	if err != nil || b.File != "undionly.kpxe" || string(b.UKI) != "a small loader" {
		t.Fatalf("loader %v, %v", b, err)
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", r.ports.HTTP)
	script, err := b.Get(ctx, base+"/ipxe/"+offer.Release.Hex()+".ipxe")
	if err != nil {
		t.Fatal(err)
	}
	kernel, initrd := base+"/boot/"+offer.Release.Hex()+"/vmlinuz", base+"/boot/"+offer.Release.Hex()+"/initrd"
	for _, want := range []string{"#!ipxe\n", "\nkernel " + kernel + " roothash=" + offer.RootHash + " panic=10 ||", "\ninitrd --name initrd " + initrd + " ||", "\nboot "} {
		if !strings.Contains(string(script), want) {
			t.Errorf("script lacks %q:\n%s", want, script)
		}
	}
	for address, want := range map[string][]byte{kernel: content["kernel"], initrd: content["initrd"]} {
		if got, err := b.Get(ctx, address); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", address, len(got), err)
		}
	}
}

func TestLeasesSurviveRestart(t *testing.T) {
	releases := shelf{}
	offer, _ := releases.stock(t, "1", 10_000)
	config := pxe.Config{Shelf: releases, Assigner: pxe.Everyone(offer.Release), Leases: t.TempDir()}
	addresses := map[int]netip.Addr{}
	for life := range 2 {
		r := start(t, config)
		for n := range 20 {
			if life == 1 && n == 0 {
				// The first machine is in the middle of its boot: its address alone opens the door.
				client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: addresses[0].AsSlice()}}).DialContext, DisableKeepAlives: true}}
				response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/root/%s.erofs.zst", r.ports.HTTP, offer.RootHash))
				if err != nil {
					t.Fatal(err)
				}
				_ = response.Body.Close()
				if response.StatusCode != http.StatusOK {
					t.Errorf("after the restart: %s", response.Status)
				}
			}
			b, err := r.machine((n*7+life*3)%20, 7).Load(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if had, ok := addresses[(n*7+life*3)%20]; ok && had != b.Address {
				t.Errorf("machine had %s, has %s after the restart", had, b.Address)
			}
			addresses[(n*7+life*3)%20] = b.Address
		}
		if got := len(r.server.Leases()); got != 20 {
			t.Errorf("%d leases, want 20", got)
		}
		r.stop()
	}
}

// TestThousandMachines boots a thousand machines at one time through DHCP, TFTP or HTTP, DHCP and HTTP, half of them with
// one release and half with another. The server is a process of its own, so that its memory can be told from the machines'.
func TestThousandMachines(t *testing.T) {
	const machines = 1000
	releases := shelf{}
	var offers [2]*pxe.Offer
	var contents [2]map[string][]byte
	for i, version := range []images.Version{"1", "2"} {
		offers[i], contents[i] = releases.stock(t, version, 200_000)
	}
	config := pxe.Config{Shelf: releases, Leases: t.TempDir(), Transfers: machines, Assigner: pxe.AssignerFunc(func(_ context.Context, c pxe.Client) pxe.Verdict {
		return pxe.Verdict{Release: offers[c.MAC[5]&1].Release}
	})}
	if os.Getenv("PXE_TEST_SERVER") != "" {
		r := start(t, config)
		fmt.Printf("serving %d %d %d\n", r.ports.DHCP, r.ports.TFTP, r.ports.HTTP)
		_, _ = io.Copy(io.Discard, os.Stdin)
		fmt.Printf("leases %d\n", len(r.server.Leases()))
		return
	}
	r, finish := startProcess(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	begun := time.Now()
	var mu sync.Mutex
	var retries atomic.Int32
	owner := map[netip.Addr]int{}
	var work sync.WaitGroup
	for n := range machines {
		work.Go(func() {
			m := r.machine(n, []iana.Arch{iana.EFI_X86_64, iana.EFI_X86_64_HTTP}[n/2%2])
			m.Wait = time.Second
			want, offer := contents[n&1], offers[n&1]
			b, err := m.Load(ctx)
			if err != nil { // firmware tries again too
				retries.Add(1)
				b, err = m.Load(ctx)
			}
			if err != nil {
				t.Errorf("machine %d: %v", n, err)
				return
			}
			mu.Lock()
			if other, ok := owner[b.Address]; ok {
				t.Errorf("machines %d and %d both have %s", n, other, b.Address)
			}
			owner[b.Address] = n
			mu.Unlock()
			if !bytes.Equal(b.UKI, want["uki"]) {
				t.Errorf("machine %d has the UKI of another", n)
			}
			if err := m.Init(ctx, b); err != nil {
				t.Errorf("machine %d: %v", n, err)
				return
			}
			if root, err := b.Get(ctx, b.Base+"/root/"+offer.RootHash+".erofs.zst"); err != nil || !bytes.Equal(root, want["root"]) {
				t.Errorf("machine %d: %d bytes of root, %v", n, len(root), err)
			}
		})
	}
	work.Wait()
	took := time.Since(begun)
	memory, leases := finish()
	t.Logf("%d machines in %v, %d of them in two tries; the server's memory grew to %d MiB", machines, took.Round(time.Millisecond), retries.Load(), memory>>20)
	if memory > 200<<20 {
		t.Errorf("memory of the server grew to %d MiB", memory>>20)
	}
	if leases != machines {
		t.Errorf("%d leases, want %d", leases, machines)
	}
	if retries.Load() > machines/5 {
		t.Errorf("%d machines needed a second try", retries.Load())
	}
}

// startProcess runs the calling test in another process as a server. finish ends it and returns the most memory it had, in bytes,
// and its leases.
func startProcess(t *testing.T) (r *running, finish func() (memory int64, leases int)) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), "PXE_TEST_SERVER=1")
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	r = &running{}
	lines := bufio.NewReader(out)
	if _, err := fmt.Fscanf(lines, "serving %d %d %d\n", &r.ports.DHCP, &r.ports.TFTP, &r.ports.HTTP); err != nil {
		t.Fatal(err)
	}
	if r.relay, err = pxetest.NewRelay(loopback, netip.AddrPortFrom(loopback, r.ports.DHCP)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.relay.Close() })
	return r, func() (memory int64, leases int) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, peak, _ := strings.Cut(string(status), "VmHWM:")
		if _, err := fmt.Sscanf(peak, "%d kB", &memory); err != nil {
			t.Fatal(err)
		}
		_ = in.Close()
		if _, err := fmt.Fscanf(lines, "leases %d\n", &leases); err != nil {
			t.Error(err)
		}
		if err := child.Wait(); err != nil {
			t.Errorf("server process: %v", err)
		}
		return memory << 10, leases
	}
}

func TestConfigIsChecked(t *testing.T) {
	releases := shelf{}
	everyone := pxe.Everyone("sha256:00")
	own := pxe.Interface{Name: "eth0", Mode: pxe.Own, Network: pxe.Network{First: netip.MustParseAddr("10.0.0.10"), Last: netip.MustParseAddr("10.0.0.20")}}
	with := func(change func(*pxe.Interface)) pxe.Config {
		i := own
		change(&i)
		return pxe.Config{Shelf: releases, Assigner: everyone, Interfaces: []pxe.Interface{i}}
	}
	for want, config := range map[string]pxe.Config{
		"":                      with(func(*pxe.Interface) {}),
		"without Assigner":      {Shelf: releases, Interfaces: []pxe.Interface{own}},
		"no interface":          {Shelf: releases, Assigner: everyone},
		"there twice":           {Shelf: releases, Assigner: everyone, Interfaces: []pxe.Interface{own, own}},
		"not own, proxy or off": with(func(i *pxe.Interface) { i.Mode = "both" }),
		"is not known":          with(func(i *pxe.Interface) { i.Foreign = "fight" }),
		"not an IPv4":           with(func(i *pxe.Interface) { i.Address = netip.MustParseAddr("::1") }),
		"needs a range":         with(func(i *pxe.Interface) { i.Network = pxe.Network{} }),
		"needs its prefix":      with(func(i *pxe.Interface) { i.Relayed = []pxe.Network{i.Network} }),
		"given out twice": {Shelf: releases, Assigner: everyone, Interfaces: []pxe.Interface{own, {Name: "eth1", Mode: pxe.Own,
			Network: pxe.Network{First: netip.MustParseAddr("10.0.0.20"), Last: netip.MustParseAddr("10.0.0.30")}}}},
		"is not in":                   with(func(i *pxe.Interface) { i.Network.Prefix = netip.MustParsePrefix("10.1.0.0/16") }),
		"two IPv4 addresses in order": with(func(i *pxe.Interface) { i.Network.First, i.Network.Last = i.Network.Last, i.Network.First }),
		"not an Ethernet":             with(func(i *pxe.Interface) { i.Network.Reservations = map[string]netip.Addr{"52:54": own.Network.First} }),
	} {
		_, err := pxe.New(config)
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// FuzzPath asks the boot server for any path, as a host that has a lease: nothing is served but the names of its release.
func FuzzPath(f *testing.F) {
	releases := shelf{}
	offer, content := releases.stock(f, "1", 2000)
	r := start(f, pxe.Config{Shelf: releases, Assigner: pxe.Everyone(offer.Release), Leases: f.TempDir()})
	b, err := r.machine(0, iana.EFI_X86_64_HTTP).Load(context.Background())
	if err != nil {
		f.Fatal(err)
	}
	named := map[string][]byte{
		"/root/" + offer.RootHash + ".erofs.zst": content["root"], "/root/" + offer.RootHash + ".verity.zst": content["verity"],
		"/boot/" + offer.Release.Hex() + ".efi": content["uki"],
	}
	for path := range named {
		f.Add(path)
		f.Add(path + "/..")
		f.Add("/." + path)
	}
	for _, path := range []string{"/", "//", "/root/../boot/", "/%2e%2e/etc/passwd", "/v1/site?x", "/ipxe/", "/boot/" + offer.Release.Hex() + "/vmlinuz"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u := url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", r.ports.HTTP), Path: "/" + strings.TrimPrefix(path, "/")}
		got, err := b.Get(context.Background(), u.String())
		if want, ok := named[u.Path]; err == nil && !(ok && bytes.Equal(got, want)) && u.Path != "/v1/site" && !strings.HasPrefix(u.Path, "/boot/"+offer.Release.Hex()+"/") && !strings.HasPrefix(u.Path, "/ipxe/"+offer.Release.Hex()) {
			t.Errorf("%q is served with %d bytes", u.Path, len(got))
		}
	})
}
