package openstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/services"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/external"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/provider"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"roost/appliance/api"
)

func (b *bringUp) hasWishes(ctx context.Context) error { return b.wishes(ctx, false) }

func (b *bringUp) makeWishes(ctx context.Context) error { return b.wishes(ctx, true) }

// wishes walks what the site document wants in the cloud.
func (b *bringUp) wishes(ctx context.Context, act bool) error {
	c, err := b.reach(ctx, act)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(b.wish.Projects)) {
		if err := c.tenant(ctx, name, b.wish.Projects[name]); err != nil {
			return err
		}
	}
	if err := c.flavors(ctx); err != nil {
		return err
	}
	if err := c.networks(ctx); err != nil {
		return err
	}
	return c.images(ctx)
}

// novaWorks asks nova whether its services speak up, which they do in turn.
func (b *bringUp) novaWorks(ctx context.Context) error {
	c, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	return c.hears(ctx, "nova-conductor", "nova-scheduler")
}

// hears asks nova whether services of some names speak up.
func (c *cloud) hears(ctx context.Context, names ...string) error {
	page, err := services.List(c.service("compute"), nil).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask nova for its services: %w", err)
	}
	list, err := services.ExtractServices(page)
	if err != nil {
		return fmt.Errorf("cannot ask nova for its services: %w", err)
	}
	for _, name := range names {
		if !slices.ContainsFunc(list, func(s services.Service) bool { return s.Binary == name && s.State == "up" }) {
			return fmt.Errorf("nova does not hear of %s yet", name)
		}
	}
	return nil
}

