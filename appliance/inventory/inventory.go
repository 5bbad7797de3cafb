// Package inventory reads what hardware a machine has.
//
// It reads sysfs, procfs and the SMBIOS strings that the kernel shows, in Go, with no other program: a discovery image then
// needs no lshw, dmidecode or ethtool, and reading takes milliseconds. The root directory is a parameter, so tests read
// recorded trees.
//
// Promises: a fact the machine does not tell stays empty; one unreadable file does not lose the rest; the order of all
// lists is fixed, so two readings of one machine compare equal.
//
// Rejected: ghw (it runs programs, and pulls a plist and a WMI decoder), parsing /sys/firmware/dmi/tables ourselves (the
// kernel's /sys/class/dmi has what we show).
package inventory

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"roost/appliance/api"
)

// reader reads one tree.
type reader struct{ root string }

// Read returns the hardware of the machine whose file system begins at root. It does not fail: what cannot be read is not
// reported, and a machine without /sys is a machine without hardware.
func Read(root string) *api.Inventory {
	r := reader{root: root}
	out := &api.Inventory{Schema: 1, Disks: []api.Disk{}, NICs: []api.NIC{}}
	r.system(out)
	r.firmware(out)
	r.processors(out)
	out.Memory = r.meminfo("proc/meminfo", "MemTotal")
	out.NUMA = r.nodes()
	out.Disks = r.disks()
	out.NICs = r.nics()
	out.PCI = r.devices()
	for _, device := range []string{"ipmi0", "ipmi/0", "ipmidev/0"} {
		if r.exists("dev/" + device) {
			out.BMC = "/dev/" + device
			break
		}
	}
	return out
}

func (r reader) path(name string) string { return filepath.Join(r.root, name) }

// text returns the first line of a small file, without the blanks around it; empty when it cannot be read.
func (r reader) text(name string) string {
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return strings.TrimSpace(strings.ToValidUTF8(line, ""))
}

func (r reader) number(name string) int64 {
	n, err := strconv.ParseInt(r.text(name), 0, 64)
	if err != nil {
		return 0
	}
	return n
}

// node is the NUMA node of a device, -1 when it has none.
func (r reader) node(name string) int {
	n, err := strconv.Atoi(r.text(name))
	if err != nil {
		return -1
	}
	return n
}

func (r reader) exists(name string) bool {
	_, err := os.Stat(r.path(name))
	return err == nil
}

// names lists a directory in order.
func (r reader) names(dir string) []string {
	entries, err := os.ReadDir(r.path(dir))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// target is the last part of what a symbolic link points to.
func (r reader) target(link string) string {
	to, err := os.Readlink(r.path(link))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// system reads SMBIOS strings. Vendors leave placeholders in them; those are no information.
func (r reader) system(out *api.Inventory) {
	dmi := func(name string) string {
		s := r.text("sys/class/dmi/id/" + name)
		for _, empty := range []string{"to be filled by o.e.m.", "default string", "not specified", "system serial number", "none", "n/a", "0123456789"} {
			if strings.EqualFold(s, empty) {
				return ""
			}
		}
		return s
	}
	s := &out.System
	s.Vendor, s.Product, s.Version = dmi("sys_vendor"), dmi("product_name"), dmi("product_version")
	s.Serial, s.UUID, s.Board = dmi("product_serial"), strings.ToLower(dmi("product_uuid")), dmi("board_name")
	if s.Chassis = dmi("chassis_asset_tag"); s.Chassis == "" {
		s.Chassis = dmi("chassis_serial")
	}
	f := &out.Firmware
	f.Vendor, f.Version, f.Date = dmi("bios_vendor"), dmi("bios_version"), dmi("bios_date")
}

func (r reader) firmware(out *api.Inventory) {
	f := &out.Firmware
	f.Kind, f.SecureBoot = "bios", "unsupported"
	if r.exists("sys/firmware/efi") {
		f.Kind = "uefi"
	}
	if r.exists("sys/class/tpm/tpm0") {
		f.TPM = "1.2"
		if r.text("sys/class/tpm/tpm0/tpm_version_major") == "2" {
			f.TPM = "2"
		}
	}
	const global = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	variable := func(name string) (byte, bool) {
		b, err := os.ReadFile(r.path("sys/firmware/efi/efivars/" + name + global))
		if err != nil || len(b) != 5 { // four bytes of attributes, one of value
			return 0, false
		}
		return b[4], true
	}
	secure, ok := variable("SecureBoot")
	setup, _ := variable("SetupMode")
	switch {
	case !ok:
	case setup == 1:
		f.SecureBoot = "setup"
	case secure == 1:
		f.SecureBoot = "enabled"
	default:
		f.SecureBoot = "disabled"
	}
}

// interesting returns the processor flags that decide what workloads a host can take.
func interesting() []string {
	return []string{"vmx", "svm", "avx2", "avx512f", "amx_tile", "aes", "sha_ni", "pdpe1gb", "1gb", "constant_tsc", "nonstop_tsc", "sgx", "sev_snp", "tdx_host_platform", "hypervisor"}
}

func (r reader) processors(out *api.Inventory) {
	b, err := os.ReadFile(r.path("proc/cpuinfo"))
	c := &out.CPU
	c.Architecture = runtime.GOARCH // Debian's names for those we build are Go's
	if err != nil {
		return
	}
	sockets, cores := map[string]bool{}, map[string]bool{}
	socket, core := "0", ""
	for _, line := range strings.Split(string(b), "\n") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "processor":
			c.Threads++
			core = value // where the kernel tells no cores, each thread is one
		case "model name":
			c.Model = value
		case "microcode":
			c.Microcode = value
		case "physical id":
			socket = value
		case "core id":
			core = value
		case "flags", "Features":
			if c.Flags == nil {
				c.Flags = flags(value)
			}
		case "":
			if core != "" {
				sockets[socket], cores[socket+"/"+core] = true, true
				socket, core = "0", ""
			}
		}
	}
	c.Sockets, c.Cores = len(sockets), len(cores)
}

func flags(line string) []string {
	have := strings.Fields(line)
	out := []string{}
	for _, flag := range interesting() {
		if slices.Contains(have, flag) {
			out = append(out, flag)
		}
	}
	slices.Sort(out)
	return out
}

// meminfo returns a value of a meminfo file in bytes. Files of nodes have "Node 0 " before each key.
func (r reader) meminfo(name, key string) int64 {
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		before, value, ok := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if !ok || len(fields) == 0 || before != key && !strings.HasSuffix(before, " "+key) {
			continue
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0
		}
		return n << 10
	}
	return 0
}

func (r reader) nodes() (out []api.NUMANode) {
	const base = "sys/devices/system/node/"
	for _, name := range r.names(base) {
		id, err := strconv.Atoi(strings.TrimPrefix(name, "node"))
		if err != nil || !strings.HasPrefix(name, "node") {
			continue
		}
		node := api.NUMANode{ID: id, CPUs: r.text(base + name + "/cpulist"), Memory: r.meminfo(base+name+"/meminfo", "MemTotal")}
		for _, size := range r.names(base + name + "/hugepages") {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(size, "hugepages-"), "kB"), 10, 64)
			if pages := int(r.number(base + name + "/hugepages/" + size + "/nr_hugepages")); err == nil && pages > 0 {
				if node.HugePages == nil {
					node.HugePages = map[int64]int{}
				}
				node.HugePages[kilobytes<<10] = pages
			}
		}
		out = append(out, node)
	}
	slices.SortFunc(out, func(a, b api.NUMANode) int { return a.ID - b.ID })
	return out
}
