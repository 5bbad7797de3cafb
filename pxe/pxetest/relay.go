package pxetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Relay carries DHCP between machines and a server.
type Relay struct {
	conn   *net.UDPConn
	server netip.AddrPort

	mu      sync.Mutex
	waiting map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4
}

// NewRelay opens a relay at address, on a port of its own, to the DHCP server at server. Close ends it.
func NewRelay(address netip.Addr, server netip.AddrPort) (*Relay, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
	if err != nil {
		return nil, fmt.Errorf("cannot open relay: %w", err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	r := &Relay{conn: conn, server: server, waiting: map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4{}}
	go r.read()
	return r, nil
}

// Close ends the relay.
func (r *Relay) Close() error { return r.conn.Close() }

func (r *Relay) read() {
	buffer := make([]byte, 1500)
	for {
		n, _, err := r.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		p, err := dhcpv4.FromBytes(append([]byte(nil), buffer[:max(n, 0)]...))
		if err != nil {
			continue
		}
		r.mu.Lock()
		waiting := r.waiting[p.TransactionID]
		r.mu.Unlock()
		select {
		case waiting <- p:
		default:
		}
	}
}

// exchange sends p until it is answered, tries times, wait apart and doubling, as firmware does. It returns nil when nobody answers.
func (r *Relay) exchange(ctx context.Context, p *dhcpv4.DHCPv4, wait time.Duration, tries int) (*dhcpv4.DHCPv4, error) {
	p.GatewayIPAddr = r.conn.LocalAddr().(*net.UDPAddr).IP
	p.UpdateOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(1), []byte("loopback")), dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(19), nil)))
	answer := make(chan *dhcpv4.DHCPv4, 1)
	r.mu.Lock()
	r.waiting[p.TransactionID] = answer
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, p.TransactionID)
		r.mu.Unlock()
	}()
	for range tries {
		if _, err := r.conn.WriteToUDPAddrPort(p.ToBytes(), r.server); err != nil {
			return nil, fmt.Errorf("cannot relay: %w", err)
		}
		select {
		case got := <-answer:
			return got, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
			wait *= 2
		}
	}
	return nil, nil
}
