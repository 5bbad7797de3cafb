package recipe

import (
	"cmp"
	"fmt"
	"slices"

	"roost/images"
)

// merge lays up over r: scalars replace, lists grow, entries with a key replace the entry of that key.
func (r *Recipe) merge(up *part, layer string) {
	over(&r.Name, up.Name)
	over(&r.Version, up.Version)
	over(&r.Description, up.Description)
	over(&r.Architecture, up.Architecture)
	over(&r.Base.Distribution, up.Base.Distribution)
	over(&r.Base.Minimum, up.Base.Minimum)
	r.Base.Suites = keyed(r.Base.Suites, up.Base.Suites, func(s Suite) string { return s.Name })
	r.addPackages(up.Packages, layer)
	r.Pins = append(r.Pins, up.Pins...)
	r.Exclude = keyed(r.Exclude, up.Exclude, func(e Exclusion) string { return e.Name })
	r.Provided = keyed(r.Provided, up.Provided, func(p Provision) string { return p.Name })
	r.Kernel.merge(&up.Kernel)
	r.Remove = append(r.Remove, up.Remove...)
	r.Moves = append(r.Moves, up.Moves...)
	r.Edits = append(r.Edits, up.Edits...)
	r.Files = keyed(r.Files, up.Files, func(f File) string { return f.Path })
	r.Units.merge(&up.Units)
	r.Groups = keyed(r.Groups, up.Groups, func(g Group) string { return g.Name })
	r.Users = keyed(r.Users, up.Users, func(u User) string { return u.Name })
	r.Sysctl = keyed(r.Sysctl, up.Sysctl, func(s Setting) string { return s.Key })
	r.Programs = keyed(r.Programs, up.Programs, func(p Program) string { return p.Name })
	r.Containers = keyed(r.Containers, up.Containers, func(c Container) string { return c.Name })
	for _, c := range up.Components {
		c.Layer = layer
		r.Components = append(r.Components, c)
	}
	r.State = keyed(r.State, up.State, func(s State) string { return s.Path })
	r.Ports = keyed(r.Ports, up.Ports, func(p Port) string { return fmt.Sprint(p.Number, p.Protocol) })
	r.Gates = keyed(r.Gates, up.Gates, func(g images.Gate) string { return g.Name })
	over(&r.Slot.Root, up.Slot.Root)
	over(&r.Slot.Verity, up.Slot.Verity)
	over(&r.Slot.State, up.Slot.State)
	over(&r.Needs.Memory, up.Needs.Memory)
	over(&r.Update.Tries, up.Update.Tries)
	over(&r.Update.GateSeconds, up.Update.GateSeconds)
	over(&r.Update.RollbackFloor, up.Update.RollbackFloor)
}

// over replaces *below by above where above says something.
func over[T comparable](below *T, above T) {
	var unsaid T
	if above != unsaid {
		*below = above
	}
}

// keyed appends above to below; an entry whose key is already there takes its place.
func keyed[T any](below, above []T, key func(T) string) []T {
	place := make(map[string]int, len(below))
	for i, e := range below {
		place[key(e)] = i
	}
	for _, e := range above {
		if i, ok := place[key(e)]; ok {
			below[i] = e
			continue
		}
		below = append(below, e)
	}
	return below
}

// addPackages opens a layer for packages. A package wanted by a lower layer stays there, and takes a version or suite
// said above.
func (r *Recipe) addPackages(packages []Package, layer string) {
	if len(packages) == 0 {
		return
	}
	place := make(map[string]int, len(r.Packages))
	for i, p := range r.Packages {
		place[p.Name] = i
	}
	n := len(r.Layers)
	for _, p := range packages {
		i, ok := place[p.Name]
		if !ok {
			p.Layer = n
			r.Packages = append(r.Packages, p)
			continue
		}
		if p.Version != "" || p.Suite != "" {
			p.Layer = r.Packages[i].Layer
			r.Packages[i] = p
		}
	}
	r.Layers = append(r.Layers, layer)
}

func (k *Kernel) merge(up *Kernel) {
	over(&k.Flavour, up.Flavour)
	over(&k.Version, up.Version)
	if up.Flavour != "" || up.Version != "" {
		k.At = up.At
	}
	k.Arguments = append(k.Arguments, up.Arguments...)
	k.Modules = append(k.Modules, up.Modules...)
	k.InitrdModules = append(k.InitrdModules, up.InitrdModules...)
}

// merge moves every unit that up names into the list where up names it.
func (u *Units) merge(up *Units) {
	named := slices.Concat(up.Enable, up.Disable, up.Mask)
	for _, list := range []*[]string{&u.Enable, &u.Disable, &u.Mask} {
		*list = slices.DeleteFunc(*list, func(s string) bool { return slices.Contains(named, s) })
	}
	u.Enable = append(u.Enable, up.Enable...)
	u.Disable = append(u.Disable, up.Disable...)
	u.Mask = append(u.Mask, up.Mask...)
	u.Define = keyed(u.Define, up.Define, func(f UnitFile) string { return f.Name })
}

// finish sets defaults and sorts what has no order of its own, so that equal recipes are equal values.
func (r *Recipe) finish() {
	fallback(&r.Base.Distribution, "debian")
	fallback(&r.Base.Minimum, "required")
	fallback(&r.Slot.Root, 8*GiB)
	fallback(&r.Slot.Verity, 96*MiB)
	fallback(&r.Slot.State, GiB)
	fallback(&r.Needs.Memory, 2*GiB)
	fallback(&r.Update.Tries, 2)
	fallback(&r.Update.GateSeconds, 300)
	r.importContainers()
	slices.SortFunc(r.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(r.State, func(a, b State) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(r.Ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol))
	})
	slices.SortFunc(r.Units.Define, func(a, b UnitFile) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Sysctl, func(a, b Setting) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortFunc(r.Exclude, func(a, b Exclusion) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Provided, func(a, b Provision) int { return cmp.Compare(a.Name, b.Name) })
	for _, list := range [][]string{r.Units.Enable, r.Units.Disable, r.Units.Mask} {
		slices.Sort(list)
	}
}

func fallback[T comparable](v *T, value T) {
	var unsaid T
	if *v == unsaid {
		*v = value
	}
}
