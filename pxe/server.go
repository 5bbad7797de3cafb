package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/images/durable"
	"roost/pxe/dhcp"
	"roost/pxe/lease"
)

// Server is the boot server.
type Server struct {
	config Config
	leases *lease.Store
	roster *roster
	events chan Event
	lost   atomic.Int64
	doors  doors // of HTTP, see there
}

// New checks config and reads the lease log. Run must be called once to serve and to close the log.
func New(config Config) (*Server, error) {
	config.fill()
	if err := config.check(); err != nil {
		return nil, err
	}
	ranges, err := config.ranges()
	if err != nil {
		return nil, err
	}
	var medium durable.Medium
	if config.Leases != "" {
		if medium, err = durable.Disk(config.Leases, 0o644); err != nil {
			return nil, err
		}
	}
	leases, err := lease.Open(lease.Config{Ranges: ranges, Medium: medium, Log: config.Log})
	if err != nil {
		return nil, err
	}
	return &Server{config: config, leases: leases, roster: newRoster(), events: make(chan Event, 4096), doors: doors{limit: config.PerHost}}, nil
}

// Leases returns the addresses in use.
func (s *Server) Leases() []lease.Lease { return s.leases.Leases(time.Now()) }

// Run serves until ctx ends, then it breaks off transfers, writes what is pending and returns nil. It returns early with an error
// when a port is taken or forbidden; an interface that is missing, down or without address is waited for.
func (s *Server) Run(ctx context.Context) error {
	var told, written sync.WaitGroup
	talk, hush := context.WithCancel(context.WithoutCancel(ctx))
	told.Go(func() { s.tell(talk) })
	logCtx, closeLog := context.WithCancel(context.WithoutCancel(ctx))
	var logErr error
	written.Go(func() { logErr = s.leases.Run(logCtx) })
	group, ctx := errgroup.WithContext(ctx)
	first := 0
	for _, iface := range s.config.Interfaces {
		at := first
		group.Go(func() error { return s.attend(ctx, iface, at) })
		if iface.Mode == Own {
			first += 1 + len(iface.Relayed)
		}
	}
	err := group.Wait()
	closeLog()
	written.Wait()
	hush()
	told.Wait()
	return errors.Join(err, logErr)
}

// Pace of the watch over an interface: a change is served again within two seconds.
const (
	watchEvery = 400 * time.Millisecond
	retryAfter = 200 * time.Millisecond
)

// attend serves one interface for as long as ctx lasts, whatever happens to it. first is the index of its first range.
func (s *Server) attend(ctx context.Context, iface Interface, first int) error {
	log := s.config.Log.With("interface", iface.Name)
	complaint := ""
	for begun := false; ctx.Err() == nil; {
		place, err := locate(iface)
		if err == nil {
			complaint = ""
			err = s.serve(ctx, iface, place, first)
			if err != nil && !begun && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)) {
				return err
			}
			begun = true
		}
		if err != nil && ctx.Err() == nil && err.Error() != complaint {
			complaint = err.Error()
			log.Warn("interface is not served for now", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return nil
}

// place is where an interface is in the system. Sockets are made for one place.
type place struct {
	index   int
	address netip.Addr
	prefix  netip.Prefix
}

// locate finds an interface and our address on it.
func locate(iface Interface) (place, error) {
	found, err := net.InterfaceByName(iface.Name)
	if err != nil {
		return place{}, fmt.Errorf("cannot find interface %s: %w", iface.Name, err)
	}
	addresses, err := found.Addrs()
	if err != nil {
		return place{}, fmt.Errorf("cannot read addresses of %s: %w", iface.Name, err)
	}
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().Is4() || (iface.Address.IsValid() && prefix.Addr() != iface.Address) {
			continue
		}
		return place{found.Index, prefix.Addr(), prefix.Masked()}, nil
	}
	if iface.Address.IsValid() {
		return place{}, fmt.Errorf("cannot serve %s: it does not have address %s", iface.Name, iface.Address)
	}
	return place{}, fmt.Errorf("cannot serve %s: it has no IPv4 address", iface.Name)
}

// attendance is the service on one interface at one place.
type attendance struct {
	*Server
	ctx   context.Context // of the service; the DHCP engine's callbacks have no other
	iface Interface
	place place
	rival atomic.Int32 // dhcp.Rivalry
}

// errMoved ends a service whose interface is not where it was.
var errMoved = errors.New("interface has changed")

