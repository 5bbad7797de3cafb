package api

import (
	"net/netip"
	"path"
	"strings"
)

// Ceph is the wish that a site has Ceph: its first controller runs the monitor and the manager, and every disk that is named
// is an OSD of the host that has it. All hosts of a site have the same.
type Ceph struct {
	Network string     `json:"network,omitempty"` // in which clients reach Ceph; that of the host's first address when empty
	Cluster string     `json:"cluster,omitempty"` // in which OSDs talk to each other; the same when empty
	Copies  int        `json:"copies,omitempty"`  // of every object, each on another disk; 3 when zero
	Disks   []CephDisk `json:"disks,omitempty"`
	Pools   []string   `json:"pools,omitempty"`   // of block devices (RBD); volumes when empty
	Files   bool       `json:"files,omitempty"`   // a file system (CephFS), named cephfs
	Objects bool       `json:"objects,omitempty"` // a gateway that speaks S3 over TLS, at port 7480 of the first controller
}

// CephDisk is a disk that Ceph may have, whole.
type CephDisk struct {
	Path    string `json:"path"`              // of the device; one below /dev/disk/by-id stays the disk's own
	Host    string `json:"host,omitempty"`    // name of the host that has it; every one that is to run Ceph when empty
	Wipe    bool   `json:"wipe,omitempty"`    // take it even if it holds something, which is lost; never an OSD of this site
	Encrypt bool   `json:"encrypt,omitempty"` // LUKS; the site keeps the key
	Gone    bool   `json:"gone,omitempty"`    // it is dead or was taken out: once it does not answer, its OSD leaves the cluster for good
}

const (
	cephCopies    = 3
	cephCopiesMax = 10
	cephDisksMax  = 1000
)

// Defaults returns the wish with what it leaves out filled in.
func (c Ceph) Defaults() Ceph {
	if c.Copies == 0 {
		c.Copies = cephCopies
	}
	if len(c.Pools) == 0 {
		c.Pools = []string{"volumes"}
	}
	return c
}

// On returns the disks that a host has.
func (c Ceph) On(host string) (list []CephDisk) {
	for _, d := range c.Disks {
		if d.Host == "" || d.Host == host {
			list = append(list, d)
		}
	}
	return list
}

// Validate checks the wish by itself.
func (c Ceph) Validate() error {
	c = c.Defaults()
	for _, network := range []string{c.Network, c.Cluster} {
		if prefix, err := netip.ParsePrefix(network); network != "" && (err != nil || prefix.Masked() != prefix) {
			return Invalid.Errorf("cannot use network %q for Ceph: want one with prefix length, for example 10.77.0.0/24", network)
		}
	}
	if c.Copies < 1 || c.Copies > cephCopiesMax {
		return Invalid.Errorf("cannot keep %d copies in Ceph: want 1 to %d", c.Copies, cephCopiesMax)
	}
	for i, pool := range c.Pools {
		if pool == "" || len(pool) > 63 || pool[0] == '-' || strings.ContainsFunc(pool, notInPool) {
			return Invalid.Errorf("cannot make pool %q in Ceph: want a-z, 0-9, _ and -, at most 63", pool)
		}
		for _, other := range c.Pools[:i] {
			if other == pool {
				return Invalid.Errorf("cannot make pool %q in Ceph: it is named twice", pool)
			}
		}
	}
	return c.validateDisks()
}

func (c Ceph) validateDisks() error {
	if len(c.Disks) > cephDisksMax {
		return Invalid.Errorf("cannot use %d disks for Ceph: want at most %d", len(c.Disks), cephDisksMax)
	}
	serving := 0
	for i, d := range c.Disks {
		if !strings.HasPrefix(d.Path, "/dev/") || path.Clean(d.Path) != d.Path || strings.ContainsFunc(d.Path, notInPath) {
			return Invalid.Errorf("cannot use disk %q for Ceph: want the path of a device, like /dev/disk/by-id/…", d.Path)
		}
		if name := (&Approval{Personality: "worker", Name: d.Host}); d.Host != "" && name.Validate() != nil {
			return Invalid.Errorf("cannot use disk %s of host %q for Ceph: not the name of a host", d.Path, d.Host)
		}
		if d.Gone && d.Wipe {
			return Invalid.Errorf("cannot use disk %s for Ceph: it is said to be gone, and to be wiped", d.Path)
		}
		for _, other := range c.Disks[:i] {
			if other.Path == d.Path && (other.Host == d.Host || other.Host == "" || d.Host == "") {
				return Invalid.Errorf("cannot use disk %s for Ceph: it is named twice", d.Path)
			}
		}
		if !d.Gone {
			serving++
		}
	}
	if serving < c.Copies {
		return Invalid.Errorf("cannot keep %d copies in Ceph on %d disks: name more disks, or say copies: %d", c.Copies, serving, max(serving, 1))
	}
	return nil
}

// notInPath reports what would have a meaning in a systemd unit, or in a file of settings.
func notInPath(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("%$\\\"';#", r)
}

func notInPool(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-'
}
