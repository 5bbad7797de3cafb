package lease

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"time"
)

// State is what is known of one address.
type State string

// States of an address. Offered lives in memory only: nobody relies on an address before it is acknowledged.
const (
	Offered  State = "offered"
	Bound    State = "bound"
	Released State = "released" // given back, or expired by request; remembered so that the machine gets it again
	Declined State = "declined" // a client found the address in use; nobody gets it until the quarantine ends
)

// Lease is the tie between an address and a machine.
type Lease struct {
	Address netip.Addr
	Key     Key
	State   State
	Until   time.Time // end of the lease, the hold of an offer, or the quarantine; whole seconds
	Host    string    // host name as the client gave it, may be empty
}

// Key is the identity of a client within a range: the six bytes of an Ethernet address, else "id:" and the client identifier.
type Key string

// String prints Ethernet keys the usual way and others in hexadecimal.
func (k Key) String() string {
	if len(k) != 6 {
		return hex.EncodeToString([]byte(k))
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", k[0], k[1], k[2], k[3], k[4], k[5])
}

// maxKey bounds a key: the longest client identifier (RFC 2132 §9.14) and its prefix.
const maxKey = 255 + 3

// castagnoli is the CRC of iSCSI and ext4; hardware computes it.
func checksum(line []byte) uint32 { return crc32.Checksum(line, crc32.MakeTable(crc32.Castagnoli)) }

// appendRecord appends l as one line: checksum, state, address, key, end in Unix seconds, quoted host name.
func appendRecord(b []byte, l *Lease) []byte {
	start := len(b)
	b = append(b, "00000000 "...)
	b = append(b, l.State...)
	b = append(b, ' ')
	b = l.Address.AppendTo(b)
	b = append(b, ' ')
	b = hex.AppendEncode(b, []byte(l.Key))
	b = append(b, ' ')
	b = strconv.AppendInt(b, l.Until.Unix(), 10)
	b = append(b, ' ')
	b = strconv.AppendQuoteToASCII(b, l.Host)
	var sum [4]byte
	crc := checksum(b[start+9:])
	sum[0], sum[1], sum[2], sum[3] = byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc)
	hex.Encode(b[start:], sum[:])
	return append(b, '\n')
}

// parseRecord reads one line without its newline.
func parseRecord(line []byte) (Lease, error) {
	fields := bytes.SplitN(line, []byte(" "), 6)
	if len(fields) != 6 || len(fields[0]) != 8 {
		return Lease{}, fmt.Errorf("cannot parse lease record: want 6 fields")
	}
	want, err := strconv.ParseUint(string(fields[0]), 16, 32)
	if err != nil || uint32(want) != checksum(line[9:]) {
		return Lease{}, fmt.Errorf("cannot parse lease record: checksum differs")
	}
	l := Lease{State: State(fields[1])}
	if l.State != Bound && l.State != Released && l.State != Declined {
		return Lease{}, fmt.Errorf("cannot parse lease record: state %q is unknown", l.State)
	}
	if l.Address, err = netip.ParseAddr(string(fields[2])); err != nil || !l.Address.Is4() {
		return Lease{}, fmt.Errorf("cannot parse lease record: %q is not an IPv4 address", fields[2])
	}
	key, err := hex.DecodeString(string(fields[3]))
	if err != nil || len(key) > maxKey {
		return Lease{}, fmt.Errorf("cannot parse lease record: key %q is not hexadecimal", fields[3])
	}
	l.Key = Key(key)
	seconds, err := strconv.ParseInt(string(fields[4]), 10, 64)
	if err != nil {
		return Lease{}, fmt.Errorf("cannot parse lease record: end %q is not a number", fields[4])
	}
	l.Until = time.Unix(seconds, 0)
	if l.Host, err = strconv.Unquote(string(fields[5])); err != nil {
		return Lease{}, fmt.Errorf("cannot parse lease record: host name is not quoted")
	}
	return l, nil
}
