package assemble

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/builder/deb"
	"roost/builder/tree"
)

// ownership records which package each file came from, in the names the package itself used.
type ownership struct {
	owner    map[string]*layer          // path in the tree, after following merged /usr
	lost     map[*layer]map[string]bool // files of a package that another one replaced, in its own names
	diverted map[string]string          // path to the package for whose sake other packages' file there is moved away
}

func newOwnership() *ownership {
	return &ownership{owner: map[string]*layer{}, lost: map[*layer]map[string]bool{}}
}

// readDiversions takes up dpkg's list of diversions (dpkg-divert(1)), three lines each: from, to, package.
func (o *ownership) readDiversions(text []byte) {
	o.diverted = map[string]string{}
	lines := strings.Split(string(text), "\n")
	for three := range slices.Chunk(lines, 3) {
		if len(three) == 3 {
			o.diverted[three[0]] = three[2]
		}
	}
}

// list is dpkg's list file of l: every path, the root as "/.".
func (o *ownership) list(l *layer) string {
	var b strings.Builder
	for _, e := range l.files.Entries() {
		switch {
		case e.Path == "/":
			b.WriteString("/.\n")
		case !o.lost[l][e.Path]:
			b.WriteString(e.Path + "\n")
		}
	}
	return b.String()
}

// merge puts the files of layers on d. A path of two packages is a fault unless one of them replaces the other (policy
// 7.6.1), is a directory in both, or is the same file in both.
func (o *ownership) merge(d *tree.Draft, layers []*layer) error {
	for _, l := range aliasesFirst(layers) {
		kept, err := o.claim(d, l)
		if err != nil {
			return err
		}
		if _, err := d.Overlay(kept); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", l.Name, err)
		}
	}
	return nil
}

// aliasesFirst moves packages that ship a top-level symlink (base-files and its /bin, /lib …) before the others, so that
// a directory of that name never comes first.
func aliasesFirst(layers []*layer) []*layer {
	sorted := slices.Clone(layers)
	aliases := func(l *layer) int {
		for _, e := range l.files.Entries() {
			if e.Type == tree.Symlink && path.Dir(e.Path) == "/" {
				return 0
			}
		}
		return 1
	}
	slices.SortStableFunc(sorted, func(x, y *layer) int { return aliases(x) - aliases(y) })
	return sorted
}

// claim notes l as owner of its files and returns those of them that go on the tree.
func (o *ownership) claim(d *tree.Draft, l *layer) (tree.Tree, error) {
	var fault error
	kept := l.files.Remove(func(p string) bool {
		e, _ := l.files.Lookup(p)
		if e.Type == tree.Directory || fault != nil {
			return false
		}
		dir, _, err := d.Resolve(path.Dir(p))
		if err != nil {
			fault = err
			return false
		}
		at := path.Join(dir, path.Base(p))
		if by := o.diverted[at]; by != "" && by != l.Name {
			fault = fmt.Errorf("cannot unpack %s: %s diverts its file %s, which is not supported", l.Name, by, p)
			return false
		}
		other := o.owner[at]
		switch {
		case other == nil || o.same(d, at, e):
		case replaces(l, other):
			o.lose(other, p, at)
		case replaces(other, l):
			o.lose(l, p, at)
			return true
		default:
			fault = fmt.Errorf("cannot unpack %s: %s is also in %s, and neither package replaces the other", l.Name, p, other.Name)
			return false
		}
		o.owner[at] = l
		return false
	})
	return kept, fault
}

// same reports whether the tree already has e's content at path at: packages of one source for two architectures share
// files.
func (o *ownership) same(d *tree.Draft, at string, e tree.Entry) bool {
	have, ok := d.Lookup(at)
	e.Path = at
	return ok && have.Equal(e)
}

// note takes layers into account that are on the tree already.
func (o *ownership) note(layers []*layer, d *tree.Draft) error {
	for _, l := range aliasesFirst(layers) {
		if _, err := o.claim(d, l); err != nil {
			return err
		}
	}
	return nil
}

func (o *ownership) lose(l *layer, paths ...string) {
	if o.lost[l] == nil {
		o.lost[l] = map[string]bool{}
	}
	for _, p := range paths {
		o.lost[l][p] = true
	}
}

// replaces tells whether x's Replaces field names y in its version. Virtual packages do not count here, as in dpkg.
func replaces(x, y *layer) bool {
	relations, err := deb.ParseList(x.control.Get("Replaces"))
	return err == nil && slices.ContainsFunc(relations, func(r deb.Relation) bool {
		return r.Name == y.Name && r.Holds(y.Version)
	})
}
