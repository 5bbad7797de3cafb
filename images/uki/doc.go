// Package uki assembles and reads unified kernel images (UAPI.5): one PE file with kernel, initrd, command line and OS
// identity around systemd's stub, which firmware starts as a program and verifies as one.
//
// It exists because the command line in it carries the root hash: signing this file covers every byte that will run. The
// same file is read back by the boot server (to split kernel and initrd off for BIOS machines) and by the initrd's authors
// (the rule for root hashes on a command line). Signing is in the subpackage authenticode, so that a reader does not carry it.
//
// Promises: equal parts give equal bytes; the file has no gaps, so what is signed is everything; [Open] believes no offset,
// and a command line with two root hashes is refused wherever it is met.
//
// Rejected: objcopy and ukify (host tools; objcopy's layout leaves gaps); multi-profile UKIs (one purpose, one file, until a
// recovery profile is wanted).
package uki
