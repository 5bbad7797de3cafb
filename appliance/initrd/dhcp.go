package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

const (
	vendorClass   = "Roost"
	collectOffers = 4 * time.Second  // as long as firmware collects; a proxy may answer later than the server
	carrierWait   = 30 * time.Second // autonegotiation of slow switches
	askFor        = 60 * time.Second
)

// acquireLease asks on every Ethernet interface at once and returns the first lease that comes with a boot server.
func (m *machine) acquireLease() (*lease, error) {
	links, err := m.raiseLinks()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	results := make(chan *lease, len(links))
	var wg sync.WaitGroup
	for _, link := range links {
		wg.Go(func() {
			l, err := askOn(ctx, link.Attrs())
			if err == nil {
				results <- l
				cancel()
			} else if ctx.Err() == nil {
				m.con.warn("%s: %v", link.Attrs().Name, err)
			}
		})
	}
	wg.Wait()
	select {
	case l := <-results:
		return l, nil
	default:
		return nil, fmt.Errorf("cannot find a boot server: no DHCP answer of class %s on %s within %d s", vendorClass, linkNames(links), int(askFor.Seconds()))
	}
}

func linkNames(links []netlink.Link) string {
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, ", ")
}

// raiseLinks sets every Ethernet interface up and waits until at least one has a carrier, then a moment for the others.
func (m *machine) raiseLinks() ([]netlink.Link, error) {
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return nil, fmt.Errorf("cannot watch network interfaces: %v", err)
	}
	deadline := time.After(carrierWait)
	for {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("cannot list network interfaces: %v", err)
		}
		var ready []netlink.Link
		for _, l := range links {
			if !usable(l.Attrs()) {
				continue
			}
			if l.Attrs().Flags&net.FlagUp == 0 {
				if err := netlink.LinkSetUp(l); err != nil {
					m.con.warn("cannot raise %s: %v", l.Attrs().Name, err)
				}
			}
			if l.Attrs().RawFlags&0x10000 != 0 { // IFF_LOWER_UP: carrier
				ready = append(ready, l)
			}
		}
		if len(ready) > 0 {
			return ready, nil
		}
		select {
		case <-updates:
		case <-deadline:
			return nil, errors.New("cannot use the network: no interface has a link; check the cable, or this image lacks the interface's driver")
		}
	}
}

func usable(a *netlink.LinkAttrs) bool {
	return a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 && !bytes.Equal(a.HardwareAddr, make([]byte, 6))
}

// askOn runs DISCOVER, OFFER, REQUEST, ACK on one interface.
func askOn(ctx context.Context, link *netlink.LinkAttrs) (*lease, error) {
	conn, err := nclient4.NewRawUDPConn(link.Name, 68)
	if err != nil {
		return nil, fmt.Errorf("cannot open a raw socket: %v", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	x := &exchange{conn: conn, link: link}
	for wait := collectOffers; ; wait *= 2 {
		offer, boot, err := x.discover(wait)
		if err != nil {
			return nil, err
		}
		if offer == nil {
			continue // nobody offered both an address and a boot server
		}
		ack, err := x.request(offer)
		if err != nil {
			return nil, err
		}
		if ack == nil {
			continue
		}
		return newLease(link, ack, boot)
	}
}

// exchange is one client's talk on one interface.
type exchange struct {
	conn net.PacketConn
	link *netlink.LinkAttrs
}

func (x *exchange) options() []dhcpv4.Modifier {
	id := append([]byte{1}, x.link.HardwareAddr...) // as systemd-networkd with ClientIdentifier=mac
	return []dhcpv4.Modifier{
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(vendorClass)),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(id)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionBootfileName, dhcpv4.OptionClassIdentifier),
	}
}