// flavors sees to the sizes of machines. Flavors cannot be changed: one of another size is replaced, which machines that were
// made of it do not notice.
func (c *cloud) flavors(ctx context.Context) error {
	compute := c.service("compute")
	page, err := flavors.ListDetail(compute, flavors.ListOpts{AccessType: flavors.AllAccess}).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot read flavors: %w", err)
	}
	list, err := flavors.ExtractFlavors(page)
	if err != nil {
		return fmt.Errorf("cannot read flavors: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.plan.wish.Flavors)) {
		f := c.plan.wish.Flavors[name]
		i := slices.IndexFunc(list, func(have flavors.Flavor) bool { return have.Name == name })
		if i >= 0 && list[i].VCPUs == f.CPUs && list[i].RAM == f.Memory && list[i].Disk == f.Disk {
			continue
		}
		err := c.lacks("flavor "+name, func() error {
			if i >= 0 {
				if err := flavors.Delete(ctx, compute, list[i].ID).ExtractErr(); err != nil {
					return err
				}
			}
			return flavors.Create(ctx, compute, flavors.CreateOpts{Name: name, VCPUs: f.CPUs, RAM: f.Memory, Disk: &f.Disk}).Err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// networks sees to networks and to the one subnet of each. What kind of network it is cannot be changed later.
func (c *cloud) networks(ctx context.Context) error {
	client := c.service("network")
	page, err := networks.List(client, networks.ListOpts{}).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot read networks: %w", err)
	}
	list, err := networks.ExtractNetworks(page)
	if err != nil {
		return fmt.Errorf("cannot read networks: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.plan.wish.Networks)) {
		wish, id := c.plan.wish.Networks[name], ""
		for _, n := range list {
			if n.Name == name && n.Shared {
				id = n.ID
			}
		}
		if id == "" {
			err := c.lacks("network "+name, func() error {
				made, err := networks.Create(ctx, client, networkOpts(name, wish)).Extract()
				if err == nil {
					id = made.ID
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		if err := c.subnet(ctx, client, id, name, wish); err != nil {
			return err
		}
	}
	return nil
}

func networkOpts(name string, n api.CloudNetwork) networks.CreateOptsBuilder {
	yes := true
	var opts networks.CreateOptsBuilder = networks.CreateOpts{Name: name, AdminStateUp: &yes, Shared: &yes}
	if n.Physical != "" {
		segment := provider.Segment{NetworkType: "flat", PhysicalNetwork: n.Physical}
		if n.VLAN > 0 {
			segment.NetworkType, segment.SegmentationID = "vlan", n.VLAN
		}
		opts = provider.CreateOptsExt{CreateOptsBuilder: opts, Segments: []provider.Segment{segment}}
	}
	if n.External {
		opts = external.CreateOptsExt{CreateOptsBuilder: opts, External: &yes}
	}
	return opts
}

func (c *cloud) subnet(ctx context.Context, client *gophercloud.ServiceClient, network, name string, wish api.CloudNetwork) error {
	page, err := subnets.List(client, subnets.ListOpts{NetworkID: network, CIDR: wish.Subnet}).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot read subnets of %s: %w", name, err)
	}
	list, err := subnets.ExtractSubnets(page)
	if err != nil {
		return fmt.Errorf("cannot read subnets of %s: %w", name, err)
	}
	var gateway *string
	if wish.Gateway != "" {
		gateway = &wish.Gateway
	}
	names := append([]string{}, wish.DNS...)
	if len(list) == 0 {
		return c.lacks("subnet of network "+name, func() error {
			version := gophercloud.IPv6
			if netip.MustParsePrefix(wish.Subnet).Addr().Is4() { // the wish was checked
				version = gophercloud.IPv4
			}
			return subnets.Create(ctx, client, subnets.CreateOpts{NetworkID: network, Name: name, CIDR: wish.Subnet, IPVersion: version, GatewayIP: gateway, DNSNameservers: names}).Err
		})
	}
	have := list[0]
	if slices.Equal(have.DNSNameservers, names) && (gateway == nil || have.GatewayIP == *gateway) {
		return nil
	}
	return c.lacks("subnet of network "+name, func() error {
		return subnets.Update(ctx, client, have.ID, subnets.UpdateOpts{DNSNameservers: &names, GatewayIP: gateway}).Err
	})
}

// sumProperty is the property of an image in glance that says of which file it was made.
const sumProperty = "roost_sha256"

// images sees to images, each made of one file. Of another file, it is made anew before the old one is let go; machines that
// were made of that keep their disks.
func (c *cloud) images(ctx context.Context) error {
	client := c.service("image")
	for _, name := range slices.Sorted(maps.Keys(c.plan.wish.Images)) {
		wish := c.plan.wish.Images[name]
		page, err := images.List(client, images.ListOpts{Name: name, Visibility: images.ImageVisibilityPublic}).AllPages(ctx)
		if err != nil {
			return fmt.Errorf("cannot read images: %w", err)
		}
		list, err := images.ExtractImages(page)
		if err != nil {
			return fmt.Errorf("cannot read images: %w", err)
		}
		have := func(i images.Image) bool {
			sum, _ := i.Properties[sumProperty].(string)
			return i.Status == images.ImageStatusActive && strings.EqualFold(sum, wish.SHA256)
		}
		if slices.ContainsFunc(list, have) {
			continue
		}
		err = c.lacks("image "+name, func() error {
			if err := c.upload(ctx, client, name, wish.URL, wish.SHA256, wish.Format); err != nil {
				return err
			}
			for _, old := range list {
				if old.Properties[sumProperty] != nil { // made here, not by people
					if err := images.Delete(ctx, client, old.ID).ExtractErr(); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// upload makes an image of a file as it comes. One that turns out to be another file than wished is not left behind.
func (c *cloud) upload(ctx context.Context, client *gophercloud.ServiceClient, name, source, wanted, format string) error {
	from, err := openImage(ctx, source)
	if err != nil {
		return err
	}
	defer from.Close()
	if format == "" {
		format = "qcow2"
	}
	public := images.ImageVisibilityPublic
	made, err := images.Create(ctx, client, images.CreateOpts{Name: name, DiskFormat: format, ContainerFormat: "bare", Visibility: &public,
		Properties: map[string]string{sumProperty: wanted}}).Extract()
	if err != nil {
		return err
	}
	sum := sha256.New()
	err = imagedata.Upload(ctx, client, made.ID, io.TeeReader(from, sum)).ExtractErr()
	if got := hex.EncodeToString(sum.Sum(nil)); err == nil && !strings.EqualFold(got, wanted) {
		err = fmt.Errorf("%s has SHA-256 %s, want %s", source, got, wanted)
	}
	if err == nil {
		return nil
	}
	if gone := images.Delete(context.WithoutCancel(ctx), client, made.ID).ExtractErr(); gone != nil {
		err = fmt.Errorf("%w; and what came of it cannot be removed: %w", err, gone)
	}
	return err
}

// openImage opens a file by its URL.
func openImage(ctx context.Context, from string) (io.ReadCloser, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", from, err)
	}
	if u.Scheme == "file" {
		return os.Open(u.Path)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", from, err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch image: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("cannot fetch %s: %s", from, answer.Status)
	}
	return answer.Body, nil
}
