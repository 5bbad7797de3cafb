// Package lab makes virtual sites on one computer: machines with real firmware, empty disks and network boot, on a
// private network that nothing outside can reach.
//
// A lab is a directory of state and a network namespace of the same name. Inside the namespace a bridge joins the
// machines; the lab's own side of it has an address, from which a boot server or the roost command can talk to them.
// Nothing is added to the host's own network. A machine is a QEMU process with OVMF, its own variable store, a disk, a
// serial console and a control socket; it lives until it is powered off or the lab is taken down, not as long as the
// command that started it.
//
// Users try a site in it (roost lab), and the tests boot in it: it is product code.
//
// Rejected alternatives: libvirt (a daemon, XML, and its own DHCP server to fight); QEMU user networking (no DHCP or TFTP
// of ours could be tested); a bridge on the host (its DHCP would be one mistake away from the user's own network).
package lab
