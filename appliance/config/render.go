// Package config is the configuration of hosts: what is wanted, and the files it means.
//
// [Render] turns a committed configuration into the generated part of /etc, as a value; `roostd render` writes it before
// sysinit.target at every boot, from /var alone, with neither network nor store. /etc is volatile, so what is not wanted any
// more is not there after a boot.
//
// Processors and memory are shared out by files too: systemd keeps the system's services to the processors of the platform,
// systemd-tmpfiles moves interrupts and the kernel's work there and sets huge pages aside, all while the machine starts. That a
// machine could not set all pages aside, for want of memory in one piece, shows in its inventory.
//
// Promises: the same configuration gives the same bytes; a configuration that Validate accepts cannot write anything but
// what its fields mean, into any file. Rejected: isolcpus= and hugepages= on the kernel's command line (it is signed, and the
// same on all hosts); templates (a value with a line break in it becomes another setting), and editing files in place (the
// result would depend on history).
package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"roost/appliance/api"
)

// File is one generated file.
type File struct {
	Path string // below /
	Mode uint32
	Text string
}

// Validate checks everything that ends up in a file.
func Validate(c *api.Config) error {
	name := api.Approval{Name: c.Hostname, Personality: "worker"}
	if err := name.Validate(); err != nil {
		return err
	}
	taken := map[netip.Addr]string{}
	for _, i := range c.Interfaces {
		if err := validateInterface(&i); err != nil {
			return err
		}
		for _, a := range i.Addresses {
			address := netip.MustParsePrefix(a).Addr() // checked just now
			if other, ok := taken[address]; ok {
				return api.Invalid.Errorf("cannot use address %s twice: interfaces %s and %s", address, other, i.MAC)
			}
			taken[address] = i.MAC
		}
	}
	if err := c.Components.Validate(c.Interfaces); err != nil {
		return err
	}
	if err := c.Resources.Validate(); err != nil {
		return err
	}
	for _, server := range c.DNS {
		if _, err := netip.ParseAddr(server); err != nil {
			return api.Invalid.Errorf("cannot use name server %q: not an address", server)
		}
	}
	for _, line := range append(append([]string{}, c.NTP...), c.Hosts...) {
		if line == "" || strings.ContainsAny(line, "\n\r\x00#=[]\\") {
			return api.Invalid.Errorf("cannot use %q: want names and addresses", line)
		}
	}
	for _, key := range c.AuthorizedKeys {
		kind, _, ok := strings.Cut(key, " ")
		if !ok || strings.ContainsAny(key, "\n\r\x00") || !strings.HasPrefix(kind, "ssh-") && !strings.HasPrefix(kind, "ecdsa-") && !strings.HasPrefix(kind, "sk-") {
			return api.Invalid.Errorf("cannot use ssh key %q: want one public key without options", key)
		}
	}
	return nil
}

func validateInterface(i *api.Interface) error {
	if _, err := net.ParseMAC(i.MAC); err != nil {
		return api.Invalid.Errorf("cannot use interface %q: not a MAC address", i.MAC)
	}
	for _, a := range i.Addresses {
		if _, err := netip.ParsePrefix(a); err != nil {
			return api.Invalid.Errorf("cannot use address %q of interface %s: want ADDRESS/LENGTH", a, i.MAC)
		}
	}
	if i.Gateway != "" {
		if _, err := netip.ParseAddr(i.Gateway); err != nil {
			return api.Invalid.Errorf("cannot use gateway %q of interface %s: not an address", i.Gateway, i.MAC)
		}
	}
	if i.MTU < 0 || i.MTU > 65535 || i.MTU > 0 && i.MTU < 576 {
		return api.Invalid.Errorf("cannot use MTU %d of interface %s", i.MTU, i.MAC)
	}
	return nil
}

// Render returns the files of a valid configuration. The zero configuration, that of a machine in discovery, asks for
// addresses by DHCP on every wired interface.
func Render(c *api.Config) []File {
	hostname := c.Hostname
	if hostname == "" {
		hostname = "roost"
	}
	files := []File{
		{"etc/hostname", 0o644, hostname + "\n"},
		{"etc/hosts", 0o644, hosts(hostname, c.Hosts)},
		{"etc/systemd/network/90-roost-default.network", 0o644, fallback(len(c.Interfaces) == 0)}, // replaces the image's own
		{"etc/ssh/authorized_keys.d/admin", 0o644, lines(c.AuthorizedKeys)},                       // where the image's sshd looks
	}
	for n, i := range c.Interfaces {
		files = append(files, File{fmt.Sprintf("etc/systemd/network/10-roost-%02d.network", n), 0o644, network(&i)})
	}
	if len(c.DNS) > 0 {
		files = append(files, File{"etc/systemd/resolved.conf.d/roost.conf", 0o644, "[Resolve]\nDNS=" + strings.Join(c.DNS, " ") + "\n"})
	}
	if len(c.NTP) > 0 {
		files = append(files, File{"etc/systemd/timesyncd.conf.d/roost.conf", 0o644, "[Time]\nNTP=" + strings.Join(c.NTP, " ") + "\n"})
	}
	return append(files, resources(&c.Resources)...)
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

func hosts(hostname string, more []string) string {
	return "127.0.0.1 localhost\n127.0.1.1 " + hostname + "\n::1 localhost ip6-localhost ip6-loopback\n" + lines(more)
}

// fallback is for interfaces that nothing else configures: by DHCP, or, where the configuration names interfaces, not at all.
func fallback(dhcp bool) string {
	if !dhcp {
		return "[Match]\nKind=!*\nType=ether\n\n[Network]\nLinkLocalAddressing=no\n\n[Link]\nRequiredForOnline=no\n"
	}
	return "[Match]\nKind=!*\nType=ether\n\n[Network]\nDHCP=yes\nLLDP=yes\n\n" + dhcpSection
}

// The boot firmware and the initrd ask with the MAC address as client id; asking with the same keeps the lease.
const dhcpSection = "[DHCPv4]\nClientIdentifier=mac\n"

func network(i *api.Interface) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Match]\nPermanentMACAddress=%s\n\n", strings.ToLower(i.MAC))
	if i.MTU > 0 {
		fmt.Fprintf(&b, "[Link]\nMTUBytes=%d\n\n", i.MTU)
	}
	b.WriteString("[Network]\n")
	if i.DHCP {
		b.WriteString("DHCP=yes\n")
	}
	for _, a := range i.Addresses {
		fmt.Fprintf(&b, "Address=%s\n", a)
	}
	if i.Gateway != "" {
		fmt.Fprintf(&b, "Gateway=%s\n", i.Gateway)
	}
	if i.DHCP {
		b.WriteString("\n" + dhcpSection)
	}
	return b.String()
}
