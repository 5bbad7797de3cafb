package lock

import (
	"cmp"
	"fmt"
	"iter"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"roost/builder/deb"
	"roost/builder/recipe"
	"roost/images"
)

const schema = 1

// Names of the groups that no recipe layer stands for. Base comes first, the kernel second.
const (
	GroupBase   = "base"
	GroupKernel = "kernel"
)

// Lock is what a recipe resolved to. It names packages by content and place in the archive's pool, and no host.
type Lock struct {
	Schema       int           `json:"schema"` // 1
	Recipe       string        `json:"recipe"` // name of the release
	Wants        images.Digest `json:"wants"`  // recipe.WantsDigest of the recipe it answers
	Architecture string        `json:"architecture"`
	Epoch        int64         `json:"epoch"`                // SOURCE_DATE_EPOCH, seconds: the newest date of the suites used
	Kernel       string        `json:"kernel,omitempty"`     // name of the kernel package
	Suites       []Suite       `json:"suites"`               // in the recipe's order
	Groups       []Group       `json:"groups"`               // in the order of installation
	Programs     []Program     `json:"programs"`             // built from published modules or a text of the recipe, by name
	Containers   []Container   `json:"containers,omitempty"` // fetched for the container runtime, by name
}

// Suite is the state of a suite that was used.
type Suite struct {
	Name      string        `json:"name"`
	InRelease images.Digest `json:"inRelease"` // of the signed release file
	Date      time.Time     `json:"date"`
}

// Group is a set of packages that are installed together. What they need lies in the same group or an earlier one.
type Group struct {
	Name     string    `json:"name"`     // "base", "kernel" or the file of a recipe layer
	Packages []Package `json:"packages"` // by name
}

// Package is one exact package.
type Package struct {
	Name         string        `json:"name"`
	Version      deb.Version   `json:"version"`
	Architecture string        `json:"architecture"` // the lock's, or "all"
	Suite        string        `json:"suite"`
	File         string        `json:"file"`      // path below the archive's root
	Size         int64         `json:"size"`      // bytes of the .deb
	Installed    int64         `json:"installed"` // bytes when unpacked, as the archive estimates
	SHA256       images.Digest `json:"sha256"`
}

// Program pins a program that is built, not fetched.
type Program struct {
	Name      string        `json:"name"`
	Wants     images.Digest `json:"wants"`     // of what the recipe says of it
	Toolchain string        `json:"toolchain"` // Go version that builds it, for example go1.26.8
	Go        string        `json:"go"`        // language version of the module that it is built in
	Modules   []Module      `json:"modules"`   // by path and version
}

// Module is one version of a Go module that a program's build looks at.
type Module struct {
	Path     string `json:"path"`
	Version  string `json:"version"`
	Sum      string `json:"sum,omitempty"`      // h1: of its files; empty where only its go.mod is read
	GoMod    string `json:"goMod,omitempty"`    // h1: of its go.mod
	Require  string `json:"require,omitempty"`  // Direct, Indirect, or empty for one that only others mention
	Replaces bool   `json:"replaces,omitempty"` // it stands for every version of its path
}

// How a program's module requires another.
const (
	Direct   = "direct"
	Indirect = "indirect"
)

// Container pins an OCI image that is fetched.
type Container struct {
	Name   string        `json:"name"`
	Digest images.Digest `json:"digest"` // of the manifest for the lock's architecture
	Size   int64         `json:"size"`   // bytes of its blobs
}

// Program returns the pins of a program by its name.
func (l *Lock) Program(name string) (Program, bool) {
	i := slices.IndexFunc(l.Programs, func(p Program) bool { return p.Name == name })
	if i < 0 {
		return Program{}, false
	}
	return l.Programs[i], true
}

// Container returns the pin of an image by its name.
func (l *Lock) Container(name string) (Container, bool) {
	i := slices.IndexFunc(l.Containers, func(c Container) bool { return c.Name == name })
	if i < 0 {
		return Container{}, false
	}
	return l.Containers[i], true
}

