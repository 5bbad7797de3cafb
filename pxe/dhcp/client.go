package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/iana"
)

// Method is the way in which a client wants to boot; it follows from what it says of itself.
type Method string

// Methods. The empty Method is a client that asks for an address and nothing else.
const (
	BIOS     Method = "bios"      // PXE ROM of a BIOS machine: a TFTP name of a small loader
	UEFI     Method = "uefi"      // UEFI PXE: a TFTP name of the UKI
	HTTP     Method = "http"      // UEFI HTTP boot: a URL of the UKI
	IPXE     Method = "ipxe"      // iPXE on BIOS: a URL of a script
	IPXEUEFI Method = "ipxe-uefi" // iPXE on UEFI: a URL of the UKI
	Initrd   Method = "initrd"    // the initrd inside the UKI: the base URL of the site's boot server
)

// Client is what one packet tells of the machine that sent it.
type Client struct {
	Interface string           // where the packet came in
	Relay     netip.Addr       // the relay agent that forwarded it, zero when on link
	MAC       net.HardwareAddr // chaddr
	Address   netip.Addr       // the address it has, asks for or is offered; may be zero
	UUID      string           // option 97 in the usual text form, empty when absent. Many boards share one: not an identity
	Arch      iana.Arch        // option 93, 0 (BIOS) when absent: see HasArch
	HasArch   bool             // the client told its architecture
	Class     string           // option 60
	Method    Method
}

// Architecture returns Debian's name of the architecture whose release the client can start, empty when there is none.
// The pairs 6, 7 and 9 (15 and 16 for HTTP) are one flow: RFC 4578 prints 7 and 9 swapped and vendors followed either reading.
func (c Client) Architecture() string {
	switch c.Arch {
	case iana.INTEL_X86PC, iana.EFI_IA32, iana.EFI_X86_64, iana.EFI_BC, iana.EFI_X86_HTTP, iana.EFI_X86_64_HTTP, iana.INTEL_X86PC_HTTP:
		return "amd64"
	case iana.EFI_ARM64, iana.EFI_ARM64_HTTP:
		return "arm64"
	case iana.EFI_RISCV64, iana.EFI_RISCV64_HTTP:
		return "riscv64"
	}
	return ""
}

// client reads from m who sent it.
func (m *message) client(iface string) Client {
	c := Client{Interface: iface, Relay: m.giaddr, MAC: net.HardwareAddr(append([]byte(nil), m.hardware...)), Class: m.class()}
	if arch := m.options[optionArchitecture]; len(arch) >= 2 {
		c.Arch, c.HasArch = iana.Arch(binary.BigEndian.Uint16(arch)), true
	} else if _, rest, ok := strings.Cut(c.Class, ":Arch:"); ok && len(rest) >= 5 {
		if n, err := strconv.ParseUint(rest[:5], 10, 16); err == nil {
			c.Arch, c.HasArch = iana.Arch(n), true
		}
	}
	if id := m.options[optionUUID]; len(id) == 17 && id[0] == 0 {
		c.UUID = formatUUID(id[1:])
	}
	c.Method = method(c, m.ipxe())
	return c
}

func method(c Client, ipxe bool) Method {
	uefi := c.HasArch && c.Arch != iana.INTEL_X86PC && c.Arch != iana.INTEL_X86PC_HTTP
	switch {
	case c.Class == classRoost:
		return Initrd
	case strings.HasPrefix(c.Class, classHTTP):
		return HTTP
	case !strings.HasPrefix(c.Class, classPXE):
		return ""
	case ipxe && uefi:
		return IPXEUEFI
	case ipxe:
		return IPXE
	case uefi:
		return UEFI
	}
	return BIOS
}

// Classes of option 60 that get a boot answer. Firmware appends ":Arch:…", the answer is the bare word.
const (
	classPXE   = "PXEClient"
	classHTTP  = "HTTPClient"
	classRoost = "Roost"
)

// formatUUID prints the 16 bytes of option 97. Firmware sends them as SMBIOS stores them: the first three fields little-endian.
func formatUUID(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}
