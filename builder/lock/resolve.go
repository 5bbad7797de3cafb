package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"roost/builder/deb"
	"roost/builder/recipe"
)

// Resolve chooses the packages that fulfil the recipe's wishes from the index. With keep, versions of that lock stay
// where index and recipe still allow them, so that a changed recipe does not upgrade what nobody asked to; where they no
// longer fit together, it resolves without keep. The error is a [*Conflict] when the wishes have no solution.
func Resolve(ctx context.Context, r *recipe.Recipe, index *Index, keep *Lock) (*Lock, error) {
	l, err := resolve(ctx, r, index, keep)
	var conflict *Conflict
	if keep != nil && errors.As(err, &conflict) {
		return resolve(ctx, r, index, nil)
	}
	return l, err
}

func resolve(ctx context.Context, r *recipe.Recipe, index *Index, keep *Lock) (*Lock, error) {
	u, err := newUniverse(r, index, keep)
	if err != nil {
		return nil, err
	}
	if err := u.checkSuites(index); err != nil {
		return nil, err
	}
	wishes, kernel, err := u.wishes()
	if err != nil {
		return nil, err
	}
	g := newGraph(u)
	chosen, err := g.resolve(ctx, wishes)
	if err != nil {
		return nil, err
	}
	l := &Lock{
		Schema: schema, Recipe: r.Name, Wants: r.WantsDigest(), Architecture: r.Architecture, Kernel: kernel,
		Groups: g.groups(wishes, chosen), Programs: []Program{},
	}
	if keep != nil {
		l.Programs = keep.Programs
	}
	for _, s := range index.Suites {
		if _, ok := u.rank[s.Name]; ok {
			l.Suites = append(l.Suites, Suite{Name: s.Name, InRelease: s.InRelease, Date: s.Date.UTC()})
			l.Epoch = max(l.Epoch, s.Date.Unix())
		}
	}
	return l, l.validate()
}

func (u *universe) checkSuites(index *Index) error {
	for _, want := range u.recipe.Base.Suites {
		if !slices.ContainsFunc(index.Suites, func(s IndexSuite) bool { return s.Name == want.Name }) {
			return fmt.Errorf("cannot resolve %s: the index lacks suite %s", u.recipe.Source(), want.Name)
		}
	}
	return nil
}

// wishes collects what must be there: base, kernel, packages. All that cannot be found is reported at once.
func (u *universe) wishes() (list []wish, kernel string, err error) {
	for name := range u.versions {
		p := u.candidate(name)
		if p != nil && u.inBase(p) {
			list = append(list, wish{pkg: p, layer: layerBase})
		}
	}
	slices.SortFunc(list, func(a, b wish) int { return cmp.Compare(a.pkg.Name, b.pkg.Name) })
	var problems []string
	k := u.recipe.Kernel
	if k.Flavour != "" {
		p, problem := u.kernel(k)
		if problem != "" {
			problems = append(problems, problem)
		} else {
			kernel = p.Name
			list = append(list, wish{p, layerKernel, k.At})
		}
	}
	for _, w := range u.recipe.Packages {
		p := u.candidate(w.Name)
		if p == nil {
			problems = append(problems, u.unknown(w))
			continue
		}
		list = append(list, wish{p, w.Layer, w.At})
	}
	if len(problems) > 0 {
		return nil, "", fmt.Errorf("cannot resolve %s: packages are missing:\n  %s", u.recipe.Source(), strings.Join(problems, "\n  "))
	}
	return list, kernel, nil
}

func (u *universe) inBase(p *deb.Package) bool {
	switch u.recipe.Base.Minimum {
	case "required":
		return p.Essential || p.Priority == "required"
	case "essential":
		return p.Essential
	}
	return false
}

