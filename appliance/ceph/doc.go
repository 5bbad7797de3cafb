// Package ceph is what knows Ceph: what a site has of it once ([Authority]), and how a host comes to run it ([Host]).
//
// The site's first controller runs the monitor and the manager; every host runs an OSD for each disk that the site document
// gives it. All are the stock programs under systemd with settings of ours; [Host] writes units, /etc/ceph/ceph.conf and the
// keys to volatile places at every start of the machine, from the host's configuration.
//
// Where the document asks for it, the first controller also runs a metadata server, with a file system (CephFS), and an object
// gateway (S3), on the site's address with a certificate of the site's authority. The gateway has one user from the start, whose
// keys operators get; they make others with radosgw-admin. Both have pools of few placement groups: with Ceph's own number, one
// disk for each copy could not hold them all. What the document no longer asks for is stopped; its data stays.
//
// All keys of Ceph come from one secret of the site, by name (see keyOf): the store keeps 32 bytes, and a release that needs
// another user needs no other secret. The monitor is made with most of them, and told of those of services when they start. A
// host gets those that it needs, over its
// authenticated connection; they reach programs as files that systemd hands over, or on standard input.
//
// What a disk is, its own label says: BlueStore's, which names cluster and OSD, or the header of LUKS. The daemon notes, before
// the first write, which OSD a disk is to become (osds.json); with that and the label, making an OSD can be broken off anywhere.
// A disk that holds anything else is left alone unless the document says wipe, and so is one that belongs to another cluster.
// An OSD is never removed but for a disk that the document calls gone and that does not answer.
//
// Each use that another component of the site makes of Ceph has a pool and a user of its own (poolsOf, rights): volumes of pods,
// volumes of OpenStack, its images. Not namespaces in one pool, which would save placement groups: the drivers of OpenStack know
// none. A pool that is there says that its users are known to the monitor, which may be older than they are.
//
// The disks are as ceph-volume raw makes them, and it lists them; but they are made by ceph-osd directly and all at once:
// ceph-volume does one after the other, and asks programs of its own about each. Steps that need Ceph's user or its disks are
// systemd units, so the daemon needs no right more.
//
// Rejected: cephadm and its containers (a second way to deliver software), a Go binding of librados (cgo), Ceph's wire protocol
// in Go (large, and the ceph program is in the image anyway), admin sockets (they belong to Ceph's user), the dashboard (its
// module cannot be loaded on Debian 13), the gateway behind a front of ours (it ends TLS itself), its administrators' API (a
// second way to what client.admin may do).
package ceph

import (
	"fmt"
	"net/netip"
	"net/url"
)

// name is that of the component everywhere.
const name = "ceph"

// monitor is how the monitor at an address is named in settings: both versions of the protocol.
func monitor(address netip.Addr) string {
	host := address.String()
	if address.Is6() {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("[v2:%s:3300/0,v1:%s:6789/0]", host, host)
}

// monitorOf is the address of the site's monitor: that of the first controller.
func monitorOf(controllers []string) (netip.Addr, error) {
	if len(controllers) == 0 {
		return netip.Addr{}, fmt.Errorf("cannot reach Ceph: the site has no controller")
	}
	u, err := url.Parse(controllers[0])
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot reach Ceph: %w", err)
	}
	address, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot reach Ceph: controller %q is not named by an address", controllers[0])
	}
	return address, nil
}
