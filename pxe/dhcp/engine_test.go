package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"roost/pxe/lease"
)

var (
	start   = time.Unix(1_800_000_000, 0)
	server  = netip.MustParseAddr("10.77.0.1")
	mac     = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	onLink  = netip.MustParseAddrPort("0.0.0.0:68")
	uuid    = []byte{0, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	ukiName = "roost-0123456789ab.efi"
)

// wire is an engine with a recorder of what it said.
type wire struct {
	*Engine
	t       testing.TB
	leases  *lease.Store
	steps   []string
	refuse  string
	rivalry Rivalry
}

func newWire(t testing.TB, mode Mode) *wire {
	leases, err := lease.Open(lease.Config{Ranges: []lease.Range{
		{First: netip.MustParseAddr("10.77.0.100"), Last: netip.MustParseAddr("10.77.0.199"), Reserved: map[lease.Key]netip.Addr{"\x52\x54\x00\x00\x00\x63": netip.MustParseAddr("10.77.0.9")}},
		{First: netip.MustParseAddr("10.78.0.100"), Last: netip.MustParseAddr("10.78.0.199")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, leases: leases}
	w.Engine = New(Config{
		Interface: "eth0", Mode: mode, Server: server, Leases: leases,
		Subnets: []Subnet{
			{Prefix: netip.MustParsePrefix("10.77.0.0/24"), Range: 0, Router: server, DNS: []netip.Addr{server}, Domain: "site.example"},
			{Prefix: netip.MustParsePrefix("10.78.0.0/16"), Range: 1, Router: netip.MustParseAddr("10.78.0.1")},
		},
		Decide: func(c Client) Boot {
			if w.refuse != "" {
				return Boot{Refused: w.refuse}
			}
			return Boot{File: map[Method]string{BIOS: "undionly.kpxe", UEFI: ukiName, HTTP: "http://10.77.0.1:8069/boot/x.efi",
				IPXE: "http://10.77.0.1:8069/ipxe/x.ipxe", IPXEUEFI: "http://10.77.0.1:8069/boot/x.efi", Initrd: "http://10.77.0.1:8069"}[c.Method]}
		},
		Observe: func(s Step, c Client, reason string) {
			w.steps = append(w.steps, strings.TrimSpace(fmt.Sprintf("%s %s %s", s, c.Address, reason)))
		},
		Rival: func() Rivalry { return w.rivalry },
	})
	return w
}

// ask sends p and returns the answer, nil when there is none.
func (w *wire) ask(p *dhcpv4.DHCPv4, from netip.AddrPort, binl bool) (*dhcpv4.DHCPv4, netip.AddrPort) {
	w.t.Helper()
	var got []Reply
	if err := w.Answer(start, p.ToBytes(), from, binl, func(r Reply) { got = append(got, r) }); err != nil {
		w.t.Fatalf("%s: %v", p.Summary(), err)
	}
	switch len(got) {
	case 0:
		return nil, netip.AddrPort{}
	case 1:
	default:
		w.t.Fatalf("%d answers to one packet", len(got))
	}
	reply, err := dhcpv4.FromBytes(got[0].Payload)
	if err != nil {
		w.t.Fatalf("answer does not parse: %v", err)
	}
	if reply.TransactionID != p.TransactionID || !bytes.Equal(reply.ClientHWAddr, p.ClientHWAddr) {
		w.t.Errorf("answer is for another client: %s", reply.Summary())
	}
	if reply.ServerIdentifier() == nil {
		w.t.Errorf("answer without option 54: %s", reply.Summary())
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionClientMachineIdentifier, dhcpv4.OptionRelayAgentInformation} {
		if !bytes.Equal(reply.Options.Get(code), p.Options.Get(code)) {
			w.t.Errorf("option %d is % x, sent % x", code.Code(), reply.Options.Get(code), p.Options.Get(code))
		}
	}
	if reply.Options.Has(dhcpv4.OptionBootFileSize) {
		w.t.Error("answer has option 13, which caps the file near 32 MB")
	}
	return reply, got[0].To
}

func packet(t testing.TB, kind dhcpv4.MessageType, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind), dhcpv4.WithBroadcast(true)}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func firmware(class string, arch iana.Arch) dhcpv4.Modifier {
	return func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptClassIdentifier(class))
		p.UpdateOption(dhcpv4.OptClientArch(arch))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, uuid))
	}
}

