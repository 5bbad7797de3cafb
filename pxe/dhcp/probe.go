package dhcp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Foreign is a DHCP server that is not ours.
type Foreign struct {
	Server  netip.Addr // its identifier (option 54), else the address it sent from
	Offered netip.Addr // the address it offered; zero for a proxy, which gives none
}

// probeClient is the client identifier of the probes of the server at own: for foreign servers' logs, and for our own engine to
// pass over.
func probeClient(own netip.Addr) string { return "\x00roost-probe-" + own.String() }

// Probe asks on an interface as a PXE client would and returns who answered within wait, our own address left out. It takes no address: the offers
// are left to expire. client is the port to listen on (68), server the port to ask (67).
func Probe(ctx context.Context, iface *net.Interface, own netip.Addr, client, server uint16, wait time.Duration) ([]Foreign, error) {
	conn, err := Listen(ctx, iface.Name, client, true)
	if err != nil {
		return nil, fmt.Errorf("cannot probe for DHCP servers: %w", err)
	}
	defer conn.Close() // nothing was written that could be lost
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	discover, err := probeDiscover(iface, own)
	if err != nil {
		return nil, err
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(broadcast, server))
	if _, err := conn.WriteToUDP(discover.ToBytes(), to); err != nil {
		return nil, fmt.Errorf("cannot probe for DHCP servers on %s: %w", iface.Name, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, fmt.Errorf("cannot probe for DHCP servers on %s: %w", iface.Name, err)
	}
	found := map[netip.Addr]Foreign{}
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot probe for DHCP servers on %s: %w", iface.Name, err)
		}
		if f, ok := offerOf(buffer[:n], discover.TransactionID, from.Addr().Unmap()); ok && f.Server != own {
			found[f.Server] = f
		}
	}
	var all []Foreign
	for _, f := range found {
		all = append(all, f)
	}
	return all, ctx.Err()
}

func probeDiscover(iface *net.Interface, own netip.Addr) (*dhcpv4.DHCPv4, error) {
	hardware := iface.HardwareAddr
	if len(hardware) != 6 {
		hardware = make(net.HardwareAddr, 6)
		_, _ = rand.Read(hardware) // never fails, see its documentation
		hardware[0] = hardware[0]&^1 | 2
	}
	discover, err := dhcpv4.NewDiscovery(hardware,
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte(probeClient(own)))),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_X86_64)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, make([]byte, 17))))
	if err != nil {
		return nil, fmt.Errorf("cannot make a DHCP probe: %w", err)
	}
	return discover, nil
}

// offerOf reads an answer to our probe.
func offerOf(packet []byte, transaction dhcpv4.TransactionID, from netip.Addr) (Foreign, bool) {
	offer, err := dhcpv4.FromBytes(packet)
	if err != nil || offer.TransactionID != transaction || offer.MessageType() != dhcpv4.MessageTypeOffer {
		return Foreign{}, false
	}
	f := Foreign{Server: from}
	if id, ok := netip.AddrFromSlice(offer.ServerIdentifier().To4()); ok {
		f.Server = id
	}
	if offered, ok := netip.AddrFromSlice(offer.YourIPAddr.To4()); ok && !offered.IsUnspecified() {
		f.Offered = offered
	}
	return f, true
}
