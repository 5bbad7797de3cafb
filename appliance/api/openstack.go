package api

import (
	"encoding/hex"
	"net/netip"
	"net/url"
	"regexp"
)

// OpenStack is the wish that a site runs OpenStack: controllers its control plane, hosts that carry loads virtual machines.
// What the maps name is made and kept equal to the wish; what else people make through the APIs stays as it is.
type OpenStack struct {
	Region   string                    `json:"region,omitempty"`   // RegionOne when empty
	Projects map[string]map[string]int `json:"projects,omitempty"` // by name, with quotas by the names of the openstack command: cores, ram, instances, networks …
	Flavors  map[string]cloudFlavor    `json:"flavors,omitempty"`  // by name; tiny to large when nil
	Networks map[string]CloudNetwork   `json:"networks,omitempty"` // by name, shared by all projects
	Images   map[string]cloudImage     `json:"images,omitempty"`   // by name, public
}

// cloudFlavor is a size of virtual machines.
type cloudFlavor struct {
	CPUs   int `json:"cpus"`
	Memory int `json:"memory"` // MiB
	Disk   int `json:"disk"`   // GiB
}

// CloudNetwork is a network of virtual machines with one subnet.
type CloudNetwork struct {
	Subnet   string   `json:"subnet"`             // CIDR
	Gateway  string   `json:"gateway,omitempty"`  // the subnet's first address when empty
	DNS      []string `json:"dns,omitempty"`      // name servers handed out
	Physical string   `json:"physical,omitempty"` // name of the physical network that it is on; an overlay when empty
	VLAN     int      `json:"vlan,omitempty"`     // on the physical network; untagged when 0
	External bool     `json:"external,omitempty"` // routers may lead to it
}

// cloudImage is a disk image that virtual machines start from.
type cloudImage struct {
	URL    string `json:"url"`              // http, https, or file on the controller
	SHA256 string `json:"sha256"`           // of the file, 64 hexadecimal digits
	Format string `json:"format,omitempty"` // qcow2 when empty, or raw
}

// Defaults returns the wish with what it leaves out filled in.
func (o OpenStack) Defaults() OpenStack {
	if o.Region == "" {
		o.Region = "RegionOne"
	}
	if o.Flavors == nil {
		o.Flavors = map[string]cloudFlavor{"tiny": {1, 512, 1}, "small": {1, 2048, 20}, "medium": {2, 4096, 40}, "large": {4, 8192, 80}}
	}
	return o
}

// Validate checks what can be checked without the cloud.
func (o OpenStack) Validate() error {
	o = o.Defaults()
	plain := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	names := []string{o.Region}
	for name, quotas := range o.Projects {
		names = append(names, name)
		for quota, n := range quotas {
			if n < -1 {
				return Invalid.Errorf("cannot use quota %s of project %s: %d; want a number, or -1 for no limit", quota, name, n)
			}
		}
		if name == "service" {
			return Invalid.Errorf("cannot use project %s: it is OpenStack's own", name)
		}
	}
	for name, f := range o.Flavors {
		names = append(names, name)
		if f.CPUs < 1 || f.Memory < 1 || f.Disk < 0 {
			return Invalid.Errorf("cannot use flavor %s: want at least one CPU and one MiB of memory", name)
		}
	}
	for name, n := range o.Networks {
		names = append(names, name)
		if err := n.validate(); err != nil {
			return Invalid.Errorf("cannot use network %s of OpenStack: %v", name, err)
		}
	}
	for name, i := range o.Images {
		names = append(names, name)
		u, err := url.Parse(i.URL)
		if err != nil || u.Scheme != "file" && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return Invalid.Errorf("cannot use image %s of OpenStack: want a URL of http, https or file, not %q", name, i.URL)
		}
		if sum, err := hex.DecodeString(i.SHA256); err != nil || len(sum) != 32 {
			return Invalid.Errorf("cannot use image %s of OpenStack: want its SHA-256 as 64 hexadecimal digits", name)
		}
		if i.Format != "" && i.Format != "qcow2" && i.Format != "raw" {
			return Invalid.Errorf("cannot use image %s of OpenStack: format %q is not qcow2 or raw", name, i.Format)
		}
	}
	for _, name := range names {
		if !plain.MatchString(name) {
			return Invalid.Errorf("cannot use name %q in OpenStack: want letters, digits, and inner . _ -, at most 63", name)
		}
	}
	return nil
}

func (n CloudNetwork) validate() error {
	subnet, err := netip.ParsePrefix(n.Subnet)
	if err != nil || subnet.Masked() != subnet {
		return Invalid.Errorf("subnet %q is not ADDRESS/LENGTH of a network", n.Subnet)
	}
	for _, text := range append([]string{n.Gateway}, n.DNS...) {
		if _, err := netip.ParseAddr(text); err != nil && text != "" {
			return Invalid.Errorf("%q is not an address", text)
		}
	}
	if gateway, err := netip.ParseAddr(n.Gateway); err == nil && !subnet.Contains(gateway) {
		return Invalid.Errorf("gateway %s is not in %s", gateway, subnet)
	}
	if n.VLAN < 0 || n.VLAN > 4094 || n.VLAN > 0 && n.Physical == "" {
		return Invalid.Errorf("VLAN %d needs a physical network and a number up to 4094", n.VLAN)
	}
	return nil
}
