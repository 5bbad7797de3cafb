package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Listen opens a UDP socket for an interface. It hears and sends on that interface only, whatever its addresses are. Unless shared, it
// fails when another program has the port on that interface: two DHCP servers on one port would both hear every broadcast
// and nobody would notice. A proxy on the machine of the foreign server must share.
func Listen(ctx context.Context, iface string, port uint16, shared bool) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, iface)
			if failed == nil && shared {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
			// A boot storm arrives faster than one core reads. Without the right to exceed the system's limit the default stays.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		})
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s port %d: %w", iface, port, err)
	}
	return conn.(*net.UDPConn), nil
}

// Server moves datagrams between a socket and an engine.
type Server struct {
	Engine *Engine
	Source netip.Addr // source address of what is sent
	BINL   bool       // the socket is the one of port 4011
	Log    *slog.Logger
}

// batch is how many datagrams one system call moves.
const batch = 64

// Serve answers what comes in on conn until ctx ends, then it returns nil. It returns an error when the socket does not work any more. It
// closes conn.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	outbox := make(chan Reply, 1024)
	ctx, cancel := context.WithCancel(ctx)
	var writer sync.WaitGroup
	writer.Go(func() { s.write(ctx, ipv4.NewPacketConn(conn), outbox) })
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := s.read(ipv4.NewPacketConn(conn), outbox)
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		err = nil
	}
	cancel()
	writer.Wait()
	if stop() {
		err = errors.Join(err, conn.Close())
	}
	return err
}

func (s *Server) read(conn *ipv4.PacketConn, outbox chan<- Reply) error {
	messages := make([]ipv4.Message, batch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, 1500)}
	}
	send := func(r Reply) {
		select {
		case outbox <- r:
		default: // the client asks again; waiting would only make the queue of the kernel overflow instead
		}
	}
	for {
		n, err := conn.ReadBatch(messages, 0)
		if err != nil {
			if errors.Is(err, syscall.ENETDOWN) || errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			return fmt.Errorf("cannot receive: %w", err)
		}
		now := time.Now()
		for i := range messages[:n] {
			from, _ := messages[i].Addr.(*net.UDPAddr)
			if from == nil {
				continue
			}
			at := from.AddrPort()
			at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
			if err := s.Engine.Answer(now, messages[i].Buffers[0][:messages[i].N], at, s.BINL, send); err != nil {
				s.Log.Debug("dropped a DHCP packet", "from", at, "error", err)
			}
		}
	}
}

func (s *Server) write(ctx context.Context, conn *ipv4.PacketConn, outbox <-chan Reply) {
	control := (&ipv4.ControlMessage{Src: s.Source.AsSlice()}).Marshal()
	messages := make([]ipv4.Message, 0, batch)
	for {
		messages = messages[:0]
		select {
		case <-ctx.Done():
			return
		case r := <-outbox:
			messages = append(messages, message4(r, control))
		}
	drain:
		for len(messages) < batch {
			select {
			case r := <-outbox:
				messages = append(messages, message4(r, control))
			default:
				break drain
			}
		}
		s.flush(conn, messages)
	}
}

func message4(r Reply, control []byte) ipv4.Message {
	return ipv4.Message{Buffers: [][]byte{r.Payload}, OOB: control, Addr: net.UDPAddrFromAddrPort(r.To)}
}

// flush sends messages. One that cannot be sent (no route, link down) does not hold up those behind it.
func (s *Server) flush(conn *ipv4.PacketConn, messages []ipv4.Message) {
	for len(messages) > 0 {
		n, err := conn.WriteBatch(messages, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			n = max(n, 0)
			s.Log.Warn("cannot send a DHCP answer", "to", messages[n].Addr, "error", err)
			n++
		}
		messages = messages[n:]
	}
}
