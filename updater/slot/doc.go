// Package slot writes a release's root image into a pair of partitions and proves that it is there.
//
// A machine has two slots, a and b, each a root and a verity partition (package images/disk). The initrd finds a slot only by
// partition GUIDs that are the two halves of the root hash. So a slot that is being written is given random GUIDs first,
// and those of the root hash last, after every block was read back from the medium through the hash tree: what can be
// found is whole. Power may go at any moment in between; the slot is then merely not there.
//
// Blocks that hold the right bytes already are not written: releases share most of them, and flash wears.
//
// Rejected: trusting the digest of the download (it says nothing of what the disk kept), a "valid" flag beside the data
// (a second truth that can disagree), and reading back through the page cache (it shows what was meant, not what is).
package slot
