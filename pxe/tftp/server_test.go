package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"roost/pxe/tftp/tftptest"
)

// memory is a file in memory that counts how often it was opened and is open.
type memory struct {
	content []byte
	opened  atomic.Int32
	open    atomic.Int32
}

type handle struct {
	*bytes.Reader
	m *memory
}

func (h handle) Close() error {
	h.m.open.Add(-1)
	return nil
}

func (m *memory) file() File {
	return File{Size: int64(len(m.content)), Open: func() (io.ReadSeekCloser, error) {
		m.opened.Add(1)
		m.open.Add(1)
		return handle{bytes.NewReader(m.content), m}, nil
	}}
}

func random(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(size), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// rig is a server on loopback with one file, and its reports.
type rig struct {
	*memory
	addr    netip.AddrPort
	reports chan Transfer
}

func serve(t testing.TB, size int, config Config) *rig {
	t.Helper()
	r := &rig{memory: &memory{content: random(size)}, reports: make(chan Transfer, 4096)}
	if config.Find == nil {
		config.Find = func(_ context.Context, _ netip.AddrPort, name string) (File, error) {
			if name != "uki.efi" {
				return File{}, ErrNotFound
			}
			return r.file(), nil
		}
	}
	config.Observe = func(report Transfer) { r.reports <- report }
	conn := listen(t)
	r.addr = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := New(config).Serve(ctx, conn); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		run.Wait()
		if n := r.open.Load(); n != 0 {
			t.Errorf("%d files were not closed", n)
		}
	})
	return r
}

// outcome waits for the next report with one of the outcomes.
func (r *rig) outcome(t testing.TB, want ...Outcome) Transfer {
	t.Helper()
	for {
		select {
		case report := <-r.reports:
			for _, o := range want {
				if report.Outcome == o {
					return report
				}
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no report of %v", want)
		}
	}
}

func TestTransfers(t *testing.T) {
	for _, c := range []struct {
		size    int
		options string
		oack    string
	}{
		{0, "", "map[]"},
		{1, "", "map[]"},
		{512, "", "map[]"},
		{1500, "", "map[]"},
		{1500, "tsize 0", "map[tsize:1500]"},
		{100_000, "blksize 1468 tsize 0", "map[blksize:1468 tsize:100000]"},
		{100_000, "BLKSIZE 1024 TSize 0", "map[blksize:1024 tsize:100000]"},
		{100_000, "blksize 65464", "map[blksize:1468]"},
		{100_000, "blksize 65465", "map[]"},
		{10_000, "blksize 8", "map[blksize:8]"},
		{10_000, "blksize 7", "map[]"},
		{70_000 * 8, "blksize 8 windowsize 60", "map[blksize:8 windowsize:60]"}, // block numbers roll over
		{70_000 * 8, "blksize 8", "map[blksize:8]"},
		{70_000 * 512, "blksize 512", "map[blksize:512]"},
		{1_000_000, "tsize 0 blksize 1468 windowsize 4", "map[blksize:1468 tsize:1000000 windowsize:4]"},
		{1_000_000, "blksize 1468 windowsize 65535", "map[blksize:1468 windowsize:64]"},
		{1_000_000, "blksize 1468 windowsize 0", "map[blksize:1468]"},
		{1468 * 4 * 5, "blksize 1468 windowsize 4", "map[blksize:1468 windowsize:4]"},
		{1468 * 4 * 5, "windowsize 4", "map[windowsize:4]"},
		{10_000, "timeout 2", "map[timeout:2]"},
		{10_000, "timeout 255", "map[]"},
		{10_000, "multicast x foo bar", "map[]"},
	} {
		t.Run(fmt.Sprintf("%d %s", c.size, c.options), func(t *testing.T) {
			r := serve(t, c.size, Config{MaxBlock: 1468, Timeout: 5 * time.Second}) // this is not about patience
			k := &tftptest.Client{Conn: listen(t), Server: r.addr, Name: "uki.efi", Options: strings.Fields(c.options)}
			got, err := k.Fetch()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, r.content) {
				t.Errorf("%d bytes arrived, not those of the %d sent", len(got), c.size)
			}
			if oack := fmt.Sprint(k.OACK); oack != c.oack {
				t.Errorf("granted %s, want %s", oack, c.oack)
			}
			if report := r.outcome(t, Done, Failed); report.Outcome != Done || report.Sent != int64(c.size) {
				t.Errorf("reported %+v", report)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		packet string
		want   string
	}{
		"not found":      {"\x00\x01nothing\x00octet\x00", "\x00\x05\x00\x01no such file\x00"},
		"path":           {"\x00\x01../uki.efi\x00octet\x00", "\x00\x05\x00\x01no such file\x00"},
		"absolute":       {"\x00\x01/uki.efi\x00octet\x00", "\x00\x05\x00\x01no such file\x00"},
		"upper case":     {"\x00\x01UKI.EFI\x00octet\x00", "\x00\x05\x00\x01no such file\x00"},
		"write":          {"\x00\x02uki.efi\x00octet\x00", "\x00\x05\x00\x02files are read-only\x00"},
		"mode mail":      {"\x00\x01uki.efi\x00mail\x00", "\x00\x05\x00\x04only mode octet is served\x00"},
		"mode netascii":  {"\x00\x01uki.efi\x00NetASCII\x00", "\x00\x05\x00\x04only mode octet is served\x00"},
		"refused by law": {"\x00\x01secret\x00octet\x00", "\x00\x05\x00\x02not for you\x00"},
		"unknown peer":   {"\x00\x01unknown\x00octet\x00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, 10, Config{Find: func(_ context.Context, _ netip.AddrPort, name string) (File, error) {
				switch name {
				case "uki.efi":
					return (&memory{}).file(), nil
				case "secret":
					return File{}, errors.New("not for you")
				case "unknown":
					return File{}, ErrUnknownPeer
				}
				return File{}, ErrNotFound
			}})
			conn := listen(t)
			if _, err := conn.WriteToUDPAddrPort([]byte(c.packet), r.addr); err != nil {
				t.Fatal(err)
			}
			r.outcome(t, Refused)
			buffer := make([]byte, 1500)
			_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			n, _, err := conn.ReadFromUDPAddrPort(buffer)
			if string(buffer[:n]) != c.want || (c.want == "") != errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("answered %q, %v; want %q", buffer[:n], err, c.want)
			}
		})
	}
}

