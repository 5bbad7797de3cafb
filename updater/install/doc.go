// Package install puts a release on a blank disk: partition table, state partition with the machine's identity, slot A
// through the updater's own slot writer, EFI system partition, boot options.
//
// Promises: a disk that holds anything is refused unless told to wipe it, with a list of what was found. The order of
// writes makes a disk bootable last: power may go at any moment, and the machine then either boots the complete system
// or finds nothing to boot and comes back over the network. An install that was cut is taken up by the same request (its
// seed gives the disk its GUID), without wiping being allowed.
//
// The state file system is made and filled in one go by mkfs.ext4 of the running (discovery) system, at its offset on the
// whole disk: no partition node, no mount, no moment in which it exists without the identity. The private key in it
// touches no other disk. Nothing secret is on the EFI system partition, which anybody can read and change.
//
// Rejected: a state partition that the first boot formats (where would the identity be meanwhile?), kernel partition nodes
// (the kernel must be talked into reading the table again), and copying a ready disk image (writes gigabytes of nothing and
// gives every machine the same GUIDs).
package install