func option(code byte, value ...byte) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), value))
}

func four(s string) []byte { return net.ParseIP(s).To4() }

const pxeClass = "PXEClient:Arch:00007:UNDI:003016"

func TestBootAnswers(t *testing.T) {
	for _, c := range []struct {
		name     string
		modify   []dhcpv4.Modifier
		class    string
		file     string
		option67 string
		vendor   []byte
	}{
		{"plain", nil, "", "", "", nil},
		{"uefi 7", []dhcpv4.Modifier{firmware(pxeClass, 7)}, "PXEClient", ukiName, ukiName + "\x00", []byte{6, 1, 8, 255}},
		{"uefi 9", []dhcpv4.Modifier{firmware("PXEClient:Arch:00009", 9)}, "PXEClient", ukiName, ukiName + "\x00", []byte{6, 1, 8, 255}},
		{"uefi 6", []dhcpv4.Modifier{firmware("PXEClient:Arch:00006", 6)}, "PXEClient", ukiName, ukiName + "\x00", []byte{6, 1, 8, 255}},
		{"arm 11", []dhcpv4.Modifier{firmware("PXEClient:Arch:00011", 11)}, "PXEClient", ukiName, ukiName + "\x00", []byte{6, 1, 8, 255}},
		{"architecture only in the class", []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClassIdentifier(pxeClass))}, "PXEClient", ukiName, ukiName + "\x00", []byte{6, 1, 8, 255}},
		{"bios", []dhcpv4.Modifier{firmware("PXEClient:Arch:00000:UNDI:002001", 0)}, "PXEClient", "undionly.kpxe", "undionly.kpxe\x00", []byte{6, 1, 8, 255}},
		{"ipxe raw", []dhcpv4.Modifier{firmware("PXEClient:Arch:00000:UNDI:002001", 0), option(77, []byte("iPXE")...)}, "PXEClient",
			"http://10.77.0.1:8069/ipxe/x.ipxe", "http://10.77.0.1:8069/ipxe/x.ipxe\x00", []byte{6, 1, 8, 255}},
		{"ipxe prefixed", []dhcpv4.Modifier{firmware(pxeClass, 7), option(77, []byte("\x04iPXE")...)}, "PXEClient",
			"http://10.77.0.1:8069/boot/x.efi", "http://10.77.0.1:8069/boot/x.efi\x00", []byte{6, 1, 8, 255}},
		{"http 16", []dhcpv4.Modifier{firmware("HTTPClient:Arch:00016:UNDI:003000", 16)}, "HTTPClient",
			"http://10.77.0.1:8069/boot/x.efi", "http://10.77.0.1:8069/boot/x.efi", nil},
		{"initrd", []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClassIdentifier("Roost"))}, "Roost", "http://10.77.0.1:8069", "http://10.77.0.1:8069", nil},
	} {
		for _, mode := range []Mode{Own, Proxy} {
			t.Run(c.name+" "+string(mode), func(t *testing.T) {
				w := newWire(t, mode)
				offer, to := w.ask(packet(t, dhcpv4.MessageTypeDiscover, c.modify...), onLink, false)
				if mode == Proxy && c.class == "" {
					if offer != nil {
						t.Fatalf("a proxy answers a client that does not boot: %s", offer.Summary())
					}
					return
				}
				if offer == nil {
					t.Fatal("no answer")
				}
				if to != netip.MustParseAddrPort("255.255.255.255:68") {
					t.Errorf("sent to %s", to)
				}
				if proxied := offer.YourIPAddr.IsUnspecified(); proxied != (mode == Proxy) {
					t.Errorf("yiaddr %s", offer.YourIPAddr)
				}
				if leased := offer.Options.Has(dhcpv4.OptionIPAddressLeaseTime); leased != (mode == Own) {
					t.Errorf("lease time in answer: %t", leased)
				}
				if offer.ClassIdentifier() != c.class || offer.BootFileName != c.file || string(offer.Options.Get(dhcpv4.OptionBootfileName)) != c.option67 {
					t.Errorf("class %q, file %q, option 67 %q", offer.ClassIdentifier(), offer.BootFileName, offer.Options.Get(dhcpv4.OptionBootfileName))
				}
				if got := offer.Options.Get(dhcpv4.OptionVendorSpecificInformation); !bytes.Equal(got, c.vendor) {
					t.Errorf("option 43 is % x, want % x", got, c.vendor)
				}
				if c.class != "" && !offer.ServerIPAddr.Equal(server.AsSlice()) {
					t.Errorf("siaddr %s", offer.ServerIPAddr)
				}
				if !offer.IsBroadcast() {
					t.Error("broadcast flag is lost")
				}
			})
		}
	}
}

