// Package tftp gives boot files to firmware, read-only.
//
// TFTP waits for an acknowledgement after every block, so its speed is one block per round trip, unless both sides agree on
// windows (RFC 7440). UEFI firmware (EDK2) asks for windows of four blocks by itself, and the Go server everybody uses,
// github.com/pin/tftp, drops that option. So this package listens itself, decides who may have what, and sends windowed transfers
// itself; a plain request is handed, in normal form, to pin/tftp.
//
// Promises: a peer that Find does not know gets no byte. A request with options is answered by a small OACK until the peer has
// acknowledged it, three times a second apart at most, so a forged source address gains nothing. A client that was there and falls silent
// is given up after eight seconds.
// Names are exact: there is no directory and no path. Transfers are bounded, per host and in all. A client that
// asks only for the size (EDK2 does, and then aborts with error 8) is answered from the file's description and is not a failure.
//
// Repeats are paced by the measured round trip, not by the second that RFC 1350's era suggests: one lost packet in a hundred costs
// milliseconds each. A duplicate acknowledgement repeats a window at most once and never a lone block (Sorcerer's Apprentice, RFC 1123 §4.2.3.1).
//
// Rejected: pin/tftp for everything (no windows, options compared by case, 512-byte blocks then; five seconds per lost packet by default); its
// "anticipate" mode (unasked blocks that firmware does not expect); dnsmasq or atftpd (their verdict on who may boot is not
// ours).
package tftp
