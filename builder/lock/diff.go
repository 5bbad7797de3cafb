package lock

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Change is what two locks do not have in common: a package, or another pin (a toolchain, a Go module that is built in, a
// container image). Old is nil for an added package, New for a removed one; pins are empty likewise.
type Change struct {
	Name           string
	Old, New       *Package
	OldPin, NewPin string
}

// Kind returns "added", "removed", "upgraded", "downgraded", "changed" for a pin, or "rebuilt" for the same version with
// another content.
func (c Change) Kind() string {
	switch {
	case c.OldPin != "" && c.NewPin != "":
		return "changed"
	case c.OldPin != "":
		return "removed"
	case c.NewPin != "":
		return "added"
	case c.Old == nil:
		return "added"
	case c.New == nil:
		return "removed"
	}
	switch c.New.Version.Compare(c.Old.Version) {
	case 1:
		return "upgraded"
	case -1:
		return "downgraded"
	}
	return "rebuilt"
}

// Diff returns the changes from old to next by name. Old may be nil: then everything is added.
func Diff(old, next *Lock) []Change {
	changes := map[string]*Change{}
	at := func(name string) *Change {
		if changes[name] == nil {
			changes[name] = &Change{Name: name}
		}
		return changes[name]
	}
	if old != nil {
		for p := range old.Packages() {
			at(p.Name).Old = &p
		}
	}
	for p := range next.Packages() {
		at(p.Name).New = &p
	}
	var list []Change
	for _, c := range changes {
		if c.Old == nil || c.New == nil || c.Old.SHA256 != c.New.SHA256 {
			list = append(list, *c)
		}
	}
	slices.SortFunc(list, func(a, b Change) int { return cmp.Compare(a.Name, b.Name) })
	return append(list, diffPins(pins(old, next), pins(next, old))...)
}

// pins returns what a lock pins besides packages, by a name for people. The modules of a program that the other lock does
// not have are only counted: there are hundreds, and none of them changed.
func pins(l, other *Lock) map[string]string {
	all := map[string]string{}
	if l == nil {
		return all
	}
	for _, p := range l.Programs {
		all[p.Name+": toolchain"] = p.Toolchain
		if !has(other, p.Name) {
			if len(p.Modules) > 0 {
				all[p.Name+": Go modules"] = fmt.Sprint(len(p.Modules))
			}
			continue
		}
		for _, m := range p.Modules {
			if m.Require != "" {
				all[p.Name+": "+m.Path] = m.Version
			}
		}
	}
	for _, c := range l.Containers {
		all[c.Name] = string(c.Digest)
	}
	return all
}

func has(l *Lock, program string) bool {
	if l == nil {
		return false
	}
	_, ok := l.Program(program)
	return ok
}

func diffPins(old, next map[string]string) (list []Change) {
	names := maps.Clone(old)
	maps.Copy(names, next)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if old[name] != next[name] {
			list = append(list, Change{Name: name, OldPin: old[name], NewPin: next[name]})
		}
	}
	return list
}

// WriteDiff prints changes as a table, one package a line, and their sum.
func WriteDiff(w io.Writer, changes []Change) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "nothing changed")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	count := map[string]int{}
	var download, installed int64
	for _, c := range changes {
		count[c.Kind()]++
		var versions string
		var delta, size int64
		switch {
		case c.OldPin+c.NewPin != "":
			versions = cmp.Or(c.OldPin, c.NewPin)
			if c.Kind() == "changed" {
				versions += " → " + c.NewPin
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", c.Kind(), c.Name, versions)
			continue
		case c.Old == nil:
			versions, delta, size = string(c.New.Version), c.New.Installed, c.New.Size
		case c.New == nil:
			versions, delta = string(c.Old.Version), -c.Old.Installed
		default:
			versions, delta, size = fmt.Sprintf("%s → %s", c.Old.Version, c.New.Version), c.New.Installed-c.Old.Installed, c.New.Size
		}
		download, installed = download+size, installed+delta
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Kind(), c.Name, versions, signed(delta))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var sums []string
	for _, kind := range []string{"added", "removed", "upgraded", "downgraded", "rebuilt", "changed"} {
		if count[kind] > 0 {
			sums = append(sums, fmt.Sprintf("%d %s", count[kind], kind))
		}
	}
	_, err := fmt.Fprintf(w, "%s; %s to fetch, %s installed\n", strings.Join(sums, ", "), bytesText(download), signed(installed))
	return err
}

func signed(n int64) string {
	switch {
	case n < 0:
		return "-" + bytesText(-n)
	case n > 0:
		return "+" + bytesText(n)
	}
	return "±0"
}

// bytesText prints a number of bytes with three digits or so, in decimal units as package tools do.
func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
