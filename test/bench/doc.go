// Command bench measures Roost beside the tools that its users would otherwise take, in one run on one computer, and
// prints one table: what was measured, our figure, the peers' figures, the target, and whether it was met.
//
//	go run ./test/bench                          # everything, about half an hour on two cores
//	go run ./test/bench -only tftp,http,dhcp     # some parts
//	go run ./test/bench -o json
//
// It exists because a promise of speed holds only beside a peer that did the same work at the same hour: every part makes
// its own set-up (a Debian 13 tool tree for the builders, network namespaces for the servers, virtual machines for
// firmware and kernels) and takes packages from a local repository so that no network is measured. Nothing of the peers is
// installed or started on the computer itself; what stays is the work directory, whose tool tree the next run uses again.
//
// Promises: a peer that is missing or fails stands in the table with its reason and never as a gap; the exit status is 1
// only when a part of ours fails; a target that was missed is said, not hidden. Figures taken on a busy computer are worth
// nothing, so the table says how busy it was.
//
// Rejected: Go benchmarks for this (they repeat what is slow until it is sure of microseconds, and their output has no
// place for a peer, a target or a reason); figures remembered from earlier runs as the other side of a comparison.
package main
