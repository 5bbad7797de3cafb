// Package updater replaces a machine's operating system: a release is fetched, written beside the running one, read back,
// booted on trial, checked, and then committed; or the machine returns to what it ran, by itself, and says why.
//
// [Step] decides and does nothing: state and event in, state and next action out. [Updater] does: it performs the action
// through small interfaces and feeds what came of it to Step. The state is written durably before the action it asks for,
// so after a crash the same action is asked for again; every action may run twice.
//
//	idle → fetched → written → verified → armed → (reboot) → trial → healthy → committed
//	                                                  └─────→ rolling back → (reboot) → returned → rolled back
//
// Promises:
//   - One update at a time. What will not fit, is for another machine, is older, is unsigned or has failed before is refused
//     before the first byte is fetched.
//   - Gates are differential: only what held before the update must hold after it, so a fault that was there already neither
//     blocks an update nor condemns it.
//   - A version that failed, known by the digest of its manifest, is refused until an operator clears it.
//   - State that a recipe declares to be restored is, when the machine returns; an update whose copy of it would not fit is
//     refused, see package kept.
//   - A machine that returned tells the cause (gate, panic, hang, refused by the firmware, requested), the gates that failed,
//     the last lines of that boot's log and what the kernel left in pstore.
//
// Rejected: deciding by "did the daemon come up" (marks a version good too early), waiting a fixed time (too late), and
// leaving the return to user space alone (a panicking kernel runs none; see package boot).
package updater
