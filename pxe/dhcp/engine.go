package dhcp

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"roost/pxe/lease"
)

// Mode is how the server takes part in an interface's DHCP.
type Mode string

// Modes.
const (
	Off   Mode = "off"   // no DHCP: another server names ours in its boot options
	Own   Mode = "own"   // ours are the addresses and the boot answers
	Proxy Mode = "proxy" // a foreign server gives addresses, we give boot answers beside it
)

// Ports of the protocol.
const (
	ServerPort = 67
	ClientPort = 68
	BINLPort   = 4011
)

// Subnet is one network whose addresses are given out.
type Subnet struct {
	Prefix netip.Prefix
	Range  int // index of its range in the lease store
	Router netip.Addr
	DNS    []netip.Addr
	NTP    []netip.Addr
	Domain string
}

// Boot is the answer to a client that wants to boot: a TFTP name or a URL, as its Method needs, or a refusal.
type Boot struct {
	File    string // at most 127 bytes
	Refused string // the reason; the client gets no answer at all, so its firmware tries what comes next
}

// Step names what happened to a client.
type Step string

// Steps of a client, in the order of a good boot.
const (
	Discovered Step = "discover" // it asks
	Refused    Step = "refused"  // it gets no answer, see the reason
	Exhausted  Step = "exhausted"
	Offering   Step = "offer"   // it was sent an offer, as a proxy without an address
	Requested  Step = "request" // seen as a proxy: the foreign server is asked for Client.Address
	Acked      Step = "ack"     // it has Client.Address
	Naked      Step = "nak"     // its address was refused
	Declined   Step = "decline" // it found its address in use
	Binl       Step = "binl"    // it was answered on port 4011
)

// Rivalry is how an own network takes a foreign DHCP server on the same wire.
type Rivalry int

// Rivalries.
const (
	Alone  Rivalry = iota // none was seen: we are authoritative and refuse addresses we did not give
	Beside                // one was seen: we serve, but refuse nothing that it may have given
	Yield                 // one was seen and policy says hold back: only clients that we know are answered
)

// Config says what an engine serves. The functions must not block.
type Config struct {
	Interface string
	Mode      Mode
	Server    netip.Addr // our address on the interface: option 54, siaddr, boot server
	Subnets   []Subnet   // for Own: the on-link network first, then those behind relays
	Leases    *lease.Store
	Lease     time.Duration // of machines in service; 0 = 10 min
	BootLease time.Duration // of firmware and initrd, which do not renew: longer than their downloads; 0 = 5 min
	Client    uint16        // port that clients listen on; 0 = 68
	Relay     uint16        // port that relays listen on; 0 = 67
	Decide    func(Client) Boot
	Observe   func(Step, Client, string) // the last argument is the reason of a refusal
	Rival     func() Rivalry             // what is known of foreign servers on the interface; nil = none
	Log       *slog.Logger
}

// Engine decides what to answer. It is safe for concurrent use.
type Engine struct {
	config   Config
	messages sync.Pool // of *message, which are large
}

