//go:build linux

// Command guest is the only program of a virtual machine that tests start in OpenStack: its init. It takes its address by DHCP
// and its name from the metadata service, counts its starts on its disk, says so on its console, and serves it over HTTP.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const card = "eth0"

func main() {
	err := run()
	fmt.Println("guest: cannot go on:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // an init must not end
}

func run() error {
	for _, m := range [][3]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	os.Stdout = console
	for _, name := range []string{"failover", "net_failover", "virtio_net", "virtio_blk"} {
		if err := load(name); err != nil {
			return err
		}
	}
	start, err := count("/dev/vda")
	if err != nil {
		return err
	}
	address, err := connect()
	if err != nil {
		return err
	}
	name, err := whoAmI()
	if err != nil {
		return err
	}
	say := fmt.Sprintf("%s at %s, start %d", name, address, start)
	fmt.Println("guest: I am", say)
	return http.ListenAndServe(":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, say) }))
}

// load loads a module of the initrd.
func load(name string) error {
	found := ""
	err := filepath.WalkDir("/lib/modules", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Base(path) == name+".ko" {
			found = path
		}
		return err
	})
	if err != nil {
		return err
	}
	f, err := os.Open(found)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s: %w", name, err)
	}
	return nil
}

// await tries until it works, for three minutes.
func await[T any](what string, try func() (T, error)) (value T, err error) {
	for range 1800 {
		if value, err = try(); err == nil {
			return value, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return value, fmt.Errorf("%s: %w", what, err)
}

// count adds one to the number at the head of the disk.
func count(disk string) (uint64, error) {
	f, err := await("disk", func() (*os.File, error) { return os.OpenFile(disk, os.O_RDWR|unix.O_SYNC, 0) })
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [512]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint64(b[:]) + 1
	binary.BigEndian.PutUint64(b[:], n)
	_, err = f.WriteAt(b[:], 0)
	return n, err
}

// connect takes an address with its routes.
func connect() (net.IP, error) {
	link, err := await("network card", func() (netlink.Link, error) { return netlink.LinkByName(card) })
	if err != nil {
		return nil, err
	}
	if err := finishChecksums(); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, err
	}
	lease, err := await("address", func() (*nclient4.Lease, error) {
		client, err := nclient4.New(card)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return client.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionClasslessStaticRoute))
	})
	if err != nil {
		return nil, err
	}
	ack := lease.ACK
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: ack.SubnetMask()}}); err != nil {
		return nil, err
	}
	for _, r := range ack.ClasslessStaticRoute() {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: r.Dest, Gw: r.Router}); err != nil {
			return nil, fmt.Errorf("route to %s: %w", r.Dest, err)
		}
	}
	return ack.YourIPAddr, nil
}

// finishChecksums has the kernel finish checksums itself (ethtool's ETHTOOL_STXCSUM): a switch outside of the kernel passes
// packets on as they are.
func finishChecksums() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	value := struct{ command, data uint32 }{0x17, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], card)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 && errno != unix.EOPNOTSUPP { // it does so anyway
		return fmt.Errorf("checksums: %w", errno)
	}
	return nil
}

// whoAmI asks the metadata service.
func whoAmI() (string, error) {
	client := &http.Client{Timeout: 20 * time.Second}
	return await("metadata", func() (string, error) {
		answer, err := client.Get("http://169.254.169.254/openstack/latest/meta_data.json")
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		var me struct{ Name string }
		if err := json.NewDecoder(answer.Body).Decode(&me); err != nil {
			return "", fmt.Errorf("%s: %w", answer.Status, err)
		}
		return me.Name, nil
	})
}
