package command

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/trust"
)

// connect opens the site that --site names.
func connect(c *cobra.Command) (*client.Client, error) {
	name, err := c.Flags().GetString("site")
	if err != nil {
		return nil, err
	}
	return client.Open(name)
}

func Site() *cobra.Command {
	var file trust.SiteFile
	var operator, address, gateway string
	var cluster, cloud bool
	var shares resourceFlags
	var storage cephFlags
	initialise := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a new site: its certificate authority, its first operator, and site.yaml for the seed",
		Long: "Make a new site in DIR. site.yaml holds public facts only; root.key, the site's root of trust, stays with you: keep it\n" +
			"offline once the first controller runs. Your own certificate is saved as a context, so that roost finds the site.\n\n" +
			"What --kubernetes, --platform-cpus, --huge-pages and the flags for servers and keys say holds for every host of the site.",
		Args: Exact(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := fillSite(&file, address, gateway); err != nil {
				return err
			}
			resources, err := shares.parse()
			if err != nil {
				return err
			}
			file.Config.Resources = *resources
			if cluster {
				file.Config.Kubernetes = &api.Kubernetes{}
			}
			if cloud {
				file.Config.OpenStack = &api.OpenStack{}
			}
			file.Config.Ceph = storage.wish(file.First.Name)
			secrets, err := trust.NewSite(&file, operator, time.Now())
			if err != nil {
				return err
			}
			path, err := saveSite(args[0], &file, secrets)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Site %s made in %s; your certificate is in %s.\nNext: roost pxe serve --seed %s --interface NIC --depot DEPOT, and power the first controller on.\n",
				file.Name, args[0], path, filepath.Join(args[0], "site.yaml"))
			return nil
		},
	}
	f := initialise.Flags()
	f.StringVar(&file.Name, "name", "", "name of the site (required)")
	f.StringVar(&address, "address", "", "address of the first controller with prefix length, for example 10.77.0.2/24 (required)")
	f.StringVar(&gateway, "gateway", "", "its default gateway")
	f.StringVar(&file.First.MAC, "mac", "", "MAC address of the first controller's provisioning interface (required)")
	f.StringVar(&file.First.Serial, "serial", "", "its serial number must be this, too")
	f.StringVar(&file.First.Name, "hostname", "controller-0", "its host name")
	f.StringVar(&file.First.Personality, "personality", "", "what it does: controller, or all-in-one, which carries virtual machines too; controller when empty")
	f.StringVar(&file.First.Disk, "disk", "", "its disk; the smallest sufficient one when empty")
	f.BoolVar(&file.First.Wipe, "wipe", false, "install even if its disk holds something")
	f.StringVar(&file.Config.PXE, "pxe", "dhcp", "how the controller serves new machines: dhcp (own addresses), proxy (beside a DHCP server) or off")
	f.StringVar(&file.Config.Range, "range", "", "addresses it hands out: FIRST-LAST")
	f.StringSliceVar(&file.Config.NTP, "ntp", nil, "time servers")
	f.StringSliceVar(&file.Config.DNS, "dns", nil, "name servers")
	f.StringArrayVar(&file.Config.AuthorizedKeys, "ssh-key", nil, "public SSH key of the user admin on every host")
	f.BoolVar(&cluster, "kubernetes", false, "run Kubernetes on the hosts of the site; their release must have it")
	shares.define(initialise)
	storage.define(initialise)
	f.BoolVar(&cloud, "openstack", false, "run OpenStack on the hosts of the site; their releases must have it")
	f.StringVar(&operator, "operator", "admin", "your name in the audit record")
	for _, required := range []string{"name", "address", "mac"} {
		if err := initialise.MarkFlagRequired(required); err != nil {
			panic(err) // the flag is defined above
		}
	}
	show := &cobra.Command{Use: "show", Short: "Show the site's public facts", Args: Exact(0)}
	format := OutputFlag(show)
	show.RunE = func(c *cobra.Command, _ []string) error {
		api, err := connect(c)
		if err != nil {
			return err
		}
		site, err := api.Site(c.Context())
		if err != nil {
			return err
		}
		t := Table{Head: []string{"NAME", "ID", "CONTROLLERS", "CURRENT RELEASE"}, Value: site}
		t.Rows = [][]string{{site.Name, short(site.ID), strings.Join(site.Controllers, " "), short(site.Current.Hex())}}
		return t.Print(c.OutOrStdout(), *format)
	}
	return Noun("site", "Make a site and show it", initialise, show)
}