func TestSizeProbeIsCheapAndNoFailure(t *testing.T) {
	for _, options := range []string{"tsize 0 blksize 1468 windowsize 4", "tsize 0 blksize 1432"} {
		r := serve(t, 1_000_000, Config{})
		k := &tftptest.Client{Conn: listen(t), Server: r.addr, Name: "uki.efi", Options: strings.Fields(options), Probe: true}
		if _, err := k.Fetch(); err != nil || k.OACK["tsize"] != "1000000" {
			t.Fatalf("%s: granted %v, %v", options, k.OACK, err)
		}
		if report := r.outcome(t, Done, Failed, Probed); report.Outcome != Probed || report.Err != nil {
			t.Errorf("%s: reported %+v", options, report)
		}
		if n := r.opened.Load(); n != 0 {
			t.Errorf("%s: the file was opened %d times", options, n)
		}
	}
}

// TestForgedSourceGainsNothing counts what a peer receives that never acknowledges.
func TestForgedSourceGainsNothing(t *testing.T) {
	for options, most := range map[string]int{"": 20, "blksize 1468 tsize 0": 4, "blksize 1468 windowsize 64 tsize 0": 4} {
		t.Run(options, func(t *testing.T) {
			m := &memory{content: random(1_000_000)}
			r := serve(t, 0, Config{Timeout: 20 * time.Millisecond, Find: func(context.Context, netip.AddrPort, string) (File, error) { return m.file(), nil }})
			k := &tftptest.Client{Name: "roost-0123456789ab.efi", Options: strings.Fields(options), Conn: listen(t)}
			request := k.Request()
			if _, err := k.Conn.WriteTo(request, net.UDPAddrFromAddrPort(r.addr)); err != nil {
				t.Fatal(err)
			}
			if report := r.outcome(t, Done, Failed, Probed); report.Outcome != Failed {
				t.Errorf("reported %+v", report)
			}
			received, buffer := 0, make([]byte, 65536)
			_ = k.Conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			for {
				n, _, err := k.Conn.ReadFrom(buffer)
				if err != nil {
					break
				}
				received += n
			}
			if received == 0 || received > most*len(request) {
				t.Errorf("%d bytes asked, %d received: factor %d, want at most %d", len(request), received, received/len(request), most)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	r := serve(t, 1_000_000, Config{PerHost: 2, Timeout: 50 * time.Millisecond})
	for range 3 {
		k := &tftptest.Client{Name: "uki.efi", Options: []string{"windowsize", "4"}, Conn: listen(t)}
		if _, err := k.Conn.WriteTo(k.Request(), net.UDPAddrFromAddrPort(r.addr)); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Conn.WriteTo(k.Request(), net.UDPAddrFromAddrPort(r.addr)); err != nil { // a repeat is not a second transfer
			t.Fatal(err)
		}
	}
	r.outcome(t, Busy)
	r.outcome(t, Failed)
	r.outcome(t, Failed)
	k := &tftptest.Client{Conn: listen(t), Server: r.addr, Name: "uki.efi"}
	if got, err := k.Fetch(); err != nil || !bytes.Equal(got, r.content) {
		t.Errorf("after the others ended: %d bytes, %v", len(got), err)
	}
}

func TestOpenError(t *testing.T) {
	for _, options := range []string{"blksize 1024", "windowsize 4", ""} {
		r := serve(t, 1, Config{Find: func(context.Context, netip.AddrPort, string) (File, error) {
			return File{Size: 1, Open: func() (io.ReadSeekCloser, error) { return nil, os.ErrPermission }}, nil
		}})
		k := &tftptest.Client{Conn: listen(t), Server: r.addr, Name: "uki.efi", Options: strings.Fields(options)}
		if _, err := k.Fetch(); err == nil || !strings.HasPrefix(err.Error(), "error ") {
			t.Errorf("%q: client sees %v", options, err)
		}
		if report := r.outcome(t, Done, Failed); report.Outcome != Failed || !errors.Is(report.Err, os.ErrPermission) {
			t.Errorf("%q: reported %+v", options, report)
		}
	}
}

// TestManyClients lets clients with different files run at one time: none sees a byte of another's.
func TestManyClients(t *testing.T) {
	const clients = 200
	files := make([]*memory, clients)
	for i := range files {
		files[i] = &memory{content: random(50_000 + i)}
	}
	r := serve(t, 0, Config{PerHost: clients, Find: func(_ context.Context, _ netip.AddrPort, name string) (File, error) {
		var n int
		if _, err := fmt.Sscanf(name, "file-%d", &n); err != nil {
			return File{}, ErrNotFound
		}
		return files[n].file(), nil
	}})
	var work sync.WaitGroup
	for i := range clients {
		work.Go(func() {
			k := &tftptest.Client{Conn: listen(t), Server: r.addr, Name: fmt.Sprintf("file-%d", i), Options: []string{"blksize", "1468", "windowsize", fmt.Sprint(i % 17)}}
			got, err := k.Fetch()
			if err != nil || !bytes.Equal(got, files[i].content) {
				t.Errorf("client %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	work.Wait()
}

// lossy drops and swaps packets in both directions.
type lossy struct {
	net.Conn
	mu      sync.Mutex
	random  *rand.Rand
	loss    float64
	swap    float64
	delayed []byte
}

func (l *lossy) chance(p float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Float64() < p
}

func (l *lossy) Write(b []byte) (int, error) {
	if l.chance(l.loss) {
		return len(b), nil
	}
	if l.delayed == nil && l.chance(l.swap) {
		l.delayed = bytes.Clone(b)
		return len(b), nil
	}
	n, err := l.Conn.Write(b)
	if l.delayed != nil && err == nil {
		_, err = l.Conn.Write(l.delayed)
		l.delayed = nil
	}
	return n, err
}

func (l *lossy) Read(b []byte) (int, error) {
	for {
		n, err := l.Conn.Read(b)
		if err != nil || !l.chance(l.loss) {
			return n, err
		}
	}
}

// deliverOver sends content through a shim and returns how long it took.
func deliverOver(t testing.TB, content []byte, window int, shim func(net.Conn) net.Conn, k *tftptest.Client) time.Duration {
	t.Helper()
	k.Conn, k.Timeout = listen(t), 2*time.Second
	server := listen(t)
	address := server.LocalAddr().(*net.UDPAddr)
	_ = server.Close()
	conn, err := net.DialUDP("udp4", address, k.Conn.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // test
	k.Peer = address
	r := request{blockSize: 1468, window: window}
	m := &memory{content: content}
	transfer := &transfer{conn: shim(conn), block: r.blockSize, window: window, timeout: time.Second}
	var sent sync.WaitGroup
	sent.Go(func() {
		if err := transfer.run(r.accepted(m.file().Size), m.file()); err != nil || transfer.sent != int64(len(content)) {
			t.Errorf("server: %d bytes, %v", transfer.sent, err)
		}
	})
	k.Server = address.AddrPort()
	begun := time.Now()
	got, err := k.Fetch()
	took := time.Since(begun)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("client: %d bytes, %v", len(got), err)
	}
	_ = k.Conn.Close()
	sent.Wait()
	return took
}

func TestLossAndReordering(t *testing.T) {
	content := random(2 << 20)
	for _, c := range []struct {
		window     int
		loss, swap float64
		most       time.Duration
	}{
		// A second per lost packet would make 14 of each one in a hundred.
		{1, 0.01, 0, 12 * time.Second}, {4, 0.01, 0, 12 * time.Second}, {16, 0.01, 0, 12 * time.Second},
		{4, 0.05, 0, 25 * time.Second}, {16, 0, 0.05, 12 * time.Second}, {16, 0.02, 0.02, 12 * time.Second},
	} {
		t.Run(fmt.Sprintf("window %d loss %v swap %v", c.window, c.loss, c.swap), func(t *testing.T) {
			t.Parallel()
			took := deliverOver(t, content, c.window, func(conn net.Conn) net.Conn {
				return &lossy{Conn: conn, random: rand.New(rand.NewPCG(7, uint64(c.window))), loss: c.loss, swap: c.swap}
			}, &tftptest.Client{})
			t.Logf("2 MiB in %v", took)
			if took > c.most {
				t.Errorf("took %v, want at most %v", took, c.most)
			}
		})
	}
}

// distant makes the way back take time, as a client with real work to do does. Packets overtake nobody and hold nobody up.
type distant struct {
	net.Conn
	delay    time.Duration
	arrivals chan arrival
	deadline time.Time
}

type arrival struct {
	data []byte
	at   time.Time
}

func newDistant(conn net.Conn, delay time.Duration) *distant {
	d := &distant{Conn: conn, delay: delay, arrivals: make(chan arrival, 10_000)}
	go func() {
		for {
			buffer := make([]byte, 1500)
			n, err := conn.Read(buffer)
			if err != nil {
				close(d.arrivals)
				return
			}
			d.arrivals <- arrival{buffer[:n], time.Now()}
		}
	}()
	return d
}

func (d *distant) SetReadDeadline(t time.Time) error {
	d.deadline = t
	return nil
}

func (d *distant) Read(b []byte) (int, error) {
	select {
	case a, ok := <-d.arrivals:
		if !ok {
			return 0, syscall.ECONNREFUSED
		}
		time.Sleep(time.Until(a.at.Add(d.delay)))
		return copy(b, a.data), nil
	case <-time.After(time.Until(d.deadline)):
		return 0, os.ErrDeadlineExceeded
	}
}

// TestLossCostsLittle compares a link that loses one packet in a hundred with one that loses none: 1.7 times as long on an idle
// machine. A busy one gets three tries.
func TestLossCostsLittle(t *testing.T) {
	content, ratio := random(4<<20), 0.0
	for range 3 {
		clean := deliverOver(t, content, 4, func(conn net.Conn) net.Conn { return newDistant(conn, 500*time.Microsecond) }, &tftptest.Client{})
		lost := deliverOver(t, content, 4, func(conn net.Conn) net.Conn {
			return &lossy{Conn: newDistant(conn, 500*time.Microsecond), random: rand.New(rand.NewPCG(3, 3)), loss: 0.01}
		}, &tftptest.Client{})
		ratio = lost.Seconds() / clean.Seconds()
		t.Logf("4 MiB in %v, with loss in %v", clean, lost)
		if ratio < 2.5 {
			return
		}
	}
	t.Errorf("losing one packet in a hundred makes it %.1f times as long", ratio)
}

// TestNoSorcerersApprentice acknowledges everything twice: the number of packets must not double for ever.
func TestNoSorcerersApprentice(t *testing.T) {
	content := random(1 << 20)
	blocks := len(content)/1468 + 1
	for window, most := range map[int]int{1: blocks + 2, 4: blocks * 3 / 2, 16: blocks * 3 / 2} {
		k := &tftptest.Client{Twice: true}
		deliverOver(t, content, window, func(c net.Conn) net.Conn { return c }, k)
		if k.Packets > most {
			t.Errorf("window %d: %d packets for %d blocks", window, k.Packets, blocks)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"\x00\x01uki.efi\x00octet\x00", "\x00\x01uki.efi\x00octet", "\x00\x01\x00octet\x00", "\x00\x02a\x00mail\x00",
		"\x00\x01a\x00OCTET\x00BlkSize\x008\x00windowsize\x0065535\x00tsize\x000\x00timeout\x00255\x00",
		"\x00\x01a\x00octet\x00blksize\x0065465\x00windowsize\x000\x00", "\x00\x01../../etc/passwd\x00octet\x00", "\x00\x01/a\x00octet\x00",
		"\x00\x01" + strings.Repeat("n", 500) + "\x00octet\x00", "\x00\x01a\x00octet\x00blksize\x00", "\x00", "\x00\x05\x00\x00x\x00",
		"\x00\x01a\x00octet\x00blksize\x00-1\x00tsize\x0099999999999999999999\x00", "\x00\x01a\x00octet\x00blksize\x001024\x00blksize\x00512\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := parseRequest(packet)
		if err != nil {
			return
		}
		if r.name == "" || strings.Contains(r.name, "\x00") || r.blockSize > 65464 || r.window > 65535 || r.timeout > 255 {
			t.Errorf("%q reads as %+v", packet, r)
		}
		if !r.plain() || len(r.packet("1")) > maxRequest {
			return
		}
		again, err := parseRequest(r.packet("1"))
		if err != nil || again.blockSize != r.blockSize || again.wantSize != r.wantSize || again.name != "1" {
			t.Errorf("%+v in normal form reads as %+v, %v", r, again, err)
		}
	})
}

// listen opens a socket on loopback.
func listen(t testing.TB) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
