// Package lease remembers which machine holds which IPv4 address.
//
// A DHCP server that forgets hands one address to two machines. [Store] promises: once the callback of [Store.Bind] was
// called without an error, the binding survives kill -9 and power loss, and no other machine gets that address before the
// lease ends. It keeps this promise at thousands of bindings per second on one ordinary disk: bindings are lines appended to a
// log, and one fsync covers every line that arrived while the previous fsync ran (group commit), so the wait is one to two
// fsyncs, never a timer.
//
// Machines are known by hardware address within one range of addresses, not by client identifier: firmware, boot loader, initrd and
// operating system of one machine send four different identifiers, and boards with the same UUID send the same one. So a
// machine keeps its address through all stages of its boot, as with Kea's match-client-id set to false.
//
// The log is text, a checksum and a fact per line, so that a person can read it on a broken site. It is rewritten (compacted)
// into a new file when it has grown to several times its live content; names of files count up and the old one goes only after the new
// one is safe, so that a reader may apply all it finds in order and get the truth. Lines with a wrong checksum are skipped: a
// torn tail was never acknowledged, and a flipped bit must not take the other leases along.
//
// Rejected: an embedded database (its commit costs several page writes for forty bytes); rewriting a snapshot per change
// (quadratic under a boot storm); answering before the fsync (the reason why restarts hand out duplicates elsewhere).
package lease
