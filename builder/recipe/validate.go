package recipe

import (
	"fmt"
	"maps"
	"path"
	"slices"
)

// validate checks what only the merged recipe can tell. top is where a missing field is reported.
func (r *Recipe) validate(d *decoder, top Position, updateAt Position) {
	for _, f := range []struct {
		missing      bool
		name, sample string
	}{
		{r.Name == "", "name", "name: edge"},
		{r.Version == "", "version", `version: "1.0"`},
		{r.Architecture == "", "architecture", "architecture: amd64"},
		{len(r.Base.Suites) == 0, "base.suites", `base: {suites: [{name: trixie, components: [main]}]}`},
	} {
		if f.missing {
			d.faultAt(top, fmt.Sprintf("the recipe lacks field %q", f.name), fmt.Sprintf("add '%s', here or in a file it includes", f.sample))
		}
	}
	if r.Update.RollbackFloor.Compare(r.Version) > 0 {
		d.faultAt(updateAt, fmt.Sprintf("rollbackFloor %s is newer than the release itself, %s", r.Update.RollbackFloor, r.Version), "write this version or an older one")
	}
	if need := verityFor(r.Slot.Root); r.Slot.Verity < need {
		d.faultAt(top, fmt.Sprintf("slot.verity of %s is too small for a root of %s", r.Slot.Verity, r.Slot.Root), fmt.Sprintf("write at least %s", need))
	}
	r.validatePackages(d)
	r.validateAccounts(d)
	r.validatePaths(d)
	r.validateComponents(d)
}

// validateComponents checks what components and container images refer to.
func (r *Recipe) validateComponents(d *decoder) {
	var programs, packages []string
	held := map[string]bool{}
	for _, p := range r.Programs {
		programs = append(programs, p.Name)
	}
	for _, p := range r.Packages {
		packages = append(packages, p.Name)
	}
	for _, c := range r.Containers {
		held[c.Program] = true
		if c.Program != "" && !slices.Contains(programs, c.Program) {
			d.faultAt(c.At, fmt.Sprintf("%q is no program of this recipe", c.Program), didYouMean(c.Program, programs))
		}
	}
	for _, p := range r.Programs {
		if p.Target == "" && !held[p.Name] {
			d.faultAt(p.At, fmt.Sprintf("program %s is neither in the image nor in a container image", p.Name), "add \"target: …\", or name it under oci")
		}
	}
	named := map[string]Position{}
	for _, c := range r.Components {
		if at, twice := named[c.Name]; twice {
			d.faultAt(c.At, fmt.Sprintf("component %s is also at %s", c.Name, at), "give each its own name")
		}
		named[c.Name] = c.At
		if c.Of != "" && !slices.Contains(programs, c.Of) && !slices.Contains(packages, c.Of) {
			d.faultAt(c.At, fmt.Sprintf("%q is neither a program nor a package of this recipe", c.Of), didYouMean(c.Of, slices.Concat(programs, packages)))
		}
	}
}

// verityFor returns the room, in whole MiB, that the SHA-256 tree and superblock of a root of that size take in
// 4096-byte blocks.
func verityFor(root Size) Size {
	const block, perBlock = 4096, 4096 / 32
	total := Size(1) // superblock
	for level := (root + block - 1) / block; level > 1; {
		level = (level + perBlock - 1) / perBlock
		total += level
	}
	return (total*block + MiB - 1) / MiB * MiB
}

func (r *Recipe) validatePackages(d *decoder) {
	var suites []string
	for _, s := range r.Base.Suites {
		suites = append(suites, s.Name)
	}
	excluded := map[string]Position{}
	for _, e := range r.Exclude {
		excluded[e.Name] = e.At
	}
	suite := func(at Position, name string) {
		if name != "" && !slices.Contains(suites, name) {
			d.faultAt(at, fmt.Sprintf("%q is no suite of this recipe", name), didYouMean(name, suites))
		}
	}
	for _, p := range r.Packages {
		suite(p.At, p.Suite)
		if at, ok := excluded[p.Name]; ok {
			d.faultAt(p.At, fmt.Sprintf("package %s is also excluded, at %s", p.Name, at), "delete one of the two")
		}
		if p.architecture != "" && r.Architecture != "" && p.architecture != r.Architecture {
			d.faultAt(p.At, fmt.Sprintf("package %s is wanted for %s in a recipe for %s", p.Name, p.architecture, r.Architecture), "write "+p.Name)
		}
	}
	for _, p := range r.Pins {
		suite(p.At, p.Suite)
	}
}

func (r *Recipe) validateAccounts(d *decoder) {
	users, groups := map[int]string{}, map[int]string{}
	for _, g := range r.Groups {
		if other := groups[g.GID]; other != "" {
			d.faultAt(g.At, fmt.Sprintf("groups %s and %s have the same gid %d", other, g.Name, g.GID), "give each its own")
		}
		groups[g.GID] = g.Name
	}
	for _, u := range r.Users {
		if other := users[u.UID]; other != "" && u.UID != 0 {
			d.faultAt(u.At, fmt.Sprintf("users %s and %s have the same uid %d", other, u.Name, u.UID), "give each its own")
		}
		users[u.UID] = u.Name
	}
}

// validatePaths checks that the recipe's files, units and programs do not stand in each other's way.
func (r *Recipe) validatePaths(d *decoder) {
	type claim struct {
		what string
		file bool // not a directory
		at   Position
	}
	claims := map[string]claim{}
	add := func(p string, c claim) {
		if other, ok := claims[p]; ok {
			d.faultAt(c.at, fmt.Sprintf("%s is written by %s and by %s at %s", p, c.what, other.what, other.at), "delete one of the two")
			return
		}
		claims[p] = c
	}
	for _, f := range r.Files {
		add(f.Path, claim{"a file", !f.Directory, f.At})
	}
	for _, u := range r.Units.Define {
		add("/usr/lib/systemd/system/"+u.Name, claim{"unit " + u.Name, true, u.At})
	}
	for _, p := range r.Programs {
		if p.Target != "" {
			add(p.Target, claim{"program " + p.Name, true, p.At})
		}
		for _, link := range p.Links() {
			add(link, claim{"a command of program " + p.Name, true, p.At})
		}
	}
	for _, c := range r.Containers {
		add(c.File(), claim{"image " + c.Name, true, c.At})
	}
	for _, p := range slices.Sorted(maps.Keys(claims)) {
		for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
			if c, ok := claims[dir]; ok && c.file {
				d.faultAt(claims[p].at, fmt.Sprintf("%s lies below %s, which is %s", p, dir, c.what), "write another path")
			}
		}
	}
}
