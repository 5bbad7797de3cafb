// Package deb knows Debian's formats: versions, control paragraphs, relations between packages, Packages indexes, signed
// release files and .deb archives.
//
// It is pure: readers and bytes in, values out. It opens no file and no connection and keeps no state, so the resolver,
// the archive and the assembly share one understanding of what Debian says, and every parser can be fuzzed.
//
// Promises:
//   - [Version.Compare] orders exactly as dpkg does (Debian policy 5.6.12).
//   - A byte of a release file is trusted only after [Keyring.OpenInRelease] verified it.
//   - Every reader of foreign bytes is bounded in memory, and paths out of an archive never leave its root.
//
// Rejected: pault.ag/go/debian (reflection over every field makes a Packages file of 69 000 paragraphs take several
// seconds, and it verifies no release files) and running dpkg-deb or gpgv (the builder's host need not be Debian).
package deb
