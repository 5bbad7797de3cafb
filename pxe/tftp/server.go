package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Port is where requests go.
const Port = 69

// What Find answers besides a file. Any other error is told to the client as access denied.
var (
	ErrUnknownPeer = errors.New("peer is not known") // it gets no answer at all
	ErrNotFound    = errors.New("no such file")
)

// File is something to send.
type File struct {
	Size int64
	Open func() (io.ReadSeekCloser, error) // called when the client has confirmed that it wants the content
}

// Outcome is how far a transfer got.
type Outcome string

// Outcomes.
const (
	Started Outcome = "started"
	Done    Outcome = "done"
	Probed  Outcome = "probed"  // the client asked for the size only
	Failed  Outcome = "failed"  // see Err
	Refused Outcome = "refused" // see Err
	Busy    Outcome = "busy"    // too many transfers; the client asks again
)

// Transfer is a report on one request.
type Transfer struct {
	Peer     netip.AddrPort
	Name     string
	Outcome  Outcome
	Size     int64 // bytes of the file
	Sent     int64 // bytes acknowledged
	Window   int   // blocks per acknowledgement
	Repeats  int   // windows that were sent again; of transfers with windows
	Duration time.Duration
	Err      error
}

// Config says what a server serves.
type Config struct {
	Find      func(ctx context.Context, peer netip.AddrPort, name string) (File, error)
	Observe   func(Transfer) // nil = nobody listens; must not block
	Timeout   time.Duration  // wait for an acknowledgement before the round trip is known; 0 = 1 s
	Transfers int            // at one time, in all; 0 = 1024
	PerHost   int            // at one time, per address; 0 = 4
	Window    int            // largest window granted; 0 = 64
	MaxBlock  int            // largest block granted; 0 = what the MTU of the socket's interface carries, at most 1468
	Log       *slog.Logger
}

// Server answers read requests.
type Server struct {
	config Config

	mu      sync.Mutex
	active  map[netip.AddrPort]bool // clients' ports with a transfer under way
	perHost map[netip.Addr]int
}

// New returns a server. Zero values of config are filled in.
func New(config Config) *Server {
	fill := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	fill(&config.Transfers, 1024)
	fill(&config.PerHost, 4)
	fill(&config.Window, 64)
	if config.Timeout == 0 {
		config.Timeout = time.Second
	}
	if config.Observe == nil {
		config.Observe = func(Transfer) {}
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{config: config, active: map[netip.AddrPort]bool{}, perHost: map[netip.Addr]int{}}
}

// Serve answers requests on conn until ctx ends, then it breaks off transfers, waits for them and returns nil. It closes conn. conn must be bound to one address
// of this machine; transfers use that address and a port of their own.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	own := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	l := &listener{Server: s, conn: conn, own: own, maxBlock: s.config.MaxBlock, plain: newPlain(s.config.Timeout)}
	if l.maxBlock == 0 {
		l.maxBlock = maxBlock(own)
	}
	var work sync.WaitGroup
	work.Go(func() { l.plain.run() })
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err := l.read(ctx, &work)
	stopped := ctx.Err() != nil
	cancel()
	l.plain.stop()
	work.Wait()
	if stopped {
		return nil
	}
	return err
}

// maxBlock returns the largest block that fits a packet of the interface with address own.
func maxBlock(own netip.Addr) int {
	const overhead, largest = 20 + 8 + headerSize, 1468
	interfaces, err := net.Interfaces()
	if err != nil {
		return defaultBlock
	}
	for _, iface := range interfaces {
		addresses, _ := iface.Addrs()
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == own {
				return min(iface.MTU-overhead, largest)
			}
		}
	}
	return largest
}

// listener is a server on one socket.
type listener struct {
	*Server
	conn     *net.UDPConn
	own      netip.Addr
	maxBlock int
	plain    *plain
}

func (l *listener) read(ctx context.Context, work *sync.WaitGroup) error {
	buffer := make([]byte, maxRequest+1)
	for {
		n, peer, err := l.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return fmt.Errorf("cannot receive: %w", err)
		}
		peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
		r, err := parseRequest(buffer[:n])
		if err != nil {
			l.config.Log.Debug("dropped a TFTP packet", "from", peer, "error", err)
			continue
		}
		if !l.admit(peer) {
			continue
		}
		work.Go(func() {
			defer l.leave(peer)
			l.serve(ctx, peer, r)
		})
	}
}

