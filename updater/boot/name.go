package boot

import (
	"fmt"
	"strconv"
	"strings"
)

// Name is the file name of a UKI in EFI/Linux, taken apart as systemd-boot does (UAPI.1, boot counting).
type Name struct {
	Base    string // without counters and ".efi", for example "edge_2026.11.1"
	Counted bool   // the name carries counters: the version is on trial, or bad
	Left    int    // attempts left; 0 of a counted name means bad: sorted last, yet bootable
	Done    int    // attempts made
}

const suffix = ".efi"

// BaseName returns the name, without counters, of the UKI of one version of a recipe.
func BaseName(recipe, version string) string { return recipe + "_" + version }

// ParseName takes a file name apart. It reports false for names that systemd-boot would not look at. As there, what
// looks like counters but is not, belongs to the base.
func ParseName(file string) (Name, bool) {
	if len(file) <= len(suffix) || !strings.EqualFold(file[len(file)-len(suffix):], suffix) {
		return Name{}, false
	}
	if file[0] == '.' || strings.HasPrefix(file, "auto-") {
		return Name{}, false
	}
	stem := file[:len(file)-len(suffix)]
	plus := strings.LastIndexByte(stem, '+')
	if plus < 0 {
		return Name{Base: stem}, true
	}
	left, done, dash := strings.Cut(stem[plus+1:], "-")
	name := Name{Base: stem[:plus], Counted: true}
	var ok bool
	if name.Left, ok = parseCounter(left); !ok {
		return Name{Base: stem}, true
	}
	if name.Done, ok = parseCounter(done); dash && !ok {
		return Name{Base: stem}, true
	}
	return name, true
}

// parseCounter reads digits up to the largest counter that systemd-boot takes, INT_MAX.
func parseCounter(s string) (int, bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err == nil
}

// String is the file name.
func (n Name) String() string {
	if !n.Counted {
		return n.Base + suffix
	}
	return fmt.Sprintf("%s+%d-%d%s", n.Base, n.Left, n.Done, suffix)
}

// Bad reports whether no attempt is left: the loader takes such a file only when nothing better is there.
func (n Name) Bad() bool { return n.Counted && n.Left == 0 }

// Tried is the name the loader gives the file before it starts it.
func (n Name) Tried() Name {
	if n.Counted {
		n.Left = max(n.Left-1, 0)
		n.Done++
	}
	return n
}
