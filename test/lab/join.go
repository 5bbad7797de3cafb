package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// join finds the site, as the initrd does on a machine that boots from the network, and leaves the record of this boot. A
// container that was installed knows its site and asks nobody.
func (g *guest) join() error {
	record := &bootRecord{Origin: "container", RootHash: g.Root.RootHash, Release: string(g.Root.Release), Interface: guestNIC, MAC: g.MAC(), Hardware: g.hardware}
	if !exists(g.in("var/lib/roost/identity/host-id")) {
		if err := g.askUntilAnswered(record); err != nil {
			return err
		}
	}
	b, err := json.Marshal(record)
	if err == nil {
		err = os.WriteFile(g.in("run/roost/boot.json"), b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write the boot record: %v", err)
	}
	if err := g.maskUnits(); err != nil {
		return err
	}
	return g.nameNIC()
}

// masked are units of a release that cannot do their work in a container, or must not. Units that ask systemd themselves
// (ConditionVirtualization=, ConditionCapability=, ConditionPathIsReadWrite=) are not here.
func masked() []string {
	return []string{
		"console-getty.service", // systemd adds it in containers only; nobody logs in at a console
	}
}

func (g *guest) maskUnits() error {
	dir := g.in("run/systemd/system")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot mask units: %v", err)
	}
	for _, unit := range masked() {
		if err := os.Symlink("/dev/null", filepath.Join(dir, unit)); err != nil {
			return fmt.Errorf("cannot mask %s: %v", unit, err)
		}
	}
	return nil
}

// nameNIC tells systemd-networkd which interface the generated configuration means: a virtual one has no permanent address
// to be found by, and is not taken for a wired one.
func (g *guest) nameNIC() error {
	for name, match := range map[string]string{
		"10-roost-00.network":      "PermanentMACAddress=\nMACAddress=" + g.MAC() + "\nName=" + guestNIC + "\n",
		"90-roost-default.network": "Kind=\nName=" + guestNIC + "\n",
	} {
		dir := g.in(filepath.Join("run/systemd/network", name+".d"))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot name the interface: %v", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "container.conf"), []byte("[Match]\n"+match), 0o644); err != nil {
			return fmt.Errorf("cannot name the interface: %v", err)
		}
	}
	return nil
}

// askUntilAnswered waits for a boot server as long as it takes, and says so on the console.
func (g *guest) askUntilAnswered(record *bootRecord) error {
	for _, name := range []string{"lo", guestNIC} {
		if err := raise(name); err != nil {
			return err
		}
	}
	for told := false; ; told = true {
		err := ask(record)
		if err == nil {
			return nil
		}
		if !told {
			fmt.Printf("roost: %v; asking until one answers\n", err)
		}
		time.Sleep(time.Second) // between attempts, like firmware
	}
}

var errNoBootServer = errors.New("no boot server of a site answers")

// ask takes an address from a DHCP server that knows Roost and asks its boot server for the site.
func ask(record *bootRecord) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	lease, err := takeAddress(ctx, record.MAC)
	if err != nil {
		return err
	}
	address := net.IPNet{IP: lease.YourIPAddr, Mask: lease.SubnetMask()}
	link, err := netlink.LinkByName(guestNIC)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &address}); err != nil {
		return fmt.Errorf("cannot set address %s: %v", &address, err)
	}
	record.Address, record.BootServer = address.String(), lease.BootFileNameOption()
	record.Site, err = fetchSite(ctx, record.BootServer)
	return err
}

func takeAddress(ctx context.Context, mac string) (*dhcpv4.DHCPv4, error) {
	address, err := net.ParseMAC(mac)
	if err != nil {
		return nil, err
	}
	client, err := nclient4.New(guestNIC, nclient4.WithTimeout(time.Second), nclient4.WithRetry(2))
	if err != nil {
		return nil, fmt.Errorf("cannot ask for an address: %v", err)
	}
	defer client.Close()
	options := []dhcpv4.Modifier{
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("Roost")),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, address...))), // as systemd-networkd later, to keep the lease
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionBootfileName, dhcpv4.OptionClassIdentifier),
	}
	offer, err := client.DiscoverOffer(ctx, options...)
	if err != nil || offer.ClassIdentifier() != "Roost" {
		return nil, errNoBootServer
	}
	lease, err := client.RequestFromOffer(ctx, offer, options...)
	if err != nil {
		return nil, fmt.Errorf("cannot take the offered address: %v", err)
	}
	return lease.ACK, nil
}

func fetchSite(ctx context.Context, base string) (json.RawMessage, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/site", nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the site: %v", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the site: %v", err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil || response.StatusCode != http.StatusOK || !json.Valid(b) {
		return nil, fmt.Errorf("cannot ask for the site: %s, %v", response.Status, err)
	}
	return b, nil
}