func (w *wire) lease(t *testing.T) net.IP {
	t.Helper()
	offer, _ := w.ask(packet(t, dhcpv4.MessageTypeDiscover), onLink, false)
	ack, _ := w.ask(packet(t, dhcpv4.MessageTypeRequest, option(50, offer.YourIPAddr...), option(54, server.AsSlice()...)), onLink, false)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("request is answered by %v", ack)
	}
	return ack.YourIPAddr
}

func TestRequests(t *testing.T) {
	const ack, nak, none = dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak, dhcpv4.MessageTypeNone
	other := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	for _, c := range []struct {
		name   string
		modify []dhcpv4.Modifier
		want   dhcpv4.MessageType
		to     string
		rival  Rivalry
	}{
		{"selecting us", []dhcpv4.Modifier{option(54, four("10.77.0.1")...), option(50, four("{leased}")...)}, ack, "255.255.255.255:68", Alone},
		{"selecting another server", []dhcpv4.Modifier{option(54, four("10.77.0.2")...), option(50, four("10.77.0.50")...)}, none, "", Alone},
		{"selecting nothing", []dhcpv4.Modifier{option(54, four("10.77.0.1")...)}, none, "", Alone},
		{"selecting what another has", []dhcpv4.Modifier{dhcpv4.WithHwAddr(other), option(54, four("10.77.0.1")...), option(50, four("{leased}")...)}, nak, "255.255.255.255:68", Alone},
		{"init-reboot", []dhcpv4.Modifier{option(50, four("{leased}")...)}, ack, "255.255.255.255:68", Alone},
		{"init-reboot on the wrong network", []dhcpv4.Modifier{option(50, four("192.168.1.7")...)}, nak, "255.255.255.255:68", Alone},
		{"init-reboot with a stranger's address", []dhcpv4.Modifier{dhcpv4.WithHwAddr(other), option(50, four("{leased}")...)}, nak, "255.255.255.255:68", Alone},
		{"init-reboot of an unknown client, free address", []dhcpv4.Modifier{dhcpv4.WithHwAddr(other), option(50, four("10.77.0.150")...)}, ack, "255.255.255.255:68", Alone},
		{"init-reboot outside the range", []dhcpv4.Modifier{dhcpv4.WithHwAddr(other), option(50, four("10.77.0.50")...)}, nak, "255.255.255.255:68", Alone},
		{"the same beside a foreign server", []dhcpv4.Modifier{dhcpv4.WithHwAddr(other), option(50, four("10.77.0.50")...)}, none, "", Beside},
		{"renewing", []dhcpv4.Modifier{dhcpv4.WithClientIP(four("{leased}")), dhcpv4.WithBroadcast(false)}, ack, "{leased}:68", Alone},
		{"renewing a stranger's address", []dhcpv4.Modifier{dhcpv4.WithHwAddr(other), dhcpv4.WithClientIP(four("{leased}"))}, nak, "255.255.255.255:68", Alone},
		{"no address at all", nil, none, "", Alone},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t, Own)
			leased := w.lease(t)
			w.rivalry = c.rival
			p := packet(t, dhcpv4.MessageTypeRequest, c.modify...)
			fill(p, leased)
			reply, to := w.ask(p, onLink, false)
			if c.want == none {
				if reply != nil {
					t.Fatalf("answered by %s", reply.Summary())
				}
				return
			}
			if reply == nil || reply.MessageType() != c.want {
				t.Fatalf("answered by %v, want %s", reply, c.want)
			}
			if want := strings.ReplaceAll(c.to, "{leased}", leased.String()); to.String() != want {
				t.Errorf("sent to %s, want %s", to, want)
			}
			if c.want == nak && (!reply.YourIPAddr.IsUnspecified() || reply.Options.Has(dhcpv4.OptionIPAddressLeaseTime)) {
				t.Errorf("NAK with an address: %s", reply.Summary())
			}
		})
	}
}

