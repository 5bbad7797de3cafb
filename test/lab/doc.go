// Package lab makes virtual sites on one computer: machines on a private network that nothing outside can reach.
//
// A lab is a directory of state and a network namespace of the same name. Inside the namespace a bridge joins the machines;
// the lab's own side of it has an address, from which a boot server or the roost command can talk to them. Nothing is added
// to the host's own network. Machines live until they are powered off or the lab is taken down, not as long as the command
// that started them. There are two kinds, and one lab may have both.
//
// A [VirtualMachine] is a QEMU process with OVMF, its own variable store, a disk, a serial console and a control socket. It
// shows what depends on firmware, the boot loader, the kernel and a disk: network boot, Secure Boot, updates, rollbacks.
//
// A [Container] is the same systemd on the same root image, in namespaces of its own, on this computer's kernel and at its
// full speed: seconds where emulation takes minutes. It shows what a release does once it runs, and joins the same site: its
// first process does the initrd's work (root image, /etc overlay, /var, an address and the site's facts from the boot
// server, /run/roost/boot.json with origin "container"), roostd reports it, an operator approves it, it takes its identity
// and reboots. It cannot show what it does not have: firmware, slots, a kernel of the release. roostd refuses updates and
// rollbacks there, and says why.
//
// # What a container has, for those who run more in one
//
//   - Cgroups: the whole of what it sees is its own to divide (a cgroup name space and a delegated cgroup2 subtree,
//     roost-LAB/MACHINE): kubelet and containerd nest theirs. It has those controllers that the computer's unified hierarchy
//     offers; on a computer that keeps them in version 1 (cat /sys/fs/cgroup/cgroup.controllers inside) there is none of cpu,
//     memory or pids. runc then refuses a container with a limit or a weight of the CPU (kubelet gives every pod one): leave
//     them out (ctr run --cpu-shares 0), or name a wrapper of runc that does as containerd's BinaryName.
//   - /var is a directory of the lab, on the computer's own file system: overlayfs works on it unless that is itself an
//     overlay. Mounts are shared from / down, as kubelet wants it.
//   - /dev is private. Block devices ([Spec].Disks) are sparse files behind loop devices, named as the kernel names them and
//     /dev/disk/by-id/roost-LAB-MACHINE-diskN; /sys/block shows no others. They need no LVM and no device mapper, which may be
//     missing. There is no udev: nodes of partitions do not appear by themselves. /dev/fuse and /dev/net/tun are there.
//   - /dev/kvm is not there on purpose: guests are emulated. /dev/kmsg is null: the kernel's log is the computer's.
//   - Kernel modules are the computer's; none can be loaded from inside. What a component needs, the computer must have.
//   - Kernel settings are read-only but for those of its network, and but for a few that Kubernetes insists on writing: it
//     writes to copies, without effect. The clock cannot be set. The boot id is its own.
//   - Units that cannot work there are masked by the list in masked; most know by themselves.
//   - On a computer that withholds CAP_SYS_RESOURCE, limits can only be lowered; containerd needs restrict_oom_score_adj.
//
// A container is no prison: its root is root of the computer, less a few capabilities. Run in it what you would run beside it.
//
// Users try a site in a lab (roost lab), and the tests boot in it: it is product code. A program that makes containers calls
// [Helper] first.
//
// Promises: everything a container holds (mounts, links, block devices, processes) is held by its namespaces and by its
// keeper only, so when the keeper is killed it all goes; a cgroup without processes may stay until the next power on or off.
//
// Rejected alternatives: libvirt (a daemon, XML, and its own DHCP server to fight); QEMU user networking (no DHCP or TFTP
// of ours could be tested); a bridge on the host (its DHCP would be one mistake away from the user's own network);
// systemd-nspawn (it wants systemd and machined on the computer, decides itself what /etc and /var are, and fixes the mounts
// that nested containers need otherwise); Docker or Podman (a daemon or a store, images unpacked once more, and no say in
// what the first process finds).
package lab