// serve opens the sockets of an interface and answers until ctx ends or the interface changes.
func (s *Server) serve(ctx context.Context, iface Interface, at place, first int) error {
	group, ctx := errgroup.WithContext(ctx)
	a := &attendance{Server: s, ctx: ctx, iface: iface, place: at}
	open := []func() error{
		func() error { return a.openHTTP(group) },
		func() error { return a.openTFTP(group) },
	}
	if iface.Mode != Off {
		open = append(open, func() error { return a.openDHCP(group, first) })
	}
	for _, f := range open {
		if err := f(); err != nil {
			group.Go(func() error { return err }) // ends those that are open already
			return group.Wait()
		}
	}
	group.Go(a.watch)
	s.config.Log.Info("serving", "interface", iface.Name, "mode", iface.Mode, "address", at.address, "http", a.base())
	err := group.Wait()
	if errors.Is(err, errMoved) {
		s.config.Log.Info("interface has changed, opening it again", "interface", iface.Name)
		return nil
	}
	return err
}

// watch returns errMoved when the interface is elsewhere.
func (a *attendance) watch() error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return nil
		case <-tick.C:
			if now, err := locate(a.iface); err != nil || now != a.place {
				return errMoved
			}
		}
	}
}

func (a *attendance) openDHCP(group *errgroup.Group, first int) error {
	config := dhcp.Config{
		Interface: a.iface.Name, Mode: a.iface.Mode, Server: a.place.address, Leases: a.leases,
		Lease: a.config.Lease, BootLease: a.config.BootLease, Client: a.config.Ports.DHCPClient, Relay: a.config.Ports.DHCP,
		Decide: a.boot, Observe: a.observe, Rival: func() dhcp.Rivalry { return dhcp.Rivalry(a.rival.Load()) }, Log: a.config.Log,
	}
	if a.iface.Mode == Own {
		for n, network := range append([]Network{a.iface.Network}, a.iface.Relayed...) {
			prefix := network.Prefix
			if !prefix.IsValid() {
				prefix = a.place.prefix
			}
			if n == 0 && !prefix.Contains(a.place.address) {
				return fmt.Errorf("cannot serve network %s on %s: its address there is %s", prefix, a.iface.Name, a.place.address)
			}
			for _, end := range []netip.Addr{network.First, network.Last} {
				if end.IsValid() && !prefix.Contains(end) {
					return fmt.Errorf("cannot give out %s on %s: it is not in %s", end, a.iface.Name, prefix)
				}
			}
			config.Subnets = append(config.Subnets, dhcp.Subnet{Prefix: prefix, Range: first + n, Router: network.Router,
				DNS: network.DNS, NTP: network.NTP, Domain: network.Domain})
		}
	}
	if a.iface.Foreign == Refuse {
		a.rival.Store(int32(dhcp.Yield)) // until the first probe has found nobody
	}
	engine := dhcp.New(config)
	for _, port := range []uint16{a.config.Ports.DHCP, a.config.Ports.BINL} {
		conn, err := dhcp.Listen(a.ctx, a.iface.Name, port, a.iface.Mode == Proxy)
		if err != nil {
			return err
		}
		server := &dhcp.Server{Engine: engine, Source: a.place.address, BINL: port == a.config.Ports.BINL, Log: a.config.Log}
		group.Go(func() error { return server.Serve(a.ctx, conn) })
	}
	group.Go(a.probe)
	return nil
}

// observe is where the DHCP engine reports.
func (a *attendance) observe(step dhcp.Step, c Client, reason string) {
	a.roster.saw(time.Now(), step, c)
	a.emit(Event{Kind: kindOf(step), Client: a.roster.complete(c), Reason: reason})
	if step == dhcp.Exhausted {
		a.config.Log.Warn("no address is left", "interface", c.Interface, "mac", c.MAC)
	}
}

// identify says who is behind a source address of TFTP or HTTP.
func (a *attendance) identify(address netip.Addr) (Client, bool) {
	now := time.Now()
	switch a.iface.Mode {
	case Own:
		held, ok := a.leases.Holder(now, address)
		if !ok {
			return Client{}, false
		}
		if c, ok := a.roster.with(now, net.HardwareAddr(held.Key)); ok {
			c.Address = address
			return c, true
		}
		return Client{Interface: a.iface.Name, MAC: net.HardwareAddr(held.Key), Address: address}, true
	case Proxy:
		if c, ok := a.roster.at(now, address); ok {
			return c, true
		}
		c, ok := a.roster.with(now, neighbour(a.place.index, address))
		c.Address = address
		return c, ok
	}
	c := Client{Interface: a.iface.Name, MAC: neighbour(a.place.index, address), Address: address}
	return c, a.place.prefix.Contains(address)
}

// base is the URL of the HTTP server.
func (a *attendance) base() string {
	return fmt.Sprintf("http://%s", netip.AddrPortFrom(a.place.address, a.config.Ports.HTTP))
}