// fill puts the leased address where a table says so: four("{leased}") is empty.
func fill(p *dhcpv4.DHCPv4, leased net.IP) {
	if p.Options.Has(dhcpv4.OptionRequestedIPAddress) && len(p.Options.Get(dhcpv4.OptionRequestedIPAddress)) == 0 {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(leased))
	}
	if p.ClientIPAddr == nil {
		p.ClientIPAddr = leased
	}
}

func TestDeclineReleaseInform(t *testing.T) {
	w := newWire(t, Own)
	leased := w.lease(t)
	w.ask(packet(t, dhcpv4.MessageTypeDecline, option(50, leased...), option(54, server.AsSlice()...)), onLink, false)
	again := w.lease(t)
	if again.Equal(leased) {
		t.Errorf("the declined address %s is given again", leased)
	}
	w.ask(packet(t, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(again), option(54, server.AsSlice()...)), onLink, false)
	if l := w.leases.Leases(start); len(l) != 1 || l[0].State != lease.Declined {
		t.Errorf("after decline and release: %v", l)
	}
	ack, to := w.ask(packet(t, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(four("10.77.0.5"))), onLink, false)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.IsUnspecified() || ack.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
		t.Fatalf("inform is answered by %v", ack)
	}
	if to.String() != "10.77.0.5:68" || len(ack.Router()) != 1 {
		t.Errorf("to %s: %s", to, ack.Summary())
	}
}

func TestProxyIsSilentOn67(t *testing.T) {
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease} {
		for _, id := range []string{"10.77.0.1", "10.77.0.254"} {
			w := newWire(t, Proxy)
			p := packet(t, kind, firmware(pxeClass, 7), option(50, four("10.77.0.60")...), option(54, four(id)...))
			if reply, _ := w.ask(p, onLink, false); reply != nil {
				t.Errorf("%s on port 67 is answered by %s", kind, reply.Summary())
			}
			if kind == dhcpv4.MessageTypeRequest && strings.Join(w.steps, ",") != "request 10.77.0.60" {
				t.Errorf("steps of a request: %q", w.steps)
			}
		}
	}
}

func TestBINL(t *testing.T) {
	for _, mode := range []Mode{Own, Proxy} {
		w := newWire(t, mode)
		from := netip.MustParseAddrPort("10.77.0.60:4011")
		p := packet(t, dhcpv4.MessageTypeRequest, firmware(pxeClass, 7), dhcpv4.WithClientIP(four("10.77.0.60")))
		ack, to := w.ask(p, from, true)
		if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || to != from {
			t.Fatalf("%s: answered by %v to %s", mode, ack, to)
		}
		if ack.BootFileName != ukiName || ack.ClassIdentifier() != "PXEClient" || !ack.YourIPAddr.IsUnspecified() {
			t.Errorf("%s: %s", mode, ack.Summary())
		}
		if got, _ := w.ask(packet(t, dhcpv4.MessageTypeRequest), from, true); got != nil {
			t.Errorf("%s: a client that does not boot is answered on 4011", mode)
		}
	}
}

func TestRefusalIsSilence(t *testing.T) {
	for _, mode := range []Mode{Own, Proxy} {
		w := newWire(t, mode)
		w.refuse = "not approved"
		if offer, _ := w.ask(packet(t, dhcpv4.MessageTypeDiscover, firmware(pxeClass, 7)), onLink, false); offer != nil {
			t.Errorf("%s: refused client is offered %s", mode, offer.Summary())
		}
		if ack, _ := w.ask(packet(t, dhcpv4.MessageTypeRequest, firmware(pxeClass, 7)), netip.MustParseAddrPort("10.77.0.60:4011"), true); ack != nil {
			t.Errorf("%s: refused client is answered on 4011", mode)
		}
		if got := strings.Join(w.steps, ","); !strings.Contains(got, "refused invalid IP not approved") {
			t.Errorf("%s: steps %q", mode, got)
		}
	}
}

func TestYieldToForeignServer(t *testing.T) {
	w := newWire(t, Own)
	w.lease(t)
	w.rivalry = Yield
	if offer, _ := w.ask(packet(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9})), onLink, false); offer != nil {
		t.Error("an unknown client is offered an address beside a foreign server")
	}
	if offer, _ := w.ask(packet(t, dhcpv4.MessageTypeDiscover), onLink, false); offer == nil {
		t.Error("a known client is left alone")
	}
}

