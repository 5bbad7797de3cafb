// Package volume gives pods of Kubernetes volumes on Ceph: a CSI driver whose volumes are images of RADOS block devices (RBD).
//
// [Driver] serves the three services of the Container Storage Interface on one socket, and tells the kubelet of itself. Volumes
// are made, grown and removed through the rbd program of the image, and used through the kernel's own block device; what
// Kubernetes asks for is passed on by the stock provisioner and resizer. [Release] gives all volumes of the host back before
// Ceph ends with the machine.
//
// Promises: every call may be repeated, after a crash too; a volume is written to from one host at a time, for which the
// image's exclusive lock stands, not bookkeeping; nothing is formatted that was ever used: a new volume is marked before its
// file system is made and after it, and an unmarked one must be blank; no key is in an argument, the key is in a file that
// rbd reads itself.
//
// A volume's id is POOL/IMAGE. There are no snapshots and no clones yet.
//
// Rejected: ceph-csi, the usual driver (it binds librbd and librados, so it needs a C compiler and the image a second copy of
// both); pods for driver and sidecars (containers that are root on the host are services with more steps, and the volumes of a
// host have to outlive its pods); VolumeAttachment objects (the lock in Ceph knows better than a record in Kubernetes who
// writes); rbd-nbd (a process for each volume, which a restart of the daemon may not end).
package volume
