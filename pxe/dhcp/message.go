package dhcp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"roost/pxe/lease"
)

// Options of RFC 2132 and later that the server reads or writes.
const (
	optionPad          = 0
	optionMask         = 1
	optionRouter       = 3
	optionDNS          = 6
	optionHost         = 12
	optionDomain       = 15
	optionNTP          = 42
	optionVendor       = 43
	optionAddress      = 50
	optionLease        = 51
	optionOverload     = 52
	optionType         = 53
	optionServer       = 54
	optionMaximum      = 57
	optionRenew        = 58
	optionRebind       = 59
	optionClass        = 60
	optionClient       = 61
	optionTFTPServer   = 66
	optionBootFile     = 67
	optionUserClass    = 77
	optionRelay        = 82
	optionArchitecture = 93
	optionUUID         = 97
	optionIPXE         = 175
	optionEnd          = 255
)

// Sub-options of option 82.
const (
	relayLink       = 5  // RFC 3527: the network to choose an address from
	relayServer     = 11 // RFC 5107: the server identifier to show to the client
	relaySourcePort = 19 // RFC 8357: answer to the port the relay sent from
)

// Values of option 53.
const (
	typeDiscover = 1
	typeOffer    = 2
	typeRequest  = 3
	typeDecline  = 4
	typeAck      = 5
	typeNak      = 6
	typeRelease  = 7
	typeInform   = 8
)

const (
	headerSize    = 240 // fixed fields and cookie
	flagBroadcast = 0x8000
	ethernet      = 1
)

var (
	errShort   = errors.New("packet is shorter than a DHCP header")
	errReply   = errors.New("packet is not a request")
	errCookie  = errors.New("packet has no DHCP cookie")
	errOption  = errors.New("option reaches past the end of the packet")
	errType    = errors.New("packet has no DHCP message type")
	errAddress = errors.New("hardware address is longer than its field")
)

// message is a received packet taken apart. Slices point into the datagram, which must not change while they are used.
type message struct {
	data           []byte // the header
	flags          uint16
	kind           byte // option 53
	ciaddr, giaddr netip.Addr
	hardware       []byte // chaddr, as long as hlen says
	options        [256][]byte
}

// parse takes datagram apart into m, which may have been used before. It accepts what firmware of thirty years sends: no End option,
// options in the file and sname fields (option 52), options in pieces (RFC 3396).
func (m *message) parse(datagram []byte) error {
	clear(m.options[:])
	switch {
	case len(datagram) < headerSize:
		return errShort
	case datagram[0] != 1:
		return errReply
	case datagram[2] > 16:
		return errAddress
	case binary.BigEndian.Uint32(datagram[236:]) != 0x63825363:
		return errCookie
	}
	m.data = datagram
	m.flags = binary.BigEndian.Uint16(datagram[10:])
	m.ciaddr = address(datagram[12:])
	m.giaddr = address(datagram[24:])
	m.hardware = datagram[28 : 28+datagram[2]]
	if err := m.scan(datagram[headerSize:]); err != nil {
		return err
	}
	if overload := m.options[optionOverload]; len(overload) == 1 {
		if overload[0]&1 != 0 {
			if err := m.scan(datagram[108:236]); err != nil {
				return err
			}
		}
		if overload[0]&2 != 0 {
			if err := m.scan(datagram[44:108]); err != nil {
				return err
			}
		}
	}
	if len(m.options[optionType]) != 1 {
		return errType
	}
	m.kind = m.options[optionType][0]
	return nil
}

func (m *message) scan(area []byte) error {
	for len(area) > 0 {
		code := area[0]
		if code == optionEnd {
			return nil
		}
		if code == optionPad {
			area = area[1:]
			continue
		}
		if len(area) < 2 || len(area) < 2+int(area[1]) {
			return errOption
		}
		value := area[2 : 2+int(area[1])]
		area = area[2+len(value):]
		if m.options[code] == nil {
			m.options[code] = value
		} else {
			m.options[code] = append(m.options[code][:len(m.options[code]):len(m.options[code])], value...)
		}
	}
	return nil
}

// address reads four bytes; 0.0.0.0 is the zero Addr.
func address(b []byte) netip.Addr {
	if len(b) < 4 || [4]byte(b) == ([4]byte{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}

// key returns who the client is to the lease store, or "" when it does not say.
func (m *message) key() lease.Key {
	if m.data[1] == ethernet && len(m.hardware) == 6 && [6]byte(m.hardware) != ([6]byte{}) {
		return lease.Key(m.hardware)
	}
	if id := m.options[optionClient]; len(id) > 0 && len(id) <= 255 {
		return "id:" + lease.Key(id)
	}
	return ""
}

// relay returns a sub-option of option 82, nil when it is not there.
func (m *message) relay(code byte) []byte {
	for area := m.options[optionRelay]; len(area) >= 2 && len(area) >= 2+int(area[1]); area = area[2+int(area[1]):] {
		if area[0] == code {
			return area[2 : 2+int(area[1])]
		}
	}
	return nil
}

// host returns option 12 when it is a host name that a log or a screen can show.
func (m *message) host() string {
	name := m.options[optionHost]
	if len(name) > 63 {
		return ""
	}
	for _, c := range name {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return ""
		}
	}
	return string(name)
}

// class returns option 60 without the NUL that some firmware adds.
func (m *message) class() string { return strings.TrimRight(string(m.options[optionClass]), "\x00") }

// ipxe reports whether the client is iPXE: it says so in option 77, as raw text or length-prefixed (RFC 3004), and has its
// own option 175.
func (m *message) ipxe() bool {
	user := string(m.options[optionUserClass])
	return m.options[optionIPXE] != nil || user == "iPXE" || user == "\x04iPXE"
}

// writer builds a reply within the size that the client takes.
type writer struct {
	b     []byte
	limit int // bytes that options may reach, End and relay information not counted
}

// option appends an option if it fits. Values over 255 bytes are left out: firmware does not rejoin pieces.
func (w *writer) option(code byte, value ...byte) {
	if len(value) <= 255 && len(w.b)+2+len(value) <= w.limit {
		w.b = append(append(w.b, code, byte(len(value))), value...)
	}
}

func (w *writer) text(code byte, value string) {
	if value != "" {
		w.option(code, []byte(value)...)
	}
}

func (w *writer) seconds(code byte, seconds uint32) {
	w.option(code, byte(seconds>>24), byte(seconds>>16), byte(seconds>>8), byte(seconds))
}

func (w *writer) addresses(code byte, list ...netip.Addr) {
	var buffer [64]byte
	value := buffer[:0]
	for _, a := range list {
		if a.Is4() && len(value)+4 <= len(buffer) {
			four := a.As4()
			value = append(value, four[:]...)
		}
	}
	if len(value) > 0 {
		w.option(code, value...)
	}
}