func TestRelay(t *testing.T) {
	giaddr := func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = four("10.78.0.1") }
	from := netip.MustParseAddrPort("10.78.0.1:1067")
	circuit := []byte{1, 4, 'e', 't', 'h', '7'}
	for _, c := range []struct {
		name     string
		relay    []byte
		network  string
		server   string
		to       string
		gateway  string
		answered bool
	}{
		{"by relay address", circuit, "10.78.0.0/16", "10.77.0.1", "10.78.0.1:67", "10.78.0.1", true},
		{"link selection", append(bytes.Clone(circuit), 5, 4, 10, 77, 0, 0), "10.77.0.0/24", "10.77.0.1", "10.78.0.1:67", "10.78.0.1", true},
		{"server override", append(bytes.Clone(circuit), 11, 4, 10, 78, 0, 1), "10.78.0.0/16", "10.78.0.1", "10.78.0.1:67", "10.78.0.1", true},
		{"source port", append(bytes.Clone(circuit), 19, 0), "10.78.0.0/16", "10.77.0.1", "10.78.0.1:1067", "10.78.0.1", true},
		{"unknown network", circuit, "", "", "", "192.168.5.1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t, Own)
			p := packet(t, dhcpv4.MessageTypeDiscover, giaddr, option(82, c.relay...))
			p.GatewayIPAddr = four(c.gateway)
			offer, to := w.ask(p, from, false)
			if !c.answered {
				if offer != nil {
					t.Fatalf("answered by %s", offer.Summary())
				}
				return
			}
			got, _ := netip.AddrFromSlice(offer.YourIPAddr.To4())
			if to.String() != c.to || !netip.MustParsePrefix(c.network).Contains(got) || offer.ServerIdentifier().String() != c.server || !offer.GatewayIPAddr.Equal(four(c.gateway)) {
				t.Errorf("to %s: %s", to, offer.Summary())
			}
			var raw []byte
			_ = w.Answer(start, p.ToBytes(), from, false, func(r Reply) { raw = r.Payload })
			tail := append(append([]byte{82, byte(len(c.relay))}, c.relay...), 255)
			if !bytes.HasSuffix(bytes.TrimRight(raw, "\x00"), tail) {
				t.Errorf("option 82 is not the last: % x", raw)
			}
			request := packet(t, dhcpv4.MessageTypeRequest, giaddr, option(82, c.relay...), option(50, offer.YourIPAddr...), option(54, offer.ServerIdentifier()...))
			if ack, _ := w.ask(request, from, false); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
				t.Errorf("request with the identifier of the offer: %v", ack)
			}
			nak, _ := w.ask(packet(t, dhcpv4.MessageTypeRequest, giaddr, dhcpv4.WithBroadcast(false), option(82, c.relay...), option(50, four("172.16.0.1")...)), from, false)
			if nak == nil || !nak.IsBroadcast() {
				t.Errorf("NAK through a relay must have the broadcast flag: %v", nak)
			}
		})
	}
}

func TestReservation(t *testing.T) {
	w := newWire(t, Own)
	offer, _ := w.ask(packet(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x63})), onLink, false)
	if offer.YourIPAddr.String() != "10.77.0.9" {
		t.Errorf("reserved 10.77.0.9, offered %s", offer.YourIPAddr)
	}
}

func TestMessageSizeIsRespected(t *testing.T) {
	for _, maximum := range []int{0, 300, 576, 1472, 65535} {
		w := newWire(t, Own)
		relay := bytes.Repeat([]byte{1, 1, 1}, 80)
		modify := []dhcpv4.Modifier{firmware(pxeClass, 7), option(61, bytes.Repeat([]byte{7}, 250)...), option(82, relay...), dhcpv4.WithGatewayIP(four("10.78.0.1"))}
		limit := 576 - 28
		if maximum > 0 {
			modify = append(modify, option(57, byte(maximum>>8), byte(maximum)))
			limit = min(max(maximum-28, limit), 1472)
		}
		offered := 0
		err := w.Answer(start, packet(t, dhcpv4.MessageTypeDiscover, modify...).ToBytes(), onLink, false, func(r Reply) { offered = len(r.Payload) })
		if err != nil || offered == 0 || offered > limit+len(relay)+3 {
			t.Errorf("maximum %d: answer of %d bytes, %v", maximum, offered, err)
		}
	}
}

