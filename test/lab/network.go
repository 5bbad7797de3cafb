package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Addresses of a lab. Every lab has a namespace of its own, so all use the same.
const (
	Subnet     = "10.77.0.0/24"
	Gateway    = "10.77.0.1" // the lab's own side
	Controller = "10.77.0.2" // a site's first controller, by convention
	bridgeName = "roost0"    // in the namespace
	mtu        = 1500
)

// network is a lab's network namespace.
type network struct{ name string }

// up makes the namespace and its bridge; it is no error when both are there.
func (n network) up() error {
	if _, err := os.Stat(filepath.Join("/run/netns", n.name)); err != nil {
		if err := createNamespace(n.name); err != nil {
			return err
		}
	}
	return n.do(func() error {
		if err := raise("lo"); err != nil {
			return err
		}
		if _, err := netlink.LinkByName(bridgeName); err == nil {
			return nil
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, MTU: mtu}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("cannot make bridge %s: %v", bridgeName, err)
		}
		_, subnet, err := net.ParseCIDR(Subnet)
		if err != nil {
			return err
		}
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(Gateway), Mask: subnet.Mask}}
		if err := netlink.AddrReplace(bridge, address); err != nil {
			return fmt.Errorf("cannot set the address of %s: %v", bridgeName, err)
		}
		return raise(bridgeName)
	})
}

// createNamespace makes a named network namespace, where ip-netns(8) looks for it, without moving this process.
func createNamespace(name string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("cannot make network namespace %s: %v", name, err)
	}
	defer here.Close()
	h, err := netns.NewNamed(name) // enters it
	if err != nil {
		return fmt.Errorf("cannot make network namespace %s: %v", name, err)
	}
	h.Close()
	if err := netns.Set(here); err != nil {
		return fmt.Errorf("cannot leave network namespace %s: %v", name, err)
	}
	return nil
}

func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot raise %s: %v", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot raise %s: %v", name, err)
	}
	return nil
}

// tap makes a persistent tap device on the bridge.
func (n network) tap(name string) error {
	return n.do(func() error {
		if _, err := netlink.LinkByName(name); err == nil {
			return nil
		}
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("cannot find bridge %s: %v", bridgeName, err)
		}
		tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, MasterIndex: bridge.Attrs().Index}, Mode: netlink.TUNTAP_MODE_TAP}
		if err := netlink.LinkAdd(tap); err != nil {
			return fmt.Errorf("cannot make tap device %s: %v", name, err)
		}
		return raise(name)
	})
}

// unplug removes a machine's port.
func (n network) unplug(name string) error {
	return n.do(func() error {
		link, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("cannot remove network port %s: %v", name, err)
		}
		return nil
	})
}

// setLink plugs or unplugs a machine's cable.
func (n network) setLink(name string, up bool) error {
	return n.do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("cannot find tap device %s: %v", name, err)
		}
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
}

// down removes the namespace and with it every device.
func (n network) down() error {
	if err := netns.DeleteNamed(n.name); err != nil && !os.IsNotExist(err) && !strings.Contains(err.Error(), "no such file") {
		return fmt.Errorf("cannot remove network namespace %s: %v", n.name, err)
	}
	return nil
}

// do runs f with the calling thread inside the namespace. Sockets that f opens and processes that it starts belong
// there for good.
func (n network) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread ends with this goroutine if it cannot be moved back: it stays locked.
		runtime.LockOSThread()
		result <- n.enter(f)
	}()
	return <-result
}

func (n network) enter(f func() error) error {
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("cannot enter network namespace %s: %v", n.name, err)
	}
	defer here.Close()
	there, err := netns.GetFromName(n.name)
	if err != nil {
		return fmt.Errorf("cannot enter network namespace %s: %v", n.name, err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return fmt.Errorf("cannot enter network namespace %s: %v", n.name, err)
	}
	err = f()
	if back := netns.Set(here); back == nil {
		runtime.UnlockOSThread()
	}
	return err
}
