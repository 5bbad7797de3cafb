// Package archive fetches from Debian mirrors and keeps what it fetched, by digest.
//
// It is the only place where the builder meets the network and the only place where it keeps files between runs. A
// [Source] takes a [Snapshot] of suites (signed release files, their indexes, the packages in them) and fetches packages;
// a [Cache] holds everything by content, so that a second build needs no network.
//
// Promises:
//   - Nothing enters the cache under a digest that it does not have; a half-written file never has a final name.
//   - Bytes are trusted only through a signature of the given keyring, or a digest that such a signature covers, or a
//     digest that the caller's lock names. The mirror, proxies and the transport are trusted with nothing.
//   - A transfer that stalls, breaks or is cut short is continued where it stopped; only a transfer that makes no progress
//     again and again fails, and the error says what each mirror answered.
//   - Several processes may use one cache; two that want one file transfer it once.
//
// No mirror is named here: it comes from the command line, the environment or the host's own apt configuration.
//
// Rejected: apt's own methods and cache (need a Debian host and root); one directory per mirror (a digest is the same file
// everywhere); a database of last uses (the files' modification times do, and survive any crash).
package archive
