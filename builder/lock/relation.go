package lock

import (
	"cmp"
	"fmt"
	"slices"

	"roost/builder/deb"
)

// dependency is one clause of Depends or Pre-Depends with the candidates that satisfy it, best first.
type dependency struct {
	verb      string // "depends on", "pre-depends on"
	relations []deb.Relation
	solutions []*deb.Package
}

// clash is a package that another cannot stand.
type clash struct {
	verb     string // "conflicts with", "breaks"
	relation deb.Relation
	victim   *deb.Package
}

// dependencies returns what p needs, in apt's order. Clauses that the image itself provides for are left out.
func (u *universe) dependencies(p *deb.Package) ([]dependency, error) {
	var list []dependency
	for _, field := range []struct{ name, verb, text string }{
		{"Pre-Depends", "pre-depends on", p.PreDepends},
		{"Depends", "depends on", p.Depends},
	} {
		clauses, err := deb.ParseRelations(field.text)
		if err != nil {
			return nil, packageError(p, field.name, err)
		}
		for _, relations := range clauses {
			relations = slices.DeleteFunc(relations, func(r deb.Relation) bool { return !r.AppliesTo(u.recipe.Architecture) })
			if len(relations) == 0 || slices.ContainsFunc(relations, u.providedByImage) {
				continue
			}
			d := dependency{verb: field.verb, relations: relations}
			for _, relation := range relations {
				for _, s := range u.satisfiers(relation) {
					if !slices.Contains(d.solutions, s) {
						d.solutions = append(d.solutions, s)
					}
				}
			}
			list = append(list, d)
		}
	}
	return list, nil
}

// clashes returns the candidates that cannot be installed beside p. A package does not clash with itself: that is how
// one says "only one provider at a time".
func (u *universe) clashes(p *deb.Package) ([]clash, error) {
	var list []clash
	for _, field := range []struct{ name, verb, text string }{
		{"Conflicts", "conflicts with", p.Conflicts},
		{"Breaks", "breaks", p.Breaks},
	} {
		relations, err := deb.ParseList(field.text)
		if err != nil {
			return nil, packageError(p, field.name, err)
		}
		for _, relation := range relations {
			for _, victim := range u.satisfiers(relation) {
				if victim.Name != p.Name {
					list = append(list, clash{field.verb, relation, victim})
				}
			}
		}
	}
	return list, nil
}

// satisfiers returns the candidates that a relation means: the package of that name first, then its providers as apt
// ranks them.
func (u *universe) satisfiers(r deb.Relation) []*deb.Package {
	if !r.AppliesTo(u.recipe.Architecture) {
		return nil
	}
	var list []*deb.Package
	if p := u.candidate(r.Name); p != nil && r.Holds(p.Version) && u.qualified(r, p) {
		list = append(list, p)
	}
	real := len(list)
	for _, v := range u.providers[r.Name] {
		if u.candidate(v.pkg.Name) == v.pkg && r.HeldBy(v.relation) && u.qualified(r, v.pkg) && !slices.Contains(list, v.pkg) {
			list = append(list, v.pkg)
		}
	}
	slices.SortFunc(list[real:], func(a, b *deb.Package) int {
		if a.Essential != b.Essential {
			if a.Essential {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(priorityOf(a), priorityOf(b)), cmp.Compare(u.order[b.Name], u.order[a.Name]))
	})
	return list
}

// qualified checks the architecture qualifier of a relation (Debian policy has no word on it; the multi-arch
// specification and dpkg do): ":any" wants a package that allows it.
func (u *universe) qualified(r deb.Relation, p *deb.Package) bool {
	switch r.Qualifier {
	case "", "native", u.recipe.Architecture:
		return true
	case "any":
		return p.MultiArch == "allowed" || p.MultiArch == "foreign"
	}
	return false
}

func (u *universe) providedByImage(r deb.Relation) bool {
	p, ok := u.provided[r.Name]
	if !ok {
		return false
	}
	return r.Op == deb.OpAny || p.Version != "" && r.Holds(deb.Version(p.Version))
}

// priorityOf orders Debian's priorities, the most important first.
func priorityOf(p *deb.Package) int {
	switch p.Priority {
	case "required":
		return 1
	case "important":
		return 2
	case "standard":
		return 3
	case "optional":
		return 4
	}
	return 5
}

func packageError(p *deb.Package, field string, err error) error {
	return fmt.Errorf("cannot read package %s %s of %s: field %s: %w", p.Name, p.Version, p.Suite, field, err)
}
