package lock

import (
	"fmt"
	"slices"
	"strings"

	"roost/builder/deb"
)

// Conflict says why a recipe has no solution: facts that cannot hold together, none of which could be left out, from the
// recipe's lines to the collision.
type Conflict struct {
	Recipe string
	Facts  []string
	Hints  []string // what to write
}

func (c *Conflict) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot resolve %s: these cannot hold together:", c.Recipe)
	for _, f := range c.Facts {
		b.WriteString("\n  " + f)
	}
	for _, h := range c.Hints {
		b.WriteString("\nhint: " + h)
	}
	return b.String()
}

// conflict tells a minimal core as a story: each wish, then what it needs, breadth first, and clashes where both sides
// are known.
func (g *graph) conflict(core []int) *Conflict {
	c := &Conflict{Recipe: g.universe.recipe.Source()}
	known := map[int]bool{}
	told := map[int]bool{}
	tell := func(n int) {
		told[n] = true
		c.Facts = append(c.Facts, g.tell(&g.facts[n]))
		c.Hints = append(c.Hints, g.hints(&g.facts[n])...)
		for _, l := range g.facts[n].literals {
			known[l.variable()] = true
		}
	}
	for _, n := range core {
		if g.facts[n].wish != nil {
			tell(n)
		}
	}
	for again := true; again; {
		again = false
		for _, n := range core {
			if f := &g.facts[n]; !told[n] && known[f.subject] && (f.needs != nil || known[g.number[f.clash.victim]]) {
				tell(n)
				again = true
			}
		}
	}
	for _, n := range core { // a clash with a package that only its own dependency names
		if !told[n] {
			tell(n)
		}
	}
	slices.Sort(c.Hints)
	c.Hints = slices.Compact(c.Hints)
	return c
}

// tell puts one fact in words.
func (g *graph) tell(f *fact) string {
	switch {
	case f.wish != nil && f.wish.layer == layerBase:
		return fmt.Sprintf("%s is in the base (%s)", name(f.wish.pkg), baseReason(f.wish.pkg))
	case f.wish != nil && f.wish.layer == layerKernel:
		return fmt.Sprintf("%s: the kernel is %s", f.wish.at, name(f.wish.pkg))
	case f.wish != nil:
		return fmt.Sprintf("%s: %s is wanted", f.wish.at, name(f.wish.pkg))
	case f.clash != nil && f.clash.relation.Name == f.clash.victim.Name && f.clash.relation.Op == deb.OpAny:
		return fmt.Sprintf("%s %s %s", name(g.packages[f.subject]), f.clash.verb, name(f.clash.victim))
	case f.clash != nil && f.clash.relation.Name == f.clash.victim.Name:
		return fmt.Sprintf("%s %s %s, which %s is", name(g.packages[f.subject]), f.clash.verb, f.clash.relation, name(f.clash.victim))
	case f.clash != nil:
		return fmt.Sprintf("%s %s %s, which %s provides", name(g.packages[f.subject]), f.clash.verb, f.clash.relation, name(f.clash.victim))
	}
	text := fmt.Sprintf("%s %s %s", name(g.packages[f.subject]), f.needs.verb, deb.Relations{f.needs.relations})
	switch len(f.needs.solutions) {
	case 0:
		var reasons []string
		for _, r := range f.needs.relations {
			reasons = append(reasons, g.universe.missing(r))
		}
		return text + ", but " + strings.Join(reasons, ", and ")
	case 1:
		return text + ", which only " + name(f.needs.solutions[0]) + " satisfies"
	}
	var names []string
	for _, s := range f.needs.solutions {
		names = append(names, name(s))
	}
	return text + ", which only these satisfy: " + strings.Join(names, ", ")
}

func name(p *deb.Package) string {
	return fmt.Sprintf("%s %s (%s)", p.Name, p.Version, p.Suite)
}

func baseReason(p *deb.Package) string {
	if p.Essential {
		return "essential"
	}
	return "priority " + p.Priority
}

// missing says why nothing satisfies a relation.
func (u *universe) missing(r deb.Relation) string {
	if at, ok := u.excluded[r.Name]; ok {
		return fmt.Sprintf("%s is excluded at %s", r.Name, at)
	}
	if p := u.candidate(r.Name); p != nil {
		return name(p) + " is not"
	}
	if versions := u.versions[r.Name]; len(versions) > 0 {
		return fmt.Sprintf("the recipe's pins leave no version of %s", r.Name)
	}
	providers := u.providers[r.Name]
	for _, v := range providers {
		if at, ok := u.excluded[v.pkg.Name]; ok {
			return fmt.Sprintf("%s, which provides %s, is excluded at %s", v.pkg.Name, r.Name, at)
		}
	}
	if len(providers) > 0 {
		return fmt.Sprintf("%s provides %s only without fitting version", name(providers[0].pkg), r.Name)
	}
	return fmt.Sprintf("%s is in none of the recipe's suites", r.Name)
}

// hints names versions in the index that would help, for a person to pin.
func (g *graph) hints(f *fact) []string {
	var hints []string
	pin := func(p *deb.Package) {
		if _, ok := g.universe.excluded[p.Name]; ok {
			return
		}
		hints = append(hints, fmt.Sprintf("%s %s (%s) would do: write \"%s=%s\" under packages", p.Name, p.Version, p.Suite, p.Name, p.Version))
	}
	switch {
	case f.needs != nil && len(f.needs.solutions) == 0:
		for _, r := range f.needs.relations {
			for _, p := range g.universe.versions[r.Name] {
				if r.Holds(p.Version) && g.universe.qualified(r, p) {
					pin(p)
				}
			}
		}
	case f.clash != nil && f.clash.relation.Op != deb.OpAny && f.clash.relation.Name == f.clash.victim.Name:
		for _, p := range g.universe.versions[f.clash.victim.Name] {
			if !f.clash.relation.Holds(p.Version) {
				pin(p)
			}
		}
	}
	return hints
}