// Packages yields all packages in the order of installation.
func (l *Lock) Packages() iter.Seq[Package] {
	return func(yield func(Package) bool) {
		for _, g := range l.Groups {
			for _, p := range g.Packages {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// Digest names the lock by the bytes of its file.
func (l *Lock) Digest() images.Digest { return images.DigestOf(l.Encode()) }

// SourceDate is the moment that files of a build are dated to.
func (l *Lock) SourceDate() time.Time { return time.Unix(l.Epoch, 0).UTC() }

// Stale reports that the lock does not answer the recipe, and what to run.
func Stale(r *recipe.Recipe, l *Lock) error {
	switch {
	case l.Recipe != r.Name:
		return fmt.Errorf("the lock is for recipe %s, not %s: run \"roost lock %s\"", l.Recipe, r.Name, r.Source())
	case l.Wants != r.WantsDigest():
		return fmt.Errorf("the lock is older than the recipe: suites, packages, pins, kernel, modules or images have changed: run \"roost lock %s\"", r.Source())
	}
	return nil
}

// validate checks what later stages rely on: they build paths from these fields and fetch by them.
func (l *Lock) validate() error {
	switch {
	case l.Schema != schema:
		return fmt.Errorf("schema is %d, this program reads %d", l.Schema, schema)
	case l.Recipe == "":
		return fmt.Errorf("recipe has no name")
	case l.Architecture != "amd64" && l.Architecture != "arm64":
		return fmt.Errorf("architecture %q is not known", l.Architecture)
	case l.Epoch <= 0:
		return fmt.Errorf("epoch is %d", l.Epoch)
	}
	if _, err := images.ParseDigest(string(l.Wants)); err != nil {
		return fmt.Errorf("wants: %w", err)
	}
	suites := map[string]bool{}
	for _, s := range l.Suites {
		if _, err := images.ParseDigest(string(s.InRelease)); err != nil || s.Name == "" || suites[s.Name] || s.Date.Unix() > l.Epoch {
			return fmt.Errorf("suite %q: its name, date or digest is wrong", s.Name)
		}
		suites[s.Name] = true
	}
	if err := l.validateGroups(suites); err != nil {
		return err
	}
	return l.validatePins()
}

// These hold what go.mod and go.sum are written from.
var (
	modulePath    = regexp.MustCompile(`^[A-Za-z0-9_~][A-Za-z0-9._~-]*(/[A-Za-z0-9._~-]+)*$`)
	moduleVersion = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?$`)
	moduleSum     = regexp.MustCompile(`^(h1:[A-Za-z0-9+/]{43}=)?$`)
	toolchain     = regexp.MustCompile(`^go1\.[0-9]+(\.[0-9]+|rc[0-9]+)?$`)
	goVersion     = regexp.MustCompile(`^1\.[0-9]+(\.[0-9]+)?$`)
)

func (l *Lock) validatePins() error {
	for i, p := range l.Programs {
		if _, err := images.ParseDigest(string(p.Wants)); err != nil || p.Name == "" || i > 0 && l.Programs[i-1].Name >= p.Name {
			return fmt.Errorf("program %q: its name, order or digest is wrong", p.Name)
		}
		if !toolchain.MatchString(p.Toolchain) || !goVersion.MatchString(p.Go) {
			return fmt.Errorf("program %s: toolchain %q or language version %q is wrong", p.Name, p.Toolchain, p.Go)
		}
		for _, m := range p.Modules {
			if !modulePath.MatchString(m.Path) || !moduleVersion.MatchString(m.Version) || !moduleSum.MatchString(m.Sum) || !moduleSum.MatchString(m.GoMod) ||
				m.Require != "" && m.Require != Direct && m.Require != Indirect {
				return fmt.Errorf("program %s: module %q: its path, version or sum is wrong", p.Name, m.Path)
			}
		}
		if !slices.IsSortedFunc(p.Modules, CompareModules) {
			return fmt.Errorf("program %s: its modules are not sorted", p.Name)
		}
	}
	for i, c := range l.Containers {
		if _, err := images.ParseDigest(string(c.Digest)); err != nil || c.Name == "" || c.Size <= 0 || i > 0 && l.Containers[i-1].Name >= c.Name {
			return fmt.Errorf("container image %q: its name, order, digest or size is wrong", c.Name)
		}
	}
	return nil
}

// CompareModules orders modules as a lock has them.
func CompareModules(a, b Module) int {
	return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Version, b.Version))
}

func (l *Lock) validateGroups(suites map[string]bool) error {
	groups, packages := map[string]bool{}, map[string]bool{}
	for _, g := range l.Groups {
		if g.Name == "" || groups[g.Name] || len(g.Packages) == 0 {
			return fmt.Errorf("group %q is empty, unnamed or there twice", g.Name)
		}
		groups[g.Name] = true
		if !slices.IsSortedFunc(g.Packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) }) {
			return fmt.Errorf("group %s is not sorted", g.Name)
		}
		for _, p := range g.Packages {
			if err := p.validate(l.Architecture, suites); err != nil {
				return fmt.Errorf("package %q: %w", p.Name, err)
			}
			if packages[p.Name] {
				return fmt.Errorf("package %q is there twice", p.Name)
			}
			packages[p.Name] = true
		}
	}
	if l.Kernel != "" && !packages[l.Kernel] {
		return fmt.Errorf("kernel %q is not among the packages", l.Kernel)
	}
	return nil
}

func (p *Package) validate(architecture string, suites map[string]bool) error {
	if _, err := deb.ParseVersion(string(p.Version)); err != nil {
		return err
	}
	if _, err := images.ParseDigest(string(p.SHA256)); err != nil {
		return err
	}
	switch {
	case p.Name == "" || path.Base(p.Name) != p.Name || p.Name[0] == '.':
		return fmt.Errorf("the name is wrong")
	case p.Architecture != architecture && p.Architecture != "all":
		return fmt.Errorf("it is for %q in a lock for %s", p.Architecture, architecture)
	case !suites[p.Suite]:
		return fmt.Errorf("suite %q is not in the lock", p.Suite)
	case p.Size <= 0 || p.Installed < 0:
		return fmt.Errorf("its size is wrong")
	case path.Clean("/"+p.File) != "/"+p.File || !strings.HasPrefix(p.File, "pool/") || !strings.HasSuffix(p.File, ".deb"):
		return fmt.Errorf("file %q is no path in the pool", p.File)
	}
	return nil
}
