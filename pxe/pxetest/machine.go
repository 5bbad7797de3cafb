package pxetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"roost/pxe/tftp/tftptest"
)

// ErrIgnored means that no DHCP server answered, which is how a boot server refuses.
var ErrIgnored = errors.New("no DHCP answer")

// Machine is one machine.
type Machine struct {
	MAC      net.HardwareAddr
	Arch     iana.Arch     // 7 loads by TFTP, 16 by HTTP
	Relay    *Relay        // its network
	TFTPPort uint16        // of the server
	Wait     time.Duration // before the first repeat of a DHCP request; 0 = 4 s, as EDK2
	Tries    int           // of a DHCP request; 0 = 4
}

// Boot is what a machine got.
type Boot struct {
	Address netip.Addr // by DHCP
	File    string     // TFTP name or URL
	UKI     []byte
	Base    string // URL of the boot server, from the initrd's DHCP
	Site    map[string]string
	client  *http.Client
}

// Address gets an address as a machine that boots from its disk does.
func (m *Machine) Address(ctx context.Context) (netip.Addr, error) {
	ack, err := m.lease(ctx, "")
	if err != nil {
		return netip.Addr{}, err
	}
	address, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	return address, nil
}

// Load is what firmware does: address, boot file, content.
func (m *Machine) Load(ctx context.Context) (*Boot, error) {
	class := fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003016", m.Arch)
	if m.Arch == iana.EFI_X86_64_HTTP {
		class = fmt.Sprintf("HTTPClient:Arch:%05d:UNDI:003016", m.Arch)
	}
	uuid := append(make([]byte, 11), m.MAC...)
	ack, err := m.lease(ctx, class, dhcpv4.WithOption(dhcpv4.OptClientArch(m.Arch)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, uuid)))
	if err != nil {
		return nil, err
	}
	word, _, _ := strings.Cut(class, ":")
	if got := ack.ClassIdentifier(); got != word {
		return nil, fmt.Errorf("class of the answer is %q, want %q", got, word)
	}
	b := &Boot{File: ack.BootFileName}
	b.Address, _ = netip.AddrFromSlice(ack.YourIPAddr.To4())
	b.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ack.YourIPAddr}}).DialContext, DisableKeepAlives: true}}
	if word == "HTTPClient" {
		b.UKI, err = b.Get(ctx, b.File)
		return b, err
	}
	server, _ := netip.AddrFromSlice(ack.ServerIPAddr.To4())
	b.UKI, err = b.tftp(netip.AddrPortFrom(server, m.TFTPPort))
	return b, err
}

// tftp loads as EDK2 does: first a request that asks for the size and is aborted, then one for the file.
func (b *Boot) tftp(server netip.AddrPort) ([]byte, error) {
	var content []byte
	for _, options := range [][]string{{"tsize", "0", "blksize", "1468", "windowsize", "4"}, {"blksize", "1468", "windowsize", "4"}} {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: b.Address.AsSlice()})
		if err != nil {
			return nil, err
		}
		c := &tftptest.Client{Conn: conn, Server: server, Name: b.File, Options: options, Probe: options[0] == "tsize"}
		content, err = c.Fetch()
		if err := errors.Join(err, conn.Close()); err != nil {
			return nil, fmt.Errorf("cannot load %s: %w", b.File, err)
		}
	}
	return content, nil
}

// Init is what the initrd does next: DHCP again under its own class, and the facts of the site.
func (m *Machine) Init(ctx context.Context, b *Boot) error {
	ack, err := m.lease(ctx, "Roost", dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, m.MAC...))))
	if err != nil {
		return err
	}
	if got, _ := netip.AddrFromSlice(ack.YourIPAddr.To4()); got != b.Address {
		return fmt.Errorf("firmware had address %s, the initrd gets %s", b.Address, got)
	}
	if ack.ClassIdentifier() != "Roost" {
		return fmt.Errorf("class of the answer is %q", ack.ClassIdentifier())
	}
	b.Base = ack.BootFileNameOption()
	if _, err := url.Parse(b.Base); err != nil {
		return err
	}
	site, err := b.Get(ctx, b.Base+"/v1/site")
	if err != nil {
		return err
	}
	return json.Unmarshal(site, &b.Site)
}

// Get loads a URL from the machine's address. HEAD first, as firmware does, to know the size.
func (b *Boot) Get(ctx context.Context, address string) ([]byte, error) {
	var size int64
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		r, err := http.NewRequestWithContext(ctx, method, address, nil)
		if err != nil {
			return nil, err
		}
		response, err := b.client.Do(r)
		if err != nil {
			return nil, err
		}
		body := new(bytes.Buffer)
		_, err = io.Copy(body, response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			return nil, fmt.Errorf("cannot load %s: %w", address, err)
		}
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("cannot load %s: %s", address, response.Status)
		}
		if method == http.MethodHead {
			size = response.ContentLength
			continue
		}
		if size < 0 || int64(body.Len()) != size {
			return nil, fmt.Errorf("cannot load %s: %d bytes, HEAD said %d", address, body.Len(), size)
		}
		return body.Bytes(), nil
	}
	return nil, nil
}

// lease runs DISCOVER, OFFER, REQUEST, ACK.
func (m *Machine) lease(ctx context.Context, class string, modifiers ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	wait, tries := m.Wait, m.Tries
	if wait == 0 {
		wait = 4 * time.Second
	}
	if tries == 0 {
		tries = 4
	}
	all := append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(m.MAC), dhcpv4.WithBroadcast(true)}, modifiers...)
	if class != "" {
		all = append(all, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)))
	}
	discover, err := dhcpv4.New(append(all, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))...)
	if err != nil {
		return nil, err
	}
	offer, err := m.Relay.exchange(ctx, discover, wait, tries)
	if err != nil || offer == nil {
		return nil, errors.Join(ErrIgnored, err)
	}
	request, err := dhcpv4.New(append(all, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)))...)
	if err != nil {
		return nil, err
	}
	ack, err := m.Relay.exchange(ctx, request, wait, tries)
	if err != nil || ack == nil {
		return nil, errors.Join(ErrIgnored, err)
	}
	if ack.MessageType() != dhcpv4.MessageTypeAck {
		return nil, fmt.Errorf("request for %s is answered by %s", offer.YourIPAddr, ack.MessageType())
	}
	return ack, nil
}
