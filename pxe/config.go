package pxe

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"roost/pxe/dhcp"
	"roost/pxe/lease"
)

// Mode is how the server takes part in an interface's DHCP. TFTP and HTTP are served in every mode.
type Mode = dhcp.Mode

// Modes.
const (
	Off   = dhcp.Off   // another DHCP server names ours in its boot options
	Own   = dhcp.Own   // addresses and boot answers are ours
	Proxy = dhcp.Proxy // boot answers beside a foreign DHCP server, which keeps the addresses
)

// Config says what a server serves.
type Config struct {
	Interfaces []Interface
	Assigner   Assigner
	Shelf      Shelf
	Site       Site

	Leases    string        // directory of the lease log, for this server alone; "" = leases are forgotten at exit
	Lease     time.Duration // of machines in service; 0 = 10 min
	BootLease time.Duration // of firmware and initrd, which do not renew: longer than their downloads take; 0 = 5 min

	IPXE      []byte // undionly.kpxe, for BIOS machines; nil = they are refused
	Ports     Ports
	Transfers int           // TFTP transfers at one time, in all; 0 = 1024
	PerHost   int           // HTTP requests of one host at one time; 0 = 8. TFTP has half of it
	Probe     time.Duration // between two looks for foreign DHCP servers; 0 = 5 min

	OnEvent func(Event)  // called for each step of each boot, in order, from one goroutine; nil = nobody listens
	Log     *slog.Logger // nil = discard
}

// Interface is one network interface to serve.
type Interface struct {
	Name    string
	Mode    Mode
	Address netip.Addr    // ours on it; zero = its first IPv4 address
	Network Network       // of Own: the network on the wire
	Relayed []Network     // of Own: networks behind relay agents, each with its Prefix
	Foreign ForeignPolicy // of Own: what to do about a foreign DHCP server
}

// ForeignPolicy is what an own network does when a foreign DHCP server is on it.
type ForeignPolicy string

// Policies. Both report it.
const (
	Warn   ForeignPolicy = ""       // go on, but refuse no address that the foreign server may have given
	Refuse ForeignPolicy = "refuse" // offer nothing to machines we do not know, until it is gone
)

// Network is a block of addresses and what its machines are told.
type Network struct {
	Prefix       netip.Prefix          // zero = that of the interface's address
	First, Last  netip.Addr            // addresses to give out, inclusive
	Reservations map[string]netip.Addr // fixed addresses by MAC ("52:54:00:12:34:56"), inside the block or outside
	Router       netip.Addr
	DNS, NTP     []netip.Addr
	Domain       string
}

// Ports lets tests run without privileges. Zero values are the standard ports.
type Ports struct {
	DHCP, DHCPClient, BINL, TFTP, HTTP uint16
}

// HTTPPort is where machines find the boot server's HTTP.
const HTTPPort = 8069

// Site is what /v1/site tells the initrd: where the control plane is.
type Site struct {
	Name          string `json:"name"`
	Controller    string `json:"controller"`    // URL
	CAFingerprint string `json:"caFingerprint"` // sha256:<hex> of the site root CA certificate in DER
}

func (c *Config) fill() {
	for _, d := range []struct {
		field *uint16
		value uint16
	}{
		{&c.Ports.DHCP, dhcp.ServerPort}, {&c.Ports.DHCPClient, dhcp.ClientPort}, {&c.Ports.BINL, dhcp.BINLPort},
		{&c.Ports.TFTP, 69}, {&c.Ports.HTTP, HTTPPort},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.PerHost == 0 {
		c.PerHost = 8
	}
	if c.Probe == 0 {
		c.Probe = 5 * time.Minute
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// check finds what would only show when the first machine asks.
func (c *Config) check() error {
	if c.Assigner == nil || c.Shelf == nil {
		return errors.New("cannot serve without Assigner and Shelf")
	}
	if len(c.Interfaces) == 0 {
		return errors.New("cannot serve: no interface is named")
	}
	seen := map[string]bool{}
	var taken []Network
	for _, i := range c.Interfaces {
		if seen[i.Name] || i.Name == "" {
			return fmt.Errorf("cannot serve interface %q: its name is empty or there twice", i.Name)
		}
		seen[i.Name] = true
		switch {
		case i.Mode != Own && i.Mode != Proxy && i.Mode != Off:
			return fmt.Errorf("cannot serve %s: mode %q is not own, proxy or off", i.Name, i.Mode)
		case i.Foreign != Warn && i.Foreign != Refuse:
			return fmt.Errorf("cannot serve %s: policy %q for foreign servers is not known", i.Name, i.Foreign)
		case i.Address.IsValid() && !i.Address.Is4():
			return fmt.Errorf("cannot serve %s: %s is not an IPv4 address", i.Name, i.Address)
		case i.Mode != Own:
			continue
		}
		for n, network := range append([]Network{i.Network}, i.Relayed...) {
			if err := network.check(n > 0); err != nil {
				return fmt.Errorf("cannot serve %s: %w", i.Name, err)
			}
			for _, other := range taken {
				if network.overlaps(&other) {
					return fmt.Errorf("cannot serve %s: addresses %s to %s are given out twice", i.Name, network.First, network.Last)
				}
			}
			taken = append(taken, network)
		}
	}
	return nil
}

func (n *Network) overlaps(other *Network) bool {
	return n.First.IsValid() && other.First.IsValid() && n.First.Compare(other.Last) <= 0 && other.First.Compare(n.Last) <= 0
}

func (n *Network) check(relayed bool) error {
	if !n.First.IsValid() && len(n.Reservations) == 0 {
		return errors.New("a network of our own needs a range of addresses or reservations")
	}
	if relayed && !n.Prefix.IsValid() {
		return errors.New("a network behind a relay needs its prefix")
	}
	if !n.Prefix.IsValid() {
		return nil
	}
	for _, a := range []netip.Addr{n.First, n.Last} {
		if a.IsValid() && !n.Prefix.Contains(a) {
			return fmt.Errorf("%s is not in %s", a, n.Prefix)
		}
	}
	return nil
}

// ranges returns what the lease store gives out: the networks of all own interfaces in order.
func (c *Config) ranges() ([]lease.Range, error) {
	var all []lease.Range
	for _, i := range c.Interfaces {
		if i.Mode != Own {
			continue
		}
		for _, n := range append([]Network{i.Network}, i.Relayed...) {
			r := lease.Range{First: n.First, Last: n.Last, Reserved: map[lease.Key]netip.Addr{}}
			for text, address := range n.Reservations {
				mac, err := net.ParseMAC(text)
				if err != nil || len(mac) != 6 {
					return nil, fmt.Errorf("cannot reserve %s: %q is not an Ethernet address", address, text)
				}
				r.Reserved[lease.Key(mac)] = address
			}
			all = append(all, r)
		}
	}
	return all, nil
}
