package appliance

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"roost/appliance/api"
	"roost/appliance/trust"
	"roost/pxe"
)

// provision runs the boot server of a controller on the interface that its configuration names.
func (d *daemon) provision(ctx context.Context, control *Control, a *api.Assignment) error {
	fingerprint, err := trust.RootFingerprint(a.Root)
	if err != nil {
		return err
	}
	nic, err := bootInterface(&a.Config)
	if err != nil {
		return err
	}
	server, err := pxe.New(pxe.Config{
		Interfaces: []pxe.Interface{*nic}, Assigner: control.Assigner(), Shelf: control.Shelf(),
		Site:   pxe.Site{Name: a.Site, Controller: a.Controllers[0], CAFingerprint: string(fingerprint)},
		Leases: filepath.Join(d.root, controlDir, "leases"), Log: d.log,
	})
	if err != nil {
		return fmt.Errorf("cannot serve new machines: %w", err)
	}
	return server.Run(ctx)
}

// bootInterface derives how to serve the provisioning interface.
func bootInterface(c *api.Config) (*pxe.Interface, error) {
	out := &pxe.Interface{Mode: pxe.Proxy}
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("cannot find provisioning interface: %w", err)
	}
	for _, i := range list {
		if strings.EqualFold(i.HardwareAddr.String(), c.Provisioning) {
			out.Name = i.Name
		}
	}
	if out.Name == "" {
		return nil, fmt.Errorf("cannot find provisioning interface: no interface has the address %s", c.Provisioning)
	}
	for _, i := range c.Interfaces {
		if !strings.EqualFold(i.MAC, c.Provisioning) || len(i.Addresses) == 0 {
			continue
		}
		prefix, err := netip.ParsePrefix(i.Addresses[0])
		if err != nil {
			return nil, fmt.Errorf("cannot serve on %s: %w", out.Name, err)
		}
		out.Address = prefix.Addr()
		out.Network.Prefix = prefix.Masked()
		if i.Gateway != "" {
			if out.Network.Router, err = netip.ParseAddr(i.Gateway); err != nil {
				return nil, fmt.Errorf("cannot serve on %s: %w", out.Name, err)
			}
		}
	}
	if c.PXE != "dhcp" {
		out.Network = pxe.Network{}
		return out, nil
	}
	out.Mode = pxe.Own
	first, last, ok := strings.Cut(c.Range, "-")
	if out.Network.First, err = netip.ParseAddr(strings.TrimSpace(first)); err != nil || !ok {
		return nil, fmt.Errorf("cannot serve addresses: range %q is not FIRST-LAST", c.Range)
	}
	if out.Network.Last, err = netip.ParseAddr(strings.TrimSpace(last)); err != nil {
		return nil, fmt.Errorf("cannot serve addresses: range %q is not FIRST-LAST", c.Range)
	}
	return out, nil
}