// discover sends one DISCOVER and collects offers. It returns at once when one offer holds an address and a boot
// server; else, when the wait is over, an address offer and the boot server that a proxy named. nil, "" means none.
func (x *exchange) discover(wait time.Duration) (offer *dhcpv4.DHCPv4, boot string, err error) {
	d, err := dhcpv4.NewDiscovery(x.link.HardwareAddr, x.options()...)
	if err != nil {
		return nil, "", fmt.Errorf("cannot make a DHCP request: %v", err)
	}
	if err := x.send(d); err != nil {
		return nil, "", err
	}
	var proxy string
	err = x.receive(d.TransactionID, wait, func(p *dhcpv4.DHCPv4) bool {
		if p.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		base := bootServer(p)
		hasAddress := p.YourIPAddr != nil && !p.YourIPAddr.IsUnspecified()
		switch {
		case hasAddress && base != "":
			offer, boot = p, base
			return true
		case hasAddress && offer == nil:
			offer = p
		case base != "":
			proxy = base
		}
		return false
	})
	if boot == "" {
		boot = proxy
	}
	if err != nil || offer == nil || boot == "" {
		return nil, "", err
	}
	return offer, boot, nil
}

// bootServer returns the base URL in an answer that echoes our vendor class.
func bootServer(p *dhcpv4.DHCPv4) string {
	if p.ClassIdentifier() != vendorClass {
		return ""
	}
	base, err := parseBase(p.BootFileNameOption())
	if err != nil {
		return ""
	}
	return base
}

func (x *exchange) request(offer *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	r, err := dhcpv4.NewRequestFromOffer(offer, x.options()...)
	if err != nil {
		return nil, fmt.Errorf("cannot make a DHCP request: %v", err)
	}
	if err := x.send(r); err != nil {
		return nil, err
	}
	var ack *dhcpv4.DHCPv4
	err = x.receive(r.TransactionID, collectOffers, func(p *dhcpv4.DHCPv4) bool {
		if p.MessageType() == dhcpv4.MessageTypeAck && p.YourIPAddr != nil && !p.YourIPAddr.IsUnspecified() {
			ack = p
		}
		return ack != nil || p.MessageType() == dhcpv4.MessageTypeNak
	})
	return ack, err
}

func (x *exchange) send(p *dhcpv4.DHCPv4) error {
	_, err := x.conn.WriteTo(p.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
	if err != nil {
		return fmt.Errorf("cannot send a DHCP request: %v", err)
	}
	return nil
}

// receive gives every answer to this transaction to accept until accept returns true or the wait is over.
func (x *exchange) receive(id dhcpv4.TransactionID, wait time.Duration, accept func(*dhcpv4.DHCPv4) bool) error {
	if err := x.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return fmt.Errorf("cannot wait for DHCP answers: %v", err)
	}
	buf := make([]byte, 4096)
	for {
		n, _, err := x.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot receive DHCP answers: %v", err)
		}
		p, err := dhcpv4.FromBytes(bytes.Clone(buf[:n]))
		if err != nil || p.OpCode != dhcpv4.OpcodeBootReply || p.TransactionID != id || !bytes.Equal(p.ClientHWAddr, x.link.HardwareAddr) {
			continue // noise on the wire
		}
		if accept(p) {
			return nil
		}
	}
}

func newLease(link *netlink.LinkAttrs, ack *dhcpv4.DHCPv4, boot string) (*lease, error) {
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	l := &lease{nic: link.Name, mac: link.HardwareAddr, base: boot, address: net.IPNet{IP: ack.YourIPAddr, Mask: mask}}
	if routers := ack.Router(); len(routers) > 0 {
		l.gateway = routers[0]
	}
	return l, nil
}

// configure puts the leased address and default route on the interface.
func (l *lease) configure() error {
	link, err := netlink.LinkByName(l.nic)
	if err != nil {
		return fmt.Errorf("cannot configure %s: %v", l.nic, err)
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &l.address}); err != nil {
		return fmt.Errorf("cannot set address %s on %s: %v", l.address.String(), l.nic, err)
	}
	if l.gateway == nil {
		return nil
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: l.gateway}); err != nil {
		return fmt.Errorf("cannot set the default route over %s: %v", l.gateway, err)
	}
	return nil
}
