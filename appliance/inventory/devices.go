package inventory

import (
	"net"
	"path/filepath"
	"strings"

	"roost/appliance/api"
)

// disks lists whole block devices that data could live on.
func (r reader) disks() []api.Disk {
	out := []api.Disk{}
	for _, name := range r.names("sys/block") {
		base := "sys/block/" + name + "/"
		where, err := filepath.EvalSymlinks(r.path("sys/block/" + name))
		if err != nil || strings.Contains(where, "/devices/virtual/") || strings.HasPrefix(name, "sr") || strings.HasPrefix(name, "fd") {
			continue
		}
		sectors := r.number(base + "size") // always of 512 bytes (block/genhd.c)
		if sectors <= 0 {
			continue
		}
		disk := api.Disk{
			Path: "/dev/" + strings.ReplaceAll(name, "!", "/"), Size: sectors * 512, Sector: int(r.number(base + "queue/logical_block_size")),
			Model: r.text(base + "device/model"), Serial: r.text(base + "device/serial"), WWN: r.text(base + "wwid"),
			Rotational: r.number(base+"queue/rotational") == 1, Removable: r.number(base+"removable") == 1, ReadOnly: r.number(base+"ro") == 1,
			Bus: bus(name, where),
		}
		if disk.Serial == "" {
			disk.Serial = r.text(base + "serial") // virtio
		}
		if disk.WWN == "" {
			disk.WWN = r.text(base + "device/wwid")
		}
		if disk.Sector == 0 {
			disk.Sector = 512
		}
		disk.ID = r.stableName(name)
		out = append(out, disk)
	}
	return out
}

func bus(name, where string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.Contains(where, "/usb"):
		return "usb"
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.Contains(where, "/ata"):
		return "sata"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	case strings.HasPrefix(name, "sd"):
		return "scsi"
	}
	return ""
}

// stableName returns a path under /dev/disk/by-id that udev gave the disk, those of its World Wide Name first.
func (r reader) stableName(name string) string {
	const dir = "dev/disk/by-id"
	best := ""
	for _, link := range r.names(dir) {
		if r.target(dir+"/"+link) != name {
			continue
		}
		worldwide := strings.HasPrefix(link, "wwn-") || strings.HasPrefix(link, "nvme-eui.")
		if best == "" || worldwide && !strings.HasPrefix(best, "wwn-") && !strings.HasPrefix(best, "nvme-eui.") {
			best = link
		}
	}
	if best == "" {
		return ""
	}
	return "/" + dir + "/" + best
}

// nics lists interfaces with hardware behind them; bridges, bonds, tunnels and virtual functions' representors have none.
func (r reader) nics() []api.NIC {
	out := []api.NIC{}
	addresses := interfaceAddresses(r.root)
	for _, name := range r.names("sys/class/net") {
		base := "sys/class/net/" + name + "/"
		if !r.exists(base+"device") || r.text(base+"type") != "1" { // ARPHRD_ETHER
			continue
		}
		nic := api.NIC{
			Name: name, MAC: strings.ToLower(r.text(base + "address")), Driver: r.target(base + "device/driver"), Bus: r.target(base + "device"),
			Carrier: r.text(base+"carrier") == "1", NUMA: r.node(base + "device/numa_node"), VFs: int(r.number(base + "device/sriov_totalvfs")),
			Addresses: addresses[name],
		}
		if nic.Driver == "virtio_net" {
			nic.Bus = filepath.Base(filepath.Dir(r.resolve(base + "device")))
		}
		if speed := r.number(base + "speed"); speed > 0 {
			nic.Speed = int(speed)
		}
		out = append(out, nic)
	}
	return out
}

func (r reader) resolve(name string) string {
	where, err := filepath.EvalSymlinks(r.path(name))
	if err != nil {
		return ""
	}
	return where
}

// interfaceAddresses asks the kernel, for the running machine only.
func interfaceAddresses(root string) map[string][]string {
	out := map[string][]string{}
	if root != "/" {
		return out
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return out
	}
	for _, i := range interfaces {
		list, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				out[i.Name] = append(out[i.Name], n.String())
			}
		}
	}
	return out
}

// devices lists PCI functions. Bridges are the machine's own plumbing and left out.
func (r reader) devices() (out []api.Device) {
	const base = "sys/bus/pci/devices/"
	for _, address := range r.names(base) {
		dir := base + address + "/"
		class := strings.TrimPrefix(r.text(dir+"class"), "0x")
		if class == "" || strings.HasPrefix(class, "06") {
			continue
		}
		out = append(out, api.Device{
			Address: address, Class: class, Vendor: strings.TrimPrefix(r.text(dir+"vendor"), "0x"), Device: strings.TrimPrefix(r.text(dir+"device"), "0x"),
			Driver: r.target(dir + "driver"), NUMA: r.node(dir + "numa_node"),
		})
	}
	return out
}
