package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Resources is how a host shares its processors and memory out between the platform (the system's services, Roost, the
// control plane) and what it is there for. It takes effect when the host starts.
type Resources struct {
	Processors Processors  `json:"processors,omitzero"`
	HugePages  []HugePages `json:"hugePages,omitempty"` // set aside for programs that ask for them
}

// Processors says whose a host's logical processors are.
type Processors struct {
	Platform CPUs `json:"platform,omitempty"` // of the platform, and of interrupts; all others are free of both. Empty: everything runs everywhere
}

// HugePages is memory that a host sets aside in pages of one size.
type HugePages struct {
	Size  string `json:"size"`           // 2Mi or 1Gi
	Count int    `json:"count"`          // pages
	Node  *int   `json:"node,omitempty"` // of this NUMA node; spread over all when not given
}

// CPUs is a set of logical processors as the kernel writes it (cpuset(7), list format): 0-3,8.
type CPUs string

// maxCPU is the largest number of a processor that Debian's kernels for amd64 know.
const maxCPU = 8191

// UnmarshalJSON takes a bare number too: people write one processor so in YAML.
func (c *CPUs) UnmarshalJSON(b []byte) error {
	if _, err := strconv.ParseUint(string(b), 10, 16); err == nil {
		*c = CPUs(b)
		return nil
	}
	return json.Unmarshal(b, (*string)(c))
}

// Numbers returns the processors of the set in order.
func (c CPUs) Numbers() ([]int, error) {
	var list []int
	seen := map[int]bool{}
	for _, part := range strings.Split(string(c), ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err := cpuNumber(low)
		if err != nil {
			return nil, Invalid.Errorf("cannot use processors %q: %v", string(c), err)
		}
		last, err := cpuNumber(high)
		if err != nil {
			return nil, Invalid.Errorf("cannot use processors %q: %v", string(c), err)
		}
		if last < first {
			return nil, Invalid.Errorf("cannot use processors %q: %s ends before it begins", string(c), part)
		}
		for n := first; n <= last; n++ {
			if seen[n] {
				return nil, Invalid.Errorf("cannot use processors %q: %d is there twice", string(c), n)
			}
			seen[n] = true
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

func cpuNumber(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case err != nil || text[0] == '+':
		return 0, fmt.Errorf("%q is no number of a processor; want a list as 0-3,8", text)
	case n > maxCPU:
		return 0, fmt.Errorf("no machine has a processor %d", n)
	}
	return int(n), nil
}

// Bytes returns the size of one page.
func (h *HugePages) Bytes() (int64, error) {
	switch h.Size {
	case "2Mi":
		return 2 << 20, nil
	case "1Gi":
		return 1 << 30, nil
	}
	return 0, Invalid.Errorf("cannot use huge pages of size %q: want 2Mi or 1Gi", h.Size)
}

func (h *HugePages) where() string {
	if h.Node == nil {
		return ""
	}
	return fmt.Sprintf(" on NUMA node %d", *h.Node)
}

// maxPages of a size are more than any machine holds, and few enough to be added up.
const maxPages = 1 << 24

// Validate checks what can be checked without the host.
func (r *Resources) Validate() error {
	if r.Processors.Platform != "" {
		list, err := r.Processors.Platform.Numbers()
		if err != nil {
			return err
		}
		if list[0] != 0 {
			return Invalid.Errorf("cannot give the platform processors %q: 0 must be among them, for the kernel and its clock are bound to it", string(r.Processors.Platform))
		}
	}
	for i, h := range r.HugePages {
		if _, err := h.Bytes(); err != nil {
			return err
		}
		if h.Count < 1 || h.Count > maxPages {
			return Invalid.Errorf("cannot set %d huge pages of %s aside: want 1 to %d", h.Count, h.Size, maxPages)
		}
		if h.Node != nil && (*h.Node < 0 || *h.Node > 1023) {
			return Invalid.Errorf("cannot set huge pages of %s aside%s: there is none", h.Size, h.where())
		}
		for _, other := range r.HugePages[:i] {
			if other.Size == h.Size && (h.Node == nil || other.Node == nil || *h.Node == *other.Node) {
				return Invalid.Errorf("cannot set huge pages of %s aside twice: name each NUMA node once, or none", h.Size)
			}
		}
	}
	return nil
}

// Fit checks valid resources against a machine, which needs some of its memory for the platform. What the inventory does
// not tell is not checked.
func (r *Resources) Fit(i *Inventory, platform int64) error {
	if err := r.fitProcessors(i); err != nil {
		return err
	}
	var total int64
	onNode := map[int]int64{}
	for _, h := range r.HugePages {
		size, err := h.Bytes()
		if err != nil {
			return err
		}
		if flags := i.CPU.Flags; h.Size == "1Gi" && i.CPU.Architecture == "amd64" && len(flags) > 0 && !slices.Contains(flags, "pdpe1gb") {
			return Invalid.Errorf("cannot set huge pages of 1Gi aside: the processor has none of this size")
		}
		bytes := size * int64(h.Count)
		total += bytes
		if h.Node == nil || len(i.NUMA) == 0 {
			continue
		}
		n := slices.IndexFunc(i.NUMA, func(n NUMANode) bool { return n.ID == *h.Node })
		if n < 0 {
			return Invalid.Errorf("cannot set huge pages of %s aside%s: the machine has no such node", h.Size, h.where())
		}
		if onNode[*h.Node] += bytes; onNode[*h.Node] > i.NUMA[n].Memory {
			return Invalid.Errorf("cannot set %d MiB of huge pages aside%s: it has %d MiB", onNode[*h.Node]>>20, h.where(), i.NUMA[n].Memory>>20)
		}
	}
	if total > 0 && i.Memory > 0 && total+platform > i.Memory {
		return Invalid.Errorf("cannot set %d MiB of huge pages aside: the machine has %d MiB, of which the platform needs %d", total>>20, i.Memory>>20, platform>>20)
	}
	return nil
}

func (r *Resources) fitProcessors(i *Inventory) error {
	if r.Processors.Platform == "" || i.CPU.Threads == 0 {
		return nil
	}
	list, err := r.Processors.Platform.Numbers()
	if err != nil {
		return err
	}
	have := map[int]bool{}
	for n := range i.CPU.Threads {
		have[n] = true
	}
	for _, node := range i.NUMA { // says which there are where their numbers have gaps
		if numbers, err := CPUs(node.CPUs).Numbers(); err == nil {
			for _, n := range numbers {
				have[n] = true
			}
		}
	}
	for _, n := range list {
		if !have[n] {
			return Invalid.Errorf("cannot give the platform processors %q: the machine has no processor %d", string(r.Processors.Platform), n)
		}
	}
	if len(list) >= i.CPU.Threads {
		return Invalid.Errorf("cannot give the platform processors %q: these are all that the machine has", string(r.Processors.Platform))
	}
	return nil
}

// ParseHugePages reads the form of the command line: SIZE=COUNT, or SIZE=COUNT@NODE for one NUMA node.
func ParseHugePages(text string) (*HugePages, error) {
	size, rest, ok := strings.Cut(text, "=")
	count, node, numa := strings.Cut(rest, "@")
	pages, err := strconv.Atoi(count)
	if !ok || err != nil {
		return nil, Invalid.Errorf("cannot use huge pages %q: want SIZE=COUNT or SIZE=COUNT@NODE, for example 2Mi=512", text)
	}
	out := &HugePages{Size: size, Count: pages}
	if numa {
		n, err := strconv.Atoi(node)
		if err != nil {
			return nil, Invalid.Errorf("cannot use huge pages %q: %q is no NUMA node", text, node)
		}
		out.Node = &n
	}
	return out, nil
}