// unknown says what is wrong with a wish that has no candidate, and what to write.
func (u *universe) unknown(w recipe.Package) string {
	var providers, versions []string
	for _, v := range u.providers[w.Name] {
		if u.candidate(v.pkg.Name) == v.pkg && !slices.Contains(providers, v.pkg.Name) {
			providers = append(providers, v.pkg.Name)
		}
	}
	for _, p := range u.versions[w.Name] {
		versions = append(versions, fmt.Sprintf("%s (%s)", p.Version, p.Suite))
	}
	slices.Sort(providers)
	switch {
	case len(versions) > 0 && w.Version+w.Suite != "":
		return fmt.Sprintf("%s: there is no such version of %s: the suites have %s", w.At, w.Name, strings.Join(versions, ", "))
	case len(versions) > 0:
		return fmt.Sprintf("%s: the recipe's pins leave no version of %s: the suites have %s", w.At, w.Name, strings.Join(versions, ", "))
	case len(providers) > 0:
		return fmt.Sprintf("%s: %s is a virtual package: write one of %s", w.At, w.Name, strings.Join(providers, ", "))
	}
	if near := u.near(w.Name); near != "" {
		return fmt.Sprintf("%s: no suite has a package %s: did you mean %q?", w.At, w.Name, near)
	}
	return fmt.Sprintf("%s: no suite has a package %s: check its name, or add the suite or component that has it to base.suites", w.At, w.Name)
}

// near returns the package name that differs from a misspelt one in one place only: a letter too many, too few, another,
// or two swapped.
func (u *universe) near(misspelt string) string {
	best := ""
	for name := range u.versions {
		if oneOff(misspelt, name) && (best == "" || name < best) {
			best = name
		}
	}
	return best
}

func oneOff(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) < len(b) {
		return a[i:] == b[i+1:]
	}
	if i == len(a) {
		return false
	}
	swapped := i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
	return swapped || a[i+1:] == b[i+1:]
}

// kernel returns the kernel package of a flavour: what Debian's meta package of that flavour depends on, or the build of
// the version asked for. The meta package itself is no part of the image.
func (u *universe) kernel(k recipe.Kernel) (*deb.Package, string) {
	infix := map[string]string{"standard": "", "cloud": "cloud-", "realtime": "rt-"}[k.Flavour]
	suffix := infix + u.recipe.Architecture
	builds := u.kernels(suffix, infix)
	if k.Version == "" {
		for _, p := range builds {
			if p.Name == u.keepKernel {
				return p, ""
			}
		}
		meta := u.candidate("linux-image-" + suffix)
		if meta == nil {
			return nil, fmt.Sprintf("%s: no suite has linux-image-%s, the %s kernel", k.At, suffix, k.Flavour)
		}
		needs, err := u.dependencies(meta)
		if err == nil && len(needs) > 0 && len(needs[0].solutions) > 0 {
			return needs[0].solutions[0], ""
		}
		return nil, fmt.Sprintf("%s: %s depends on no kernel in the recipe's suites", k.At, name(meta))
	}
	var versions []string
	for _, p := range builds {
		if p.Version.Compare(deb.Version(k.Version)) == 0 {
			return p, ""
		}
		versions = append(versions, string(p.Version))
	}
	return nil, fmt.Sprintf("%s: no suite has a %s kernel of version %s: there are %s", k.At, k.Flavour, k.Version, strings.Join(versions, ", "))
}

// kernels returns the signed kernel builds of a flavour, oldest first.
func (u *universe) kernels(suffix, infix string) []*deb.Package {
	var list []*deb.Package
	for name := range u.versions {
		abi, ok := strings.CutPrefix(name, "linux-image-")
		if !ok || abi == "" || abi[0] < '0' || abi[0] > '9' {
			continue
		}
		abi, ok = strings.CutSuffix(abi, "-"+suffix)
		if !ok || infix == "" && (strings.HasSuffix(abi, "-cloud") || strings.HasSuffix(abi, "-rt")) {
			continue
		}
		if p := u.candidate(name); p != nil {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *deb.Package) int { return cmp.Or(a.Version.Compare(b.Version), cmp.Compare(a.Name, b.Name)) })
	return list
}
