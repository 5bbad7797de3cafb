package config

import (
	"fmt"
	"slices"
	"strings"

	"roost/appliance/api"
)

// Where systemd has its own division of the machine. Kubernetes' pods and virtual machines are in slices of their own, which
// have every processor, and so is what an operator starts with systemd-run --slice.
const (
	unitDir  = "etc/systemd/system/"
	dropIn   = ".d/50-roost.conf"
	tmpfiles = "etc/tmpfiles.d/roost.conf" // after the image's own
)

// resources returns the files that share processors and memory out, for systemd and systemd-tmpfiles to act on at every
// start. A line that fails, fails alone: not every interrupt can be moved, and a container has none of these files.
func resources(r *api.Resources) (files []File) {
	var b strings.Builder
	set := func(path, value string) { fmt.Fprintf(&b, "w- %s - - - - %s\n", path, value) }
	if cpus := string(r.Processors.Platform); cpus != "" {
		for _, unit := range []struct{ name, section string }{{"init.scope", "Scope"}, {"system.slice", "Slice"}, {"user.slice", "Slice"}} {
			files = append(files, File{unitDir + unit.name + dropIn, 0o644, "[" + unit.section + "]\nAllowedCPUs=" + cpus + "\n"})
		}
		list, _ := r.Processors.Platform.Numbers() // they are valid
		set("/proc/irq/default_smp_affinity", mask(list))
		set("/proc/irq/*/smp_affinity_list", cpus)
		set("/sys/devices/virtual/workqueue/cpumask", mask(list))
	}
	for _, h := range r.HugePages {
		size, _ := h.Bytes() // likewise
		dir := "/sys/kernel/mm/hugepages"
		if h.Node != nil {
			dir = fmt.Sprintf("/sys/devices/system/node/node%d/hugepages", *h.Node)
		}
		set(fmt.Sprintf("%s/hugepages-%dkB/nr_hugepages", dir, size>>10), fmt.Sprint(h.Count))
	}
	if b.Len() > 0 {
		files = append(files, File{tmpfiles, 0o644, b.String()})
	}
	return files
}

// mask writes sorted processors as the kernel does (cpuset(7), mask format): words of 32 bits in hexadecimal, the highest first.
func mask(cpus []int) string {
	words := make([]uint32, cpus[len(cpus)-1]/32+1)
	for _, n := range cpus {
		words[n/32] |= 1 << (n % 32)
	}
	var text []string
	for _, word := range slices.Backward(words) {
		text = append(text, fmt.Sprintf("%08x", word))
	}
	return strings.Join(text, ",")
}
