package tftp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	pin "github.com/pin/tftp/v3"
)

// plain hands requests without windows to pin/tftp. Its server reads from us as if we were the socket; the file name in the
// request is the ticket under which the file waits.
type plain struct {
	server   *pin.Server
	requests chan packet
	closed   chan struct{}

	mu      sync.Mutex
	tickets map[string]*ticket
	next    int
}

type packet struct {
	data []byte
	from *net.UDPAddr
}

// ticket is one transfer at pin/tftp.
type ticket struct {
	file File
	sent int64
	err  error
	done chan struct{}
}

func newPlain(timeout time.Duration) *plain {
	p := &plain{requests: make(chan packet), closed: make(chan struct{}), tickets: map[string]*ticket{}}
	p.server = pin.NewServer(p.read, nil)
	p.server.SetTimeout(timeout)
	p.server.SetRetries(tries - 1)
	p.server.SetBackoff(func(int) time.Duration { return 0 })
	p.server.SetBlockSizeNegotiation(false) // the block is granted already
	return p
}

// run serves until stop. pin/tftp returns only when it is shut down.
func (p *plain) run() { _ = p.server.Serve(p) }

// stop waits for transfers that are under way; each ends within its timeouts.
func (p *plain) stop() { p.server.Shutdown() }

// reaches reports whether a socket that is bound to no address sends to peer from own, as pin/tftp's will.
func (p *plain) reaches(own netip.Addr, peer netip.AddrPort) bool {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(peer))
	if err != nil {
		return false
	}
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	return conn.Close() == nil && local == own
}

// send carries out a transfer and returns how many bytes pin/tftp got rid of.
func (p *plain) send(peer netip.AddrPort, r request, file File) (int64, error) {
	t := &ticket{file: file, done: make(chan struct{})}
	p.mu.Lock()
	p.next++
	name := fmt.Sprintf("%d", p.next)
	p.tickets[name] = t
	p.mu.Unlock()
	select {
	case p.requests <- packet{r.packet(name), net.UDPAddrFromAddrPort(peer)}:
	case <-p.closed:
		return 0, net.ErrClosed
	}
	select {
	case <-t.done:
	case <-p.closed:
		return 0, net.ErrClosed
	}
	return t.sent, t.err
}

// read is pin/tftp's handler.
func (p *plain) read(name string, to io.ReaderFrom) error {
	p.mu.Lock()
	t := p.tickets[name]
	delete(p.tickets, name)
	p.mu.Unlock()
	if t == nil {
		return ErrNotFound
	}
	defer close(t.done)
	if sizer, ok := to.(pin.OutgoingTransfer); ok {
		sizer.SetSize(t.file.Size)
	}
	content := &lazy{open: t.file.Open}
	n, err := to.ReadFrom(content)
	t.sent = n
	if err != nil && strings.Contains(err.Error(), "code=") { // pin/tftp's only sign of the client's ERROR packet
		err = fmt.Errorf("%w: %s", errAborted, err)
		if !content.opened() {
			t.sent = 0
		}
	}
	t.err = errors.Join(err, content.close())
	return err
}

// lazy opens a file at its first read, which is after the client has acknowledged the options.
type lazy struct {
	open func() (io.ReadSeekCloser, error)
	file io.ReadSeekCloser
}

func (l *lazy) opened() bool { return l.file != nil }

func (l *lazy) Read(b []byte) (int, error) {
	if l.file == nil {
		file, err := l.open()
		if err != nil {
			return 0, fmt.Errorf("cannot open file: %w", err)
		}
		l.file = file
	}
	return l.file.Read(b)
}

func (l *lazy) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// ReadFrom gives pin/tftp the next request, as net.PacketConn.
func (p *plain) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case next := <-p.requests:
		return copy(b, next.data), next.from, nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

// Close ends ReadFrom, as net.PacketConn.
func (p *plain) Close() error {
	close(p.closed)
	return nil
}

// The rest of net.PacketConn. pin/tftp answers from sockets of its own.

func (p *plain) WriteTo([]byte, net.Addr) (int, error) { return 0, os.ErrInvalid }
func (p *plain) LocalAddr() net.Addr                   { return &net.UDPAddr{IP: net.IPv4zero, Port: Port} }
func (p *plain) SetDeadline(time.Time) error           { return nil }
func (p *plain) SetReadDeadline(time.Time) error       { return nil }
func (p *plain) SetWriteDeadline(time.Time) error      { return nil }
