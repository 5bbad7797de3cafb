// Package disk reads, makes and edits the partition table of a Roost machine: GPT (UEFI 2.10, chapter 5) with two EFI
// system partitions, two slots (root and verity partition each) and the state partition.
//
// It exists so that the builder, the installer, the slot writer and the initrd agree on one table: the names, types and
// GUIDs below are the contract between them. Filesystems and whole bootable media are in the subpackages esp and media,
// which bring go-diskfs with them; this package stays free of it because the initrd imports it.
//
// Promises: a table is believed only if its checksums hold and its entries are sane; while a table is edited, a crash at
// any write leaves a disk that reads as the old or the new table, never as a third. The backup copy is written and flushed
// before the primary is touched.
//
// Rejected: go-diskfs here (a megabyte of initrd; media, which no machine carries, has it write its tables); sfdisk or sgdisk
// (the product needs Go and Linux only).
package disk
