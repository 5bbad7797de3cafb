// Package boot decides and records which unified kernel image (UKI) a machine boots next.
//
// The record is the EFI system partition itself: a UKI on trial carries counters in its file name (UAPI.1 Boot Loader
// Specification, boot counting), and systemd-boot counts them down before it starts the file. So a kernel that panics or
// hangs, which can tell nobody, still loses its turn, and a machine whose NVRAM was wiped still boots.
//
// Promises:
//   - The UKI that runs, and the one to fall back to, are never removed before another good one is in place and read back.
//   - Every operation may be repeated, and may be cut by a power loss at any moment; the machine then comes up on a version
//     that was good. Renames on FAT are not atomic: both names, neither, or a new name without content may remain. Where
//     losing a file would hurt, a file is therefore copied to its new name, and only then removed under the old one.
//   - [Model] says what firmware and systemd-boot 257 do with any content of the partition. Arming asks it first, and the
//     tests ask it about every state.
//
// Alternatives rejected: LoaderEntryDefault and BootNext live in NVRAM, which firmware loses, fills up and wears out; GPT
// attribute counters need a loader of our own; a symlink or "current" file is not what any loader reads.
package boot