// New returns an engine. Zero values of config are filled in.
func New(config Config) *Engine {
	if config.Lease == 0 {
		config.Lease = 10 * time.Minute
	}
	if config.BootLease == 0 {
		config.BootLease = 5 * time.Minute
	}
	if config.Client == 0 {
		config.Client = ClientPort
	}
	if config.Relay == 0 {
		config.Relay = ServerPort
	}
	if config.Rival == nil {
		config.Rival = func() Rivalry { return Alone }
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Engine{config: config}
}

// Reply is a datagram to send.
type Reply struct {
	Payload []byte
	To      netip.AddrPort
}

// exchange is one packet on its way to an answer.
type exchange struct {
	*Engine
	m      *message
	now    time.Time
	from   netip.AddrPort
	key    lease.Key
	client Client
	subnet *Subnet
	server netip.Addr // identifier shown to the client
	boot   Boot
	send   func(Reply)
}

// Answer decides on a datagram that came to port 67, or to port 4011 when binl is set. send is called at most once: at once, or from
// the lease store's goroutine when the lease is durable. The datagram may be reused when Answer returns. A packet that is not
// understood is an error; one that needs no answer is not.
func (e *Engine) Answer(now time.Time, datagram []byte, from netip.AddrPort, binl bool, send func(Reply)) error {
	m, ok := e.messages.Get().(*message)
	if !ok {
		m = new(message)
	}
	defer e.messages.Put(m)
	if err := m.parse(datagram); err != nil {
		return err
	}
	x := &exchange{Engine: e, m: m, now: now, from: from, key: m.key(), server: e.config.Server, send: send}
	if string(m.options[optionClient]) == probeClient(e.config.Server) {
		return nil // our own probe, which the kernel loops back
	}
	if x.key == "" {
		return errors.New("packet has neither an Ethernet address nor a client identifier")
	}
	x.client = m.client(e.config.Interface)
	switch {
	case binl:
		x.binl()
	case e.config.Mode == Proxy:
		x.proxy()
	case e.config.Mode == Own:
		x.own()
	}
	return nil
}

// decide asks for the verdict on a client that wants to boot, and reports whether it may be answered.
func (x *exchange) decide() bool {
	if x.client.Method == "" {
		return true
	}
	x.boot = x.config.Decide(x.client)
	if x.boot.Refused != "" {
		x.config.Observe(Refused, x.client, x.boot.Refused)
	}
	return x.boot.Refused == ""
}

func (x *exchange) observe(step Step) {
	if x.client.Method != "" || step == Naked || step == Declined || step == Exhausted {
		x.config.Observe(step, x.client, "")
	}
}

// binl answers a boot server request (PXE 2.1 §2.2.4): the client has an address and asks only what to boot.
func (x *exchange) binl() {
	if (x.m.kind != typeRequest && x.m.kind != typeInform) || x.client.Method == "" || x.config.Mode == Off {
		return
	}
	x.client.Address = x.m.ciaddr
	if !x.m.ciaddr.IsValid() {
		x.client.Address = address(x.m.options[optionAddress])
	}
	if !x.decide() {
		return
	}
	w := x.reply(typeAck, netip.Addr{}, x.m.ciaddr)
	x.bootOptions(w)
	to := x.from // firmware asks from port 4011 and listens there; older ROMs ask from 68
	if !to.Addr().IsValid() || to.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(broadcast, to.Port())
	}
	x.observe(Binl)
	x.send(Reply{Payload: x.finish(w), To: to})
}

// proxy answers DISCOVER without an address and only watches everything else on port 67: which address the client takes from the
// foreign server is how TFTP and HTTP know it later.
func (x *exchange) proxy() {
	if x.client.Method == "" {
		return
	}
	switch x.m.kind {
	case typeRequest:
		x.client.Address = address(x.m.options[optionAddress])
		if !x.client.Address.IsValid() {
			x.client.Address = x.m.ciaddr
		}
		x.observe(Requested)
	case typeDiscover:
		x.observe(Discovered)
		if !x.decide() {
			return
		}
		w := x.reply(typeOffer, netip.Addr{}, netip.Addr{})
		x.bootOptions(w)
		x.observe(Offering)
		x.send(Reply{Payload: x.finish(w), To: x.destination(netip.Addr{}, false)})
	}
}

// own serves an interface whose addresses are ours (RFC 2131 §4.3).
func (x *exchange) own() {
	if over := address(x.m.relay(relayServer)); over.IsValid() {
		x.server = over
	}
	if x.subnet = x.choose(); x.subnet == nil {
		return // a relay of a network that is not ours
	}
	switch x.m.kind {
	case typeDiscover:
		x.discover()
	case typeRequest:
		x.request()
	case typeDecline:
		x.decline()
	case typeRelease:
		if x.mine() {
			x.config.Leases.Release(x.now, x.subnet.Range, x.m.ciaddr, x.key)
		}
	case typeInform:
		x.inform()
	}
}

// choose finds the network of the client: link selection, relay address, else the on-link network.
func (x *exchange) choose() *Subnet {
	where := x.m.giaddr
	if link := address(x.m.relay(relayLink)); link.IsValid() {
		where = link
	}
	if !where.IsValid() {
		where = x.config.Server
	}
	for i := range x.config.Subnets {
		if x.config.Subnets[i].Prefix.Contains(where) {
			return &x.config.Subnets[i]
		}
	}
	return nil
}

// mine reports whether option 54 names this server.
func (x *exchange) mine() bool { return address(x.m.options[optionServer]) == x.server }

