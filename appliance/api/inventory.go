package api

import (
	"slices"
	"strings"
)

// Inventory is the hardware of one machine, read without help of any program. Fields that the machine does not tell are
// empty; nothing is guessed.
type Inventory struct {
	Schema int `json:"schema"` // 1

	System struct { // SMBIOS types 0 to 3
		Vendor  string `json:"vendor,omitempty"`
		Product string `json:"product,omitempty"`
		Version string `json:"version,omitempty"`
		Serial  string `json:"serial,omitempty"`
		UUID    string `json:"uuid,omitempty"`
		Board   string `json:"board,omitempty"`
		Chassis string `json:"chassis,omitempty"` // asset tag or serial
	} `json:"system"`

	Firmware struct {
		Kind       string `json:"kind"` // uefi, bios, or container (of the lab)
		Vendor     string `json:"vendor,omitempty"`
		Version    string `json:"version,omitempty"`
		Date       string `json:"date,omitempty"`
		SecureBoot string `json:"secureBoot"`    // enabled, disabled, setup, unsupported
		TPM        string `json:"tpm,omitempty"` // "2" or "1.2"; empty without one
	} `json:"firmware"`

	CPU struct {
		Model        string   `json:"model,omitempty"`
		Architecture string   `json:"architecture"` // Debian's name
		Sockets      int      `json:"sockets"`
		Cores        int      `json:"cores"`
		Threads      int      `json:"threads"`
		Microcode    string   `json:"microcode,omitempty"`
		Flags        []string `json:"flags,omitempty"` // those that matter to workloads, sorted
	} `json:"cpu"`

	Memory int64      `json:"memory"` // bytes
	NUMA   []NUMANode `json:"numa,omitempty"`
	Disks  []Disk     `json:"disks"`
	NICs   []NIC      `json:"nics"`
	PCI    []Device   `json:"pci,omitempty"`
	BMC    string     `json:"bmc,omitempty"` // device that reaches the management controller in band
}

// NUMANode is one memory node with its processors.
type NUMANode struct {
	ID        int           `json:"id"`
	CPUs      string        `json:"cpus"`                // kernel list form: 0-3,8
	Memory    int64         `json:"memory"`              // bytes
	HugePages map[int64]int `json:"hugePages,omitempty"` // page size in bytes to pages reserved
}

// Disk is one block device that is not a partition, RAM disk or loop device.
type Disk struct {
	Path       string `json:"path"`         // kernel name under /dev
	ID         string `json:"id,omitempty"` // stable: wwn-…, nvme-eui…, or model and serial
	Size       int64  `json:"size"`         // bytes
	Sector     int    `json:"sector"`       // logical sector size in bytes
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Bus        string `json:"bus,omitempty"` // nvme, sata, scsi, virtio, usb
	Rotational bool   `json:"rotational,omitempty"`
	Removable  bool   `json:"removable,omitempty"`
	ReadOnly   bool   `json:"readOnly,omitempty"`
}

// NIC is one network interface with hardware behind it.
type NIC struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"` // permanent address where the kernel tells it
	Driver    string   `json:"driver,omitempty"`
	Bus       string   `json:"bus,omitempty"` // PCI address
	Carrier   bool     `json:"carrier"`
	Speed     int      `json:"speed,omitempty"` // Mbit/s; 0 when unknown
	NUMA      int      `json:"numa"`            // -1 when the machine has none
	VFs       int      `json:"vfs,omitempty"`   // virtual functions the device can make
	Addresses []string `json:"addresses,omitempty"`
	Neighbour string   `json:"neighbour,omitempty"` // LLDP: system name and port of the switch
}

// Device is one PCI function.
type Device struct {
	Address string `json:"address"` // 0000:00:1f.2
	Class   string `json:"class"`   // six hexadecimal digits
	Vendor  string `json:"vendor"`  // four hexadecimal digits
	Device  string `json:"device"`
	Driver  string `json:"driver,omitempty"`
	NUMA    int    `json:"numa"`
}

// MACs returns the addresses of all interfaces, lower case and sorted, each once.
func (i *Inventory) MACs() []string {
	macs := []string{}
	for _, nic := range i.NICs {
		if mac := strings.ToLower(nic.MAC); mac != "" {
			macs = append(macs, mac)
		}
	}
	slices.Sort(macs)
	return slices.Compact(macs)
}

// Describe copies into the host what tables show of its hardware.
func (i *Inventory) Describe(h *Host) {
	h.Serial, h.Product = i.System.Serial, strings.TrimSpace(i.System.Vendor+" "+i.System.Product)
	h.MACs = i.MACs()
	h.Processors, h.Memory, h.Storage = i.CPU.Threads, i.Memory, 0
	for _, disk := range i.Disks {
		if !disk.Removable && !disk.ReadOnly {
			h.Storage += disk.Size
		}
	}
}
