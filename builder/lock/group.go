package lock

import (
	"cmp"
	"slices"

	"roost/builder/deb"
)

// groups splits the chosen packages into those that are installed together. A group holds what its wishes need and no
// lower group has; so every dependency lies in the same group or below, and a change in one group leaves those below as
// they are.
func (g *graph) groups(wishes []wish, chosen []*deb.Package) []Group {
	in := make(map[int]bool, len(chosen))
	for _, p := range chosen {
		in[g.number[p]] = true
	}
	type layer struct {
		number int
		name   string
	}
	layers := []layer{{layerBase, GroupBase}, {layerKernel, GroupKernel}}
	for i, name := range g.universe.recipe.Layers {
		layers = append(layers, layer{i, name})
	}
	placed := map[int]bool{}
	var groups []Group
	for _, l := range layers {
		var members []int
		for i := range wishes {
			if wishes[i].layer == l.number {
				members = g.gather(g.number[wishes[i].pkg], in, placed, members)
			}
		}
		if len(members) == 0 {
			continue
		}
		group := Group{Name: l.name}
		for _, v := range members {
			group.Packages = append(group.Packages, lockPackage(g.packages[v]))
		}
		slices.SortFunc(group.Packages, func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
		groups = append(groups, group)
	}
	return groups
}

// gather adds v and all it needs to members, unless placed already.
func (g *graph) gather(v int, in, placed map[int]bool, members []int) []int {
	if placed[v] {
		return members
	}
	placed[v] = true
	members = append(members, v)
	for _, solutions := range g.needs[v] {
		if slices.ContainsFunc(solutions, func(s int) bool { return placed[s] }) {
			continue
		}
		if i := slices.IndexFunc(solutions, func(s int) bool { return in[s] }); i >= 0 {
			members = g.gather(solutions[i], in, placed, members)
		}
	}
	return members
}

func lockPackage(p *deb.Package) Package {
	return Package{
		Name: p.Name, Version: p.Version, Architecture: p.Architecture, Suite: p.Suite,
		File: p.Filename, Size: p.Size, Installed: p.InstalledSize << 10, SHA256: p.SHA256,
	}
}
