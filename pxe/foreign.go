package pxe

import (
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"roost/pxe/dhcp"
)

// probeWait is how long foreign servers have to answer. Those that check an address with ping first take a second or more.
const probeWait = 2 * time.Second

// probe looks for foreign DHCP servers at start and from time to time.
func (a *attendance) probe() error {
	for {
		a.look()
		select {
		case <-a.ctx.Done():
			return nil
		case <-time.After(a.config.Probe):
		}
	}
}

func (a *attendance) look() {
	log := a.config.Log.With("interface", a.iface.Name)
	iface, err := net.InterfaceByName(a.iface.Name)
	if err != nil {
		return // the watch sees it too
	}
	found, err := dhcp.Probe(a.ctx, iface, a.place.address, a.config.Ports.DHCPClient, a.config.Ports.DHCP, probeWait)
	if err != nil {
		if a.ctx.Err() == nil {
			log.Warn("cannot look for foreign DHCP servers", "error", err)
		}
		return
	}
	servers := 0
	for _, f := range found {
		if f.Offered.IsValid() {
			servers++
		}
		if a.iface.Mode != Own {
			continue
		}
		a.emit(Event{Kind: ForeignDHCP, Client: Client{Interface: a.iface.Name}, Foreign: f})
		log.Warn("a foreign DHCP server is on this network; machines may get their boot answer from it", "server", f.Server, "offers", f.Offered)
	}
	if a.iface.Mode == Proxy {
		if servers == 0 {
			log.Warn("no DHCP server answers on this network; as a proxy we give no addresses")
		}
		return
	}
	rival := dhcp.Alone
	if servers > 0 {
		rival = dhcp.Beside
		if a.iface.Foreign == Refuse {
			rival = dhcp.Yield
			log.Warn("no addresses are offered to new machines while the foreign DHCP server is there")
		}
	}
	a.rival.Store(int32(rival))
}

// neighbour returns the MAC that the kernel knows for an address on a link, nil when it knows none.
func neighbour(index int, address netip.Addr) net.HardwareAddr {
	list, err := netlink.NeighList(index, netlink.FAMILY_V4)
	if err != nil {
		return nil
	}
	for _, n := range list {
		if n.IP.Equal(address.AsSlice()) && len(n.HardwareAddr) == 6 {
			return n.HardwareAddr
		}
	}
	return nil
}