// cephFlags say which disks of the first controller are Ceph's.
type cephFlags struct {
	disks          []string
	copies         int
	wipe, encrypt  bool
	files, objects bool
}

func (s *cephFlags) define(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&s.disks, "ceph", nil, "run Ceph, with this disk of the first controller, whole (/dev/disk/by-id/…); give it once for each disk")
	f.IntVar(&s.copies, "ceph-copies", 0, "keep this many copies of everything, each on another disk (default 3)")
	f.BoolVar(&s.wipe, "ceph-wipe", false, "take the disks even if they hold something, which is lost")
	f.BoolVar(&s.encrypt, "ceph-encrypt", false, "encrypt the disks; the site keeps the keys")
	f.BoolVar(&s.files, "ceph-files", false, "make a file system in Ceph (CephFS)")
	f.BoolVar(&s.objects, "ceph-objects", false, "run a gateway that speaks S3")
}

func (s *cephFlags) wish(host string) *api.Ceph {
	if len(s.disks) == 0 {
		return nil
	}
	wish := &api.Ceph{Copies: s.copies, Files: s.files, Objects: s.objects}
	for _, path := range s.disks {
		wish.Disks = append(wish.Disks, api.CephDisk{Path: path, Host: host, Wipe: s.wipe, Encrypt: s.encrypt})
	}
	return wish
}

// fillSite completes a site file from the command line.
func fillSite(file *trust.SiteFile, address, gateway string) error {
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return fmt.Errorf("cannot use address %q: want one with prefix length, for example 10.77.0.2/24", address)
	}
	mac, err := net.ParseMAC(file.First.MAC)
	if err != nil {
		return fmt.Errorf("cannot use MAC address %q: %v", file.First.MAC, err)
	}
	file.First.MAC = mac.String()
	file.Controller = "https://" + netip.AddrPortFrom(prefix.Addr(), 7443).String()
	file.Config.Schema = 1
	file.Config.Hostname = file.First.Name
	file.Config.Provisioning = mac.String()
	file.Config.Interfaces = []api.Interface{{MAC: mac.String(), Addresses: []string{prefix.String()}, Gateway: gateway}}
	return nil
}

// saveSite writes the site's files and the operator's context, and returns the context's path. Nothing is overwritten.
func saveSite(dir string, file *trust.SiteFile, secrets *trust.Secrets) (string, error) {
	text, err := file.Encode()
	if err != nil {
		return "", err
	}
	path, err := client.ContextPath(file.Name)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return "", fmt.Errorf("cannot make site %s: %s exists; remove it if that site is gone", file.Name, path)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make site %s: %v", file.Name, err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{{"root.key", secrets.RootKey, 0o600}, {"site.yaml", text, 0o644}} {
		out, err := os.OpenFile(filepath.Join(dir, f.name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.mode)
		if err != nil {
			return "", fmt.Errorf("cannot make site %s: %v", file.Name, err)
		}
		_, err = out.Write(f.data)
		if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
			return "", fmt.Errorf("cannot make site %s: %v", file.Name, err)
		}
	}
	context := client.Context{Site: file.Name, URL: file.Controller, Root: file.Root, Certificate: secrets.OperatorCertificate, Key: string(secrets.OperatorKey)}
	return path, context.Save(path)
}

// short abbreviates a digest for people.
func short(hex string) string { return hex[:min(12, len(hex))] }

// ago tells a time as a person would.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}