func (x *exchange) discover() {
	x.observe(Discovered)
	if (x.config.Rival() == Yield && !x.known()) || !x.decide() {
		return
	}
	got, ok := x.config.Leases.Offer(x.now, x.subnet.Range, x.key, address(x.m.options[optionAddress]))
	if !ok {
		x.observe(Exhausted)
		return
	}
	x.client.Address = got
	w := x.reply(typeOffer, got, netip.Addr{})
	x.leaseOptions(w)
	x.networkOptions(w)
	x.bootOptions(w)
	x.observe(Offering)
	x.send(Reply{Payload: x.finish(w), To: x.destination(netip.Addr{}, false)})
}

func (x *exchange) request() {
	want := address(x.m.options[optionAddress])
	if x.m.options[optionServer] != nil { // SELECTING
		if !x.mine() {
			x.config.Leases.Withdraw(x.now, x.subnet.Range, x.key)
			return
		}
		if !want.IsValid() || !x.decide() {
			return
		}
	} else if x.m.ciaddr.IsValid() { // RENEWING or REBINDING
		want = x.m.ciaddr
	} else if !want.IsValid() {
		return
	}
	x.client.Address = want
	if !x.subnet.Prefix.Contains(want) {
		x.nak()
		return
	}
	w := x.reply(typeAck, want, x.m.ciaddr)
	x.leaseOptions(w)
	x.networkOptions(w)
	x.bootOptions(w)
	reply, leases := Reply{Payload: x.finish(w), To: x.destination(x.m.ciaddr, false)}, x.config.Leases
	bound := lease.Lease{Address: want, Key: x.key, Until: x.now.Add(x.length()), Host: x.m.host()}
	client, config, send := x.client, x.config, x.send
	err := leases.Bind(x.now, x.subnet.Range, bound, func(err error) {
		if err != nil {
			return // the store says so once; the client asks again
		}
		if client.Method != "" {
			config.Observe(Acked, client, "")
		}
		send(reply)
	})
	if err != nil {
		x.nak()
	}
}

// known reports whether the client ever had an address of ours.
func (x *exchange) known() bool {
	l, ok := x.config.Leases.Known(x.subnet.Range, x.key)
	return ok && l.State != lease.Offered
}

func (x *exchange) nak() {
	if x.config.Rival() != Alone && !x.known() && x.m.options[optionServer] == nil {
		return // perhaps the foreign server gave it
	}
	w := x.reply(typeNak, netip.Addr{}, netip.Addr{})
	if x.m.giaddr.IsValid() {
		w.b[10] |= flagBroadcast >> 8 // RFC 2131 §4.3.2: the relay must not unicast to an address that is refused
	}
	x.observe(Naked)
	x.send(Reply{Payload: x.finish(w), To: x.destination(netip.Addr{}, true)})
}

func (x *exchange) decline() {
	x.client.Address = address(x.m.options[optionAddress])
	if x.mine() && x.config.Leases.Decline(x.now, x.subnet.Range, x.client.Address, x.key) {
		x.observe(Declined)
	}
}

// inform tells a machine with an address of its own what else there is to know. It must carry no lease (RFC 2131 §4.3.5).
func (x *exchange) inform() {
	if !x.m.ciaddr.IsValid() || !x.decide() {
		return
	}
	w := x.reply(typeAck, netip.Addr{}, x.m.ciaddr)
	x.networkOptions(w)
	x.bootOptions(w)
	x.send(Reply{Payload: x.finish(w), To: x.destination(x.m.ciaddr, false)})
}