func TestOldPackets(t *testing.T) {
	w := newWire(t, Own)
	whole := packet(t, dhcpv4.MessageTypeDiscover, firmware(pxeClass, 7)).ToBytes()
	end := bytes.LastIndexByte(bytes.TrimRight(whole, "\x00"), 255)
	overloaded := bytes.Clone(whole[:240])
	overloaded = append(overloaded, 52, 1, 3, 53, 1, 1, 255)
	copy(overloaded[108:], "\x3c\x09PXEClient\xff") // file field
	copy(overloaded[44:], "\x5d\x02\x00\x07\xff")   // sname field
	for name, data := range map[string][]byte{"no End option": whole[:end], "overloaded fields": overloaded} {
		var got *dhcpv4.DHCPv4
		err := w.Answer(start, data, onLink, false, func(r Reply) { got, _ = dhcpv4.FromBytes(r.Payload) })
		if err != nil || got == nil || got.BootFileName != ukiName {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, data := range map[string][]byte{
		"empty": nil, "short": whole[:239], "a reply": append([]byte{2}, whole[1:]...), "cookie": append(bytes.Clone(whole[:236]), 1, 2, 3, 4),
		"option past the end": append(bytes.Clone(whole[:240]), 53, 200, 1), "no type": append(bytes.Clone(whole[:240]), 255),
		"long hardware address": append([]byte{1, 1, 17}, whole[3:]...),
	} {
		if err := w.Answer(start, data, onLink, false, func(Reply) { t.Errorf("%s is answered", name) }); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
}

func TestUUIDText(t *testing.T) {
	var m message
	if err := m.parse(packet(t, dhcpv4.MessageTypeDiscover, firmware(pxeClass, 7)).ToBytes()); err != nil {
		t.Fatal(err)
	}
	if got := m.client("eth0").UUID; got != "00112233-4455-6677-8899-aabbccddeeff" {
		t.Errorf("UUID is %s", got)
	}
}

// FuzzAnswer feeds any bytes to engines of both modes. Whatever comes, nothing panics and every answer is one that the other
// implementation reads, with server identifier, within the size limit.
func FuzzAnswer(f *testing.F) {
	for _, c := range []dhcpv4.Modifier{firmware(pxeClass, 7), firmware("HTTPClient:Arch:00016", 16), option(82, 1, 2, 3, 4, 11, 4, 1, 2, 3, 4), option(57, 0, 1)} {
		for kind := dhcpv4.MessageTypeDiscover; kind <= dhcpv4.MessageTypeInform; kind++ {
			f.Add(packet(f, kind, c, option(50, four("10.77.0.100")...)).ToBytes(), false)
			f.Add(packet(f, kind, c, option(54, server.AsSlice()...), dhcpv4.WithClientIP(four("10.77.0.100"))).ToBytes(), true)
		}
	}
	own, proxy := newWire(f, Own), newWire(f, Proxy)
	f.Fuzz(func(t *testing.T, data []byte, binl bool) {
		for _, w := range []*wire{own, proxy} {
			w.steps = w.steps[:0]
			_ = w.Answer(start, data, onLink, binl, func(r Reply) {
				if w == proxy && !binl && data[240+2] == typeRequest && data[240] == optionType {
					t.Error("proxy answered a REQUEST on port 67")
				}
				reply, err := dhcpv4.FromBytes(r.Payload)
				if err != nil {
					t.Fatalf("answer does not parse: %v", err)
				}
				if reply.ServerIdentifier() == nil || len(r.Payload) > 1472+3 || !r.To.IsValid() {
					t.Errorf("to %s: %s", r.To, reply.Summary())
				}
			})
		}
	})
}

func BenchmarkDORA(b *testing.B) {
	w := newWire(b, Own)
	discover := packet(b, dhcpv4.MessageTypeDiscover).ToBytes()
	b.ReportAllocs()
	for b.Loop() {
		var ip []byte
		if err := w.Answer(start, discover, onLink, false, func(r Reply) { ip = r.Payload[16:20] }); err != nil || ip == nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBootOffer(b *testing.B) {
	w := newWire(b, Own)
	w.config.Observe = func(Step, Client, string) {}
	discover := packet(b, dhcpv4.MessageTypeDiscover, firmware(pxeClass, 7)).ToBytes()
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Answer(start, discover, onLink, false, func(Reply) {}); err != nil {
			b.Fatal(err)
		}
	}
}
