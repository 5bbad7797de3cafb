package lock

import (
	"time"

	"roost/builder/deb"
	"roost/builder/recipe"
	"roost/images"
)

// Index is the state of an archive: its verified suites, in the recipe's order.
type Index struct {
	Suites []IndexSuite
}

// IndexSuite is one suite of an index.
type IndexSuite struct {
	Name      string
	Date      time.Time     // of the release file
	InRelease images.Digest // of the signed release file
	Packages  []deb.Package // in the archive's order
}

// universe is the index as one recipe sees it.
type universe struct {
	recipe     *recipe.Recipe
	keep       map[string]deb.Version // versions to prefer while they exist
	keepKernel string                 // kernel package to prefer while it exists
	rank       map[string]suiteRank   // of suites
	order      map[string]int         // when a name is first mentioned in the index
	versions   map[string][]*deb.Package
	providers  map[string][]provider
	candidates map[string]*deb.Package
	provided   map[string]recipe.Provision
	excluded   map[string]recipe.Position
	wanted     map[string]recipe.Package
}

type suiteRank struct{ priority, place int }

// provider is a package version with one entry of its Provides.
type provider struct {
	pkg      *deb.Package
	relation deb.Relation
}

func newUniverse(r *recipe.Recipe, index *Index, keep *Lock) (*universe, error) {
	count := 0
	for _, s := range index.Suites {
		count += len(s.Packages)
	}
	u := &universe{
		recipe: r, keep: map[string]deb.Version{}, rank: map[string]suiteRank{}, order: make(map[string]int, count*3/2),
		versions: make(map[string][]*deb.Package, count), providers: make(map[string][]provider, count/8),
		candidates: map[string]*deb.Package{}, provided: map[string]recipe.Provision{},
		excluded: map[string]recipe.Position{}, wanted: map[string]recipe.Package{},
	}
	for i, s := range r.Base.Suites {
		u.rank[s.Name] = suiteRank{s.Priority, i}
	}
	for _, p := range r.Provided {
		u.provided[p.Name] = p
	}
	for _, e := range r.Exclude {
		u.excluded[e.Name] = e.At
	}
	for _, p := range r.Packages {
		u.wanted[p.Name] = p
	}
	if keep != nil {
		u.keepKernel = keep.Kernel
		for p := range keep.Packages() {
			u.keep[p.Name] = p.Version
		}
	}
	for i := range index.Suites {
		if err := u.addSuite(&index.Suites[i]); err != nil {
			return nil, err
		}
	}
	return u, nil
}

func (u *universe) addSuite(s *IndexSuite) error {
	if _, ok := u.rank[s.Name]; !ok {
		return nil // not in the recipe
	}
	for i := range s.Packages {
		p := &s.Packages[i]
		if p.Architecture != u.recipe.Architecture && p.Architecture != "all" {
			continue
		}
		u.mention(p)
		u.versions[p.Name] = append(u.versions[p.Name], p)
		if p.Provides == "" {
			continue
		}
		provides, err := deb.ParseList(p.Provides)
		if err != nil {
			return packageError(p, "Provides", err)
		}
		for _, relation := range provides {
			u.providers[relation.Name] = append(u.providers[relation.Name], provider{p, relation})
		}
	}
	return nil
}

// mention numbers p and all names in its relations, if they are new. apt numbers packages in this order while it reads
// an index, and where it has no other reason to prefer one package, that number decides; so it does here.
func (u *universe) mention(p *deb.Package) {
	u.mentionName(p.Name)
	for _, field := range []string{p.PreDepends, p.Depends, p.Conflicts, p.Breaks, p.Recommends, p.Replaces, p.Provides} {
		for i := 0; i < len(field); i++ {
			if !isNameByte(field[i]) {
				continue
			}
			start := i
			for i < len(field) && isNameByte(field[i]) {
				i++
			}
			u.mentionName(field[start:i])
			for i < len(field) && field[i] != ',' && field[i] != '|' { // restrictions
				i++
			}
		}
	}
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '+'
}

func (u *universe) mentionName(name string) {
	if _, ok := u.order[name]; !ok {
		u.order[name] = len(u.order)
	}
}

// candidate returns the version of a name that may be installed, or nil.
func (u *universe) candidate(name string) *deb.Package {
	best, known := u.candidates[name]
	if known {
		return best
	}
	for _, p := range u.versions[name] {
		if u.allowed(p) && (best == nil || u.better(p, best)) {
			best = p
		}
	}
	u.candidates[name] = best
	return best
}

// better reports whether a goes before b, both of one name: a kept version, then the suite's priority, then the version,
// then the suite said first.
func (u *universe) better(a, b *deb.Package) bool {
	if keep, ok := u.keep[a.Name]; ok && (a.Version == keep) != (b.Version == keep) {
		return a.Version == keep
	}
	ra, rb := u.rank[a.Suite], u.rank[b.Suite]
	if ra.priority != rb.priority {
		return ra.priority > rb.priority
	}
	if c := a.Version.Compare(b.Version); c != 0 {
		return c > 0
	}
	return ra.place < rb.place
}

// allowed reports whether the recipe admits this version of this package.
func (u *universe) allowed(p *deb.Package) bool {
	if _, ok := u.excluded[p.Name]; ok {
		return false
	}
	if w, ok := u.wanted[p.Name]; ok && (w.Version != "" || w.Suite != "") {
		return (w.Version == "" || deb.Version(w.Version).Compare(p.Version) == 0) && (w.Suite == "" || w.Suite == p.Suite)
	}
	for _, pin := range u.recipe.Pins {
		if recipe.Match(pin.Package, p.Name) && !pinHolds(pin, p) {
			return false
		}
	}
	return true
}

func pinHolds(pin recipe.Pin, p *deb.Package) bool {
	return (pin.Suite == "" || pin.Suite == p.Suite) && (pin.Version == "" || recipe.Match(pin.Version, string(p.Version)))
}
