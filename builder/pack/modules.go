package pack

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/builder/recipe"
	"roost/builder/tree"
)

// modulesHome is where kernel modules lie, in the tree and in the initrd.
const modulesHome = "/usr/lib/modules"

// DefaultInitrdModules are the modules that find, open and mount a root image on common machines: disks, network cards,
// file systems, dm-verity, watchdogs and what keeps the last words of a kernel.
func DefaultInitrdModules() []recipe.Rule {
	names := strings.Fields(`
		virtio_pci virtio_mmio virtio_net virtio_blk virtio_scsi virtio_rng virtio_console
		nvme ahci ata_piix ata_generic sd_mod sr_mod usb_storage uas xhci_pci xhci_hcd ehci_pci ohci_pci uhci_hcd
		mpt3sas megaraid_sas smartpqi aacraid hpsa vmw_pvscsi hv_storvsc sdhci_pci sdhci_acpi mmc_block
		erofs overlay dm_mod dm_verity vfat nls_cp437 nls_iso8859_1 nls_ascii nls_utf8 loop ext4 isofs
		efi_pstore efivarfs qemu_fw_cfg
		e1000 e1000e igb igc ixgbe ixgbevf i40e iavf ice bnxt_en bnx2x tg3 mlx4_en mlx5_core r8169 atlantic ena vmxnet3 hv_netvsc hv_vmbus
		iTCO_wdt i6300esb sp5100_tco ipmi_watchdog ipmi_si wdat_wdt
		tpm_tis tpm_crb`)
	rules := make([]recipe.Rule, 0, len(names))
	for _, n := range names {
		rules = append(rules, recipe.Rule{Keep: true, Pattern: n})
	}
	return rules
}

// requiredModules are what /init itself asks for by name, whatever a recipe says: without one of them no machine boots.
func requiredModules() []string {
	return []string{"efivarfs", "efi_pstore", "loop", "dm_mod", "dm_verity", "erofs", "overlay", "ext4", "isofs"}
}

// moduleSet is the modules of one kernel, chosen for an initrd, with what is needed of depmod's indexes.
type moduleSet struct {
	home    string       // directory of the kernel release in the tree
	files   []tree.Entry // chosen modules, sorted by path
	dep     []byte       // modules.dep, modules.alias and modules.softdep of the chosen
	alias   []byte
	softdep []byte
}

// chooseModules applies rules to the modules of the tree and adds all that the chosen depend on, softly too.
func chooseModules(in Input) (*moduleSet, error) {
	rules := in.InitrdModules
	if len(rules) == 0 {
		rules = DefaultInitrdModules()
	}
	x := moduleIndex{home: path.Join(modulesHome, in.Kernel.Version), files: map[string]string{}, needs: map[string][]string{}, aliases: map[string][]string{}}
	lines := map[string][]string{}
	for _, name := range []string{"modules.dep", "modules.alias", "modules.softdep"} {
		e, ok := in.Tree.Lookup(path.Join(x.home, name))
		if !ok {
			return nil, fmt.Errorf("the tree has no %s", path.Join(x.home, name))
		}
		text, err := in.Store.ReadFile(e.Blob)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", e.Path, err)
		}
		lines[name] = contentLines(text)
	}
	x.read(lines)

	chosen := map[string]bool{}
	for _, name := range requiredModules() {
		x.choose(name, chosen)
	}
	for name, file := range x.files {
		if recipe.DecideModule(rules, file, false) {
			x.choose(name, chosen)
		}
	}
	m := &moduleSet{home: x.home}
	for _, line := range lines["modules.dep"] {
		file, _, _ := strings.Cut(line, ":")
		if !chosen[moduleName(file)] {
			continue
		}
		e, ok := in.Tree.Lookup(path.Join(x.home, file))
		if !ok {
			return nil, fmt.Errorf("modules.dep names %s, which is not in the tree", file)
		}
		if !strings.HasSuffix(e.Path, ".ko") {
			return nil, fmt.Errorf("kernel module %s is compressed; the tree must hold modules as they are loaded", e.Path)
		}
		m.files = append(m.files, e)
		m.dep = append(append(m.dep, line...), '\n')
	}
	slices.SortFunc(m.files, func(a, b tree.Entry) int { return strings.Compare(a.Path, b.Path) })
	m.alias = keepLines(lines["modules.alias"], func(f []string) bool { return len(f) == 3 && chosen[canonical(f[2])] })
	m.softdep = keepLines(lines["modules.softdep"], func(f []string) bool { return len(f) > 1 && chosen[canonical(f[1])] })
	return m, nil
}

// moduleIndex is what depmod knows.
type moduleIndex struct {
	home    string
	files   map[string]string   // name to path below home
	needs   map[string][]string // name to names: modules that it uses, and that it says to load around it
	aliases map[string][]string // plain alias, such as crc32c, to the modules that provide it
}

func (x *moduleIndex) read(lines map[string][]string) {
	for _, line := range lines["modules.dep"] {
		file, needs, _ := strings.Cut(line, ":")
		name := moduleName(file)
		x.files[name] = file
		for _, n := range strings.Fields(needs) {
			x.needs[name] = append(x.needs[name], moduleName(n))
		}
	}
	for _, line := range lines["modules.alias"] {
		if f := strings.Fields(line); len(f) == 3 {
			x.aliases[canonical(f[1])] = append(x.aliases[canonical(f[1])], canonical(f[2]))
		}
	}
	for _, line := range lines["modules.softdep"] {
		f := strings.Fields(line)
		for i := 2; i < len(f); i++ {
			if !strings.HasSuffix(f[i], ":") {
				x.needs[canonical(f[1])] = append(x.needs[canonical(f[1])], canonical(f[i]))
			}
		}
	}
}

// choose adds a module, or all that provide an alias, and what they need. What is built into the kernel is not known here.
func (x *moduleIndex) choose(name string, chosen map[string]bool) {
	if _, ok := x.files[name]; !ok {
		for _, provider := range x.aliases[name] {
			if _, ok := x.files[provider]; ok {
				x.choose(provider, chosen)
			}
		}
		return
	}
	if chosen[name] {
		return
	}
	chosen[name] = true
	for _, n := range x.needs[name] {
		x.choose(n, chosen)
	}
}

// moduleName turns kernel/fs/nls/nls_iso8859-1.ko into nls_iso8859_1.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(name)
}

// canonical folds '-' to '_', which are one in module names.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func contentLines(text []byte) []string {
	var lines []string
	s := bufio.NewScanner(bytes.NewReader(text))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}

func keepLines(lines []string, keep func(fields []string) bool) []byte {
	var out []byte
	for _, line := range lines {
		if keep(strings.Fields(line)) {
			out = append(append(out, line...), '\n')
		}
	}
	return out
}
