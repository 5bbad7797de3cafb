package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"golang.org/x/sync/errgroup"

	"roost/appliance/trust"
	"roost/images"
	"roost/images/depot"
	"roost/pxe"
)

// BootServer is a boot server on an operator's machine. With a seed it also takes the report of a site's first controller
// and admits it; without, it only serves a release.
type BootServer struct {
	PXE     pxe.Config    // Interfaces, Leases, Ports and OnEvent are taken from it
	Depot   string        // OCI layout directory
	Release images.Digest // every machine gets it
	Seed    *SeedConfig   // Depot, Release and Address are filled in
	Log     *slog.Logger
}

// Run serves until ctx ends.
func (b *BootServer) Run(ctx context.Context) error {
	if b.Seed == nil {
		d, err := depot.Open(ctx, "oci:"+b.Depot, depot.Options{})
		if err != nil {
			return err
		}
		defer d.Close()
		return b.serve(ctx, pxe.Everyone(b.Release), newShelf(d, b.Depot, nil))
	}
	address, err := ownAddress(b.PXE.Interfaces)
	if err != nil {
		return err
	}
	seed := *b.Seed
	seed.Depot, seed.Release, seed.Log = b.Depot, b.Release, b.Log
	seed.Address = net.JoinHostPort(address.String(), apiPort)
	fingerprint, err := trust.RootFingerprint(seed.Site.Root)
	if err != nil {
		return err
	}
	b.PXE.Site = pxe.Site{Name: seed.Site.Name, Controller: "https://" + seed.Address, CAFingerprint: string(fingerprint)}
	control, err := OpenSeed(ctx, seed)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", seed.Address)
	if err != nil {
		control.Close()
		return fmt.Errorf("cannot serve API: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return control.Run(ctx, listener) })
	group.Go(func() error { return b.serve(ctx, control.Assigner(), control.Shelf()) })
	return group.Wait()
}

func (b *BootServer) serve(ctx context.Context, assigner pxe.Assigner, shelf pxe.Shelf) error {
	config := b.PXE
	config.Assigner, config.Shelf, config.Log = assigner, shelf, b.Log
	server, err := pxe.New(config)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// ownAddress is the address at which machines on the first interface reach this computer.
func ownAddress(interfaces []pxe.Interface) (net.IP, error) {
	for _, i := range interfaces {
		if i.Address.IsValid() {
			return i.Address.AsSlice(), nil
		}
		link, err := net.InterfaceByName(i.Name)
		if err != nil {
			return nil, fmt.Errorf("cannot serve on %s: %w", strconv.Quote(i.Name), err)
		}
		addresses, err := link.Addrs()
		if err != nil {
			return nil, fmt.Errorf("cannot serve on %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				return n.IP, nil
			}
		}
	}
	return nil, fmt.Errorf("cannot serve: no interface with an IPv4 address was given")
}