// admit reserves a place for a transfer. A repeated request of a client that is being served needs no second answer.
func (l *listener) admit(peer netip.AddrPort) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active[peer] {
		return false
	}
	if len(l.active) >= l.config.Transfers || l.perHost[peer.Addr()] >= l.config.PerHost {
		l.config.Observe(Transfer{Peer: peer, Outcome: Busy})
		return false
	}
	l.active[peer] = true
	l.perHost[peer.Addr()]++
	return true
}

func (l *listener) leave(peer netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.active, peer)
	if l.perHost[peer.Addr()]--; l.perHost[peer.Addr()] == 0 {
		delete(l.perHost, peer.Addr())
	}
}

// serve decides on one request and carries it out.
func (l *listener) serve(ctx context.Context, peer netip.AddrPort, r request) {
	report := Transfer{Peer: peer, Name: r.name, Window: max(1, r.window)}
	file, err := l.config.Find(ctx, peer, r.name)
	if errors.Is(err, ErrUnknownPeer) {
		report.Outcome, report.Err = Refused, err
		l.config.Observe(report)
		return
	}
	code := uint16(codeAccess)
	switch {
	case errors.Is(err, ErrNotFound):
		code = codeNotFound
	case err != nil:
	case r.write:
		err = errors.New("files are read-only")
	case r.mode != "octet":
		code, err = codeIllegal, errors.New("only mode octet is served")
	}
	if err != nil {
		report.Outcome, report.Err = Refused, err
		l.config.Observe(report)
		_, _ = l.conn.WriteToUDPAddrPort(errorPacket(code, err.Error()), peer)
		return
	}
	l.grant(&r)
	report.Size, report.Window = file.Size, max(1, r.window)
	report.Outcome = Started
	l.config.Observe(report)
	begun := time.Now()
	if r.plain() && l.plain.reaches(l.own, peer) {
		report.Sent, report.Err = l.plain.send(peer, r, file)
	} else {
		report.Sent, report.Repeats, report.Err = l.send(ctx, peer, r, file)
	}
	report.Duration = time.Since(begun)
	switch {
	case report.Err == nil:
		report.Outcome = Done
	case errors.Is(report.Err, errAborted) && report.Sent == 0 && r.wantSize:
		report.Outcome, report.Err = Probed, nil
	default:
		report.Outcome = Failed
	}
	l.config.Observe(report)
}

// grant lowers what the client asks for to what it gets.
func (l *listener) grant(r *request) {
	r.blockSize = min(r.blockSize, l.maxBlock)
	r.window = min(r.window, l.config.Window)
	if r.timeout > 10 {
		r.timeout = 0 // an abandoned transfer must not hold its place for long
	}
}

// send carries out a transfer with our own sender.
func (l *listener) send(ctx context.Context, peer netip.AddrPort, r request, file File) (sent int64, repeats int, err error) {
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: l.own.AsSlice()}, net.UDPAddrFromAddrPort(peer))
	if err != nil {
		return 0, 0, fmt.Errorf("cannot open socket to %s: %w", peer, err)
	}
	defer conn.Close() // a datagram socket has nothing to flush
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	t := &transfer{conn: conn, block: r.blockSize, window: max(1, r.window), timeout: l.config.Timeout}
	if r.timeout != 0 {
		t.timeout = time.Duration(r.timeout) * time.Second
	}
	if t.block == 0 {
		t.block = defaultBlock
	}
	if t.window > 1 && t.block >= defaultBlock { // or OACK and ERROR would be cut up too
		segment := func(size int) error { return setSegment(conn, size) }
		if segment(headerSize+t.block) == nil {
			t.segment = segment
		}
	}
	err = t.run(r.accepted(file.Size), file)
	return t.sent, t.repeats, err
}

// run is a transfer from the first packet to the last.
func (t *transfer) run(oack []byte, file File) error {
	if oack != nil {
		if err := t.greet(oack); err != nil {
			return err
		}
	}
	content, err := file.Open()
	if err != nil {
		_, _ = t.conn.Write(errorPacket(codeUndefined, "cannot read file"))
		return fmt.Errorf("cannot open file: %w", err)
	}
	err = t.send(content)
	if err != nil && !errors.Is(err, errAborted) && !errors.Is(err, errSilent) {
		_, _ = t.conn.Write(errorPacket(codeUndefined, "transfer failed"))
	}
	return errors.Join(err, content.Close())
}

// setSegment makes the kernel cut each datagram of conn into datagrams of size bytes; 0 ends it.
func setSegment(conn *net.UDPConn, size int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	return errors.Join(err, failed)
}
