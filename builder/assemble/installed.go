package assemble

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/builder/deb"
	"roost/builder/lock"
	"roost/builder/tree"
)

// installed reads the packages and their files out of dpkg's database, sorted by name.
func (a *assembly) installed(t tree.Tree) ([]Installed, error) {
	d := t.Draft()
	status, err := a.text(d, database+"/status")
	if err != nil {
		return nil, err
	}
	paragraphs, err := deb.ParseParagraphs(status)
	if err != nil {
		return nil, fmt.Errorf("cannot read dpkg's status: %w", err)
	}
	var all []Installed
	for _, p := range paragraphs {
		x := Installed{Name: p.Get("Package"), Version: p.Get("Version"), Architecture: p.Get("Architecture")}
		x.Source, x.SourceVer = sourceOf(p)
		list, err := a.text(d, database+"/info/"+(&layer{Package: lock.Package{Name: x.Name}, control: p}).infoName()+".list")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(list)) {
			x.Files = append(x.Files, strings.TrimSpace(line))
		}
		all = append(all, x)
	}
	slices.SortFunc(all, func(x, y Installed) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Architecture, y.Architecture))
	})
	return all, nil
}

// sourceOf returns the source package and its version, which a binary package names only where they differ from its own.
func sourceOf(p deb.Paragraph) (name, version string) {
	name, version, _ = strings.Cut(p.Get("Source"), " (")
	return cmp.Or(name, p.Get("Package")), cmp.Or(strings.TrimSuffix(version, ")"), p.Get("Version"))
}

// present returns those of a package's files that are in the image, under the names they have there: through merged
// /usr, and decompressed where they are kernel modules.
func present(t tree.Tree, files []string) []string {
	var kept []string
	for _, p := range files {
		dir, _, err := t.Resolve(path.Dir(p))
		if err != nil {
			continue
		}
		at := path.Join(dir, path.Base(p))
		if isModule(at) {
			at = plainModule(at)
		}
		if e, ok := t.Lookup(at); ok && e.Type != tree.Directory {
			kept = append(kept, at)
		}
	}
	slices.Sort(kept)
	return slices.Compact(kept)
}