// length is how long the client's lease lasts. It is stretched by nothing: short leases free addresses of machines that boot once.
func (x *exchange) length() time.Duration {
	if x.client.Method != "" {
		return x.config.BootLease
	}
	return x.config.Lease
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// destination is RFC 2131 §4.1, with one choice of ours: a client without an address is reached by broadcast even when it did not set
// the flag, which every client hears, instead of unicast to an address it does not have yet.
func (x *exchange) destination(ciaddr netip.Addr, nak bool) netip.AddrPort {
	switch {
	case x.m.giaddr.IsValid() && x.m.relay(relaySourcePort) != nil && x.from.Port() != 0:
		return netip.AddrPortFrom(x.m.giaddr, x.from.Port())
	case x.m.giaddr.IsValid():
		return netip.AddrPortFrom(x.m.giaddr, x.config.Relay)
	case ciaddr.IsValid() && !nak:
		return netip.AddrPortFrom(ciaddr, x.config.Client)
	}
	return netip.AddrPortFrom(broadcast, x.config.Client)
}

// reply starts an answer: header, type, server, and what must be echoed.
func (x *exchange) reply(kind byte, yiaddr, ciaddr netip.Addr) *writer {
	w := &writer{b: make([]byte, headerSize, 576), limit: 548}
	if maximum := x.m.options[optionMaximum]; len(maximum) == 2 {
		// The option counts the IP datagram (as every firmware reads it). 1472 is what Ethernet carries.
		w.limit = min(max(int(binary.BigEndian.Uint16(maximum))-28, 548), 1472)
	}
	w.limit -= len(x.m.options[optionRelay]) + 2 + 1
	b := w.b
	copy(b, x.m.data[:12]) // op, htype, hlen, hops, xid, secs, flags
	b[0], b[3] = 2, 0
	b[8], b[9] = 0, 0
	copy(b[24:44], x.m.data[24:44]) // giaddr, chaddr
	put(b[12:], ciaddr)
	put(b[16:], yiaddr)
	copy(b[236:], "\x63\x82\x53\x63")
	w.option(optionType, kind)
	w.addresses(optionServer, x.server)
	if id := x.m.options[optionClient]; id != nil {
		w.option(optionClient, id...) // RFC 6842
	}
	if id := x.m.options[optionUUID]; id != nil {
		w.option(optionUUID, id...)
	}
	return w
}

func put(b []byte, a netip.Addr) {
	if a.Is4() {
		four := a.As4()
		copy(b, four[:])
	}
}

func (x *exchange) leaseOptions(w *writer) {
	seconds := uint32(x.length() / time.Second)
	w.seconds(optionLease, seconds)
	w.seconds(optionRenew, seconds/2)
	w.seconds(optionRebind, seconds/8*7)
}

func (x *exchange) networkOptions(w *writer) {
	mask := uint32(0xffffffff) << (32 - x.subnet.Prefix.Bits())
	w.seconds(optionMask, mask)
	w.addresses(optionRouter, x.subnet.Router)
	w.addresses(optionDNS, x.subnet.DNS...)
	w.addresses(optionNTP, x.subnet.NTP...)
	w.text(optionDomain, x.subnet.Domain)
}

// bootOptions says what to boot, in every place where some client looks for it.
func (x *exchange) bootOptions(w *writer) {
	if x.boot.File == "" {
		return
	}
	put(w.b[20:], x.config.Server)      // siaddr
	copy(w.b[108:235], x.boot.File)     // file, NUL-terminated; U-Boot reads nothing else
	nul := []byte(x.boot.File + "\x00") // EDK2 writes a NUL behind option 67 when there is none, over the next option
	switch x.client.Method {
	case Initrd:
		w.text(optionClass, classRoost)
		nul = nul[:len(nul)-1]
	case HTTP:
		w.text(optionClass, classHTTP)
		nul = nul[:len(nul)-1]
	default:
		w.text(optionClass, classPXE)
		w.option(optionVendor, 6, 1, 8, 255) // boot the named file, ask nobody else (PXE 2.1 table 2-3)
		w.text(optionTFTPServer, x.config.Server.String())
		if x.client.Method == IPXE || x.client.Method == IPXEUEFI {
			w.option(optionIPXE, 176, 1, 1) // no-pxedhcp: saves the wait for a proxy
		}
	}
	w.option(optionBootFile, nul...)
	if len(w.b) < w.limit {
		w.b = append(w.b, optionPad) // room for that NUL where the value must not have one
	}
}

// finish closes the answer: relay information last (RFC 3046 §2.1), End, and padding to the size BOOTP relays expect.
func (x *exchange) finish(w *writer) []byte {
	if relay := x.m.options[optionRelay]; len(relay) > 0 && len(relay) <= 255 {
		w.b = append(append(w.b, optionRelay, byte(len(relay))), relay...)
	}
	w.b = append(w.b, optionEnd)
	if short := 300 - len(w.b); short > 0 {
		w.b = append(w.b, make([]byte, short)...)
	}
	return w.b
}
