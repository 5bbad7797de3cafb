// Package dhcp answers the DHCPv4 questions of machines that boot from the network.
//
// It exists because a boot server must give firmware exactly what that firmware's parser wants, and because a server that also owns
// the addresses must never contradict itself. [Engine] decides one packet at a time: in an own network it gives addresses from a lease store
// and boot answers with them; as a proxy beside a foreign DHCP server it gives boot answers only. [Server] is the socket around it.
// [Probe] looks for foreign servers.
//
// Promises: every answer carries option 54, echoes options 61, 82 and 97, names the boot file in the file field and in option 67, keeps
// the broadcast flag and stays within the client's option 57. An acknowledgement leaves only after the lease is durable. As a proxy
// the engine never answers a REQUEST on port 67 (firmware would take the reply as its lease and fail); it answers on 4011. No packet makes it
// panic, and one it cannot read draws no answer.
//
// Packets are read and written by hand here, in a few hundred lines: github.com/insomniacslk/dhcp, which tests use as the second
// opinion and the probe as its codec, drops packets without an End option, does not read options from overloaded fields, cuts long boot files and needs 63
// allocations per reply (13 µs; here it is under 2). Rejected too: an embedded Kea or dnsmasq, whose verdict on who may boot
// could not be the same as that of TFTP and HTTP.
package dhcp
