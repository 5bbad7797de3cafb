// Package kept keeps the state of components as it was before a new release touched it, so that the machine can return.
//
// A recipe declares of each directory of state what a return to the release before means for it: it stays (the default),
// it is restored to what it was, or it is dropped. Here that is done.
//
//	wanted ──(first boot of the new release, before its units)──→ kept ──(boot of the old one)──→ returning ──→ wanted
//
// The copy is taken by the machine's first boot into the new release, and not before the reboot: then nothing writes, no
// unit has to be stopped for it, and a power cut between arming and the reboot cannot leave the trial without a copy. The
// old release says what it needs by a record, written before the new one can start; the new one adds what it declares itself.
//
// Promises:
//   - Units of the new release start when the copy is complete on the disk, and not before; those of the old one when
//     everything is back.
//   - A power cut at any point leaves each directory as the old or as the new release had it, never a mixture, and the next
//     boot goes on.
//   - One copy at most. It goes when the next update begins, or an hour after the commit ([Grace]): later, coming back to it
//     would lose more than it saves, so a return on request is refused then.
//   - What will not fit is refused before anything is fetched.
//
// Putting back is renaming: it takes no time and no room. What the new release made is removed later, while the machine works.
// The copy itself costs what reading and writing the data costs; on a file system that shares blocks (XFS, Btrfs) nothing.
//
// Rejected: an overlay over the state during the trial, which costs nothing before and all of it at the commit, when what
// was written has to be merged under running databases. Hard links: databases write in place. Copying while units run, or
// stopping them in the running system: the first is torn, the second a longer outage than the boot's own.
package kept
