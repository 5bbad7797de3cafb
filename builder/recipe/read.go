package recipe

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"roost/images"
)

// MaxFile is the size limit of one recipe file in bytes.
const MaxFile = 1 << 20

// These patterns state the forms of words; the phrases beside them in the readers say the same to the writer.
var (
	namePattern      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	packagePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian policy 5.6.1
	globPattern      = regexp.MustCompile(`^[a-z0-9*?][a-z0-9+.*?-]*$`)
	versionPattern   = regexp.MustCompile(`^([0-9]+:)?[0-9][A-Za-z0-9.+~:-]*$`) // Debian policy 5.6.12
	versionGlob      = regexp.MustCompile(`^[A-Za-z0-9.+~:*?-]+$`)
	suitePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*$`)
	argumentPattern  = regexp.MustCompile(`^[!-~]+$`)
	unitPattern      = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|mount|automount|target|path|slice|swap|device|scope)$`)
	dropInPattern    = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|mount|automount|target|path|slice|swap|device|scope)\.d/[A-Za-z0-9_.@-]+\.conf$`)
	accountPattern   = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
	sysctlPattern    = regexp.MustCompile(`^[a-z0-9_]+([./][A-Za-z0-9_*-]+)+$`)
	goPackagePattern = regexp.MustCompile(`^\.(/[A-Za-z0-9_.-]+)*$`)
	ownerPattern     = regexp.MustCompile(`^([a-z_][a-z0-9_-]{0,30}|[0-9]{1,9})(:([a-z_][a-z0-9_-]{0,30}|[0-9]{1,9}))?$`)
	modePattern      = regexp.MustCompile(`^0?[0-7]{3,4}$`)
)

const (
	packageForm = `a Debian package name: two or more of a-z 0-9 + - .`
	versionForm = `a Debian version, like "1.2-3" or "1:1.2-3+deb13u1"`
)

// include is one entry of an include list.
type include struct {
	name string
	at   Position
}

// fileSource is a files entry whose content still has to be read.
type fileSource struct {
	File
	source string
	mode   bool // whether the entry states a mode
}

// part is what one file says, before merging. Zero values mean "not said": no field has a legal zero.
type part struct {
	Recipe
	includes []include
	sources  []fileSource
	updateAt Position
}

// read fills p from the top node of a file.
func (d *decoder) read(n *yaml.Node, p *part) {
	d.mapping(n, "recipe",
		field{"include", func(n *yaml.Node) { p.includes = d.includes(n) }},
		field{"name", func(n *yaml.Node) {
			p.Name, _ = d.word(n, "recipe name", namePattern, "at most 32 of a-z 0-9 -, like \"edge\"")
		}},
		field{"version", func(n *yaml.Node) { p.Version = d.releaseVersion(n, "version") }},
		field{"description", func(n *yaml.Node) { p.Description, _ = d.text(n, "description") }},
		field{"architecture", func(n *yaml.Node) { p.Architecture, _ = d.choice(n, "architecture", "amd64", "arm64") }},
		field{"base", func(n *yaml.Node) { d.base(n, &p.Base) }},
		field{"packages", func(n *yaml.Node) { p.Packages = d.packages(n) }},
		field{"pins", func(n *yaml.Node) { p.Pins = d.pins(n) }},
		field{"exclude", func(n *yaml.Node) { p.Exclude = d.exclude(n) }},
		field{"provided", func(n *yaml.Node) { p.Provided = d.provided(n) }},
		field{"kernel", func(n *yaml.Node) { d.kernel(n, &p.Kernel) }},
		field{"remove", func(n *yaml.Node) { p.Remove = d.rules(n, "remove", true) }},
		field{"moves", func(n *yaml.Node) { p.Moves = d.moves(n) }},
		field{"edits", func(n *yaml.Node) { p.Edits = d.edits(n) }},
		field{"files", func(n *yaml.Node) { p.sources = d.files(n) }},
		field{"units", func(n *yaml.Node) { d.units(n, &p.Units) }},
		field{"groups", func(n *yaml.Node) { p.Groups = d.groups(n) }},
		field{"users", func(n *yaml.Node) { p.Users = d.users(n) }},
		field{"sysctl", func(n *yaml.Node) { p.Sysctl = d.sysctl(n) }},
		field{"component", func(n *yaml.Node) { p.Components = d.component(n) }},
		field{"programs", func(n *yaml.Node) { p.Programs = d.programs(n) }},
		field{"oci", func(n *yaml.Node) { p.Containers = d.containers(n) }},
		field{"state", func(n *yaml.Node) { p.State = d.state(n) }},
		field{"ports", func(n *yaml.Node) { p.Ports = d.ports(n) }},
		field{"gates", func(n *yaml.Node) { p.Gates = d.gates(n) }},
		field{"slot", func(n *yaml.Node) { d.slot(n, &p.Slot) }},
		field{"needs", func(n *yaml.Node) {
			d.mapping(n, "needs", field{"memory", func(n *yaml.Node) { p.Needs.Memory, _ = d.size(n, "memory", 256*MiB, 16*TiB) }})
		}},
		field{"update", func(n *yaml.Node) { p.updateAt = d.at(n); d.update(n, &p.Update) }},
	)
}

func (d *decoder) releaseVersion(n *yaml.Node, what string) images.Version {
	s, ok := d.text(n, what)
	if !ok {
		return ""
	}
	v, err := images.ParseVersion(s)
	if err != nil {
		d.fault(n, fmt.Sprintf("%q is no release version", s), "write at most 64 of a-z A-Z 0-9 . - ~ ^, like \"13.7.1\"")
	}
	return v
}

func (d *decoder) includes(n *yaml.Node) (list []include) {
	if n.Kind == yaml.ScalarNode {
		n = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{n}}
	}
	d.list(n, "include", func(n *yaml.Node) {
		if s, ok := d.text(n, "include"); ok {
			list = append(list, include{s, d.at(n)})
		}
	})
	return list
}

func (d *decoder) base(n *yaml.Node, b *Base) {
	d.mapping(n, "base",
		field{"distribution", func(n *yaml.Node) { b.Distribution, _ = d.choice(n, "distribution", "debian") }},
		field{"minimum", func(n *yaml.Node) { b.Minimum, _ = d.choice(n, "minimum", "essential", "required", "none") }},
		field{"suites", func(n *yaml.Node) { b.Suites = d.suites(n) }},
	)
}

func (d *decoder) suites(n *yaml.Node) (list []Suite) {
	once := d.once("suite")
	d.list(n, "suites", func(n *yaml.Node) {
		s := Suite{Priority: 500}
		seen := d.mapping(n, "suite",
			field{"name", func(n *yaml.Node) {
				s.Name, _ = d.word(n, "suite name", suitePattern, "a code name, like \"trixie-updates\"")
			}},
			field{"components", func(n *yaml.Node) {
				d.list(n, "components", func(n *yaml.Node) {
					if c, ok := d.choice(n, "component", "main", "contrib", "non-free", "non-free-firmware"); ok {
						s.Components = append(s.Components, c)
					}
				})
			}},
			field{"archive", func(n *yaml.Node) { s.Archive, _ = d.choice(n, "archive", "debian", "debian-security") }},
			field{"priority", func(n *yaml.Node) { s.Priority, _ = d.number(n, "priority", 1, 999) }},
		)
		if !d.need(n, seen, "suite", "name", "components") || !once(n, s.Name) {
			return
		}
		if s.Archive == "" {
			s.Archive = "debian"
			if strings.HasSuffix(s.Name, "-security") {
				s.Archive = "debian-security"
			}
		}
		list = append(list, s)
	})
	return list
}

// once returns a check that a key was not seen before in this file.
func (d *decoder) once(what string) func(n *yaml.Node, key string) bool {
	lines := map[string]int{}
	return func(n *yaml.Node, key string) bool {
		if key == "" {
			return false // already reported
		}
		if line := lines[key]; line > 0 {
			d.fault(n, fmt.Sprintf("%s %q appears twice, first in line %d", what, key, line), "delete one")
			return false
		}
		lines[key] = n.Line
		return true
	}
}

func (d *decoder) packages(n *yaml.Node) (list []Package) {
	once := d.once("package")
	d.list(n, "packages", func(n *yaml.Node) {
		s, ok := d.text(n, "package")
		if !ok {
			return
		}
		p := Package{At: d.at(n)}
		rest := s
		if strings.ContainsAny(s, " ,|(") {
			d.fault(n, fmt.Sprintf("%q is no valid package", s), "write one package a line; versions as name=version")
			return
		}
		if rest, p.Version, ok = strings.Cut(rest, "="); ok && !versionPattern.MatchString(p.Version) {
			d.fault(n, fmt.Sprintf("%q is no valid version of %s", p.Version, rest), "write "+versionForm)
			return
		}
		if rest, p.Suite, ok = strings.Cut(rest, "/"); ok && (!suitePattern.MatchString(p.Suite) || p.Version != "") {
			d.fault(n, fmt.Sprintf("%q is no valid package", s), "write name=version or name/suite")
			return
		}
		if p.Name, p.architecture, ok = strings.Cut(rest, ":"); ok && p.architecture == "" {
			d.fault(n, fmt.Sprintf("%q is no valid package", s), "write name or name:amd64")
			return
		}
		if !packagePattern.MatchString(p.Name) {
			d.fault(n, fmt.Sprintf("%q is no valid package", s), "write "+packageForm)
			return
		}
		if once(n, p.Name) {
			list = append(list, p)
		}
	})
	return list
}

func (d *decoder) pins(n *yaml.Node) (list []Pin) {
	d.list(n, "pins", func(n *yaml.Node) {
		p := Pin{At: d.at(n)}
		seen := d.mapping(n, "pin",
			field{"package", func(n *yaml.Node) { p.Package, _ = d.word(n, "package pattern", globPattern, packageForm+" * ?") }},
			field{"version", func(n *yaml.Node) {
				p.Version, _ = d.word(n, "version pattern", versionGlob, "a version, with * and ?")
			}},
			field{"suite", func(n *yaml.Node) { p.Suite, _ = d.word(n, "suite name", suitePattern, "a code name") }},
		)
		if !d.need(n, seen, "pin", "package") || p.Package == "" {
			return
		}
		if seen["version"] == nil && seen["suite"] == nil {
			d.fault(n, "the pin narrows nothing", "add \"version: …\" or \"suite: …\"")
			return
		}
		list = append(list, p)
	})
	return list
}

func (d *decoder) exclude(n *yaml.Node) (list []Exclusion) {
	once := d.once("package")
	d.list(n, "exclude", func(n *yaml.Node) {
		if s, ok := d.word(n, "package", packagePattern, packageForm); ok && once(n, s) {
			list = append(list, Exclusion{s, d.at(n)})
		}
	})
	return list
}

var provisionPattern = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?: \(= ([^ )]+)\))?$`)

func (d *decoder) provided(n *yaml.Node) (list []Provision) {
	once := d.once("package")
	d.list(n, "provided", func(n *yaml.Node) {
		s, ok := d.word(n, "provided package", provisionPattern, "a package name, or \"name (= version)\"")
		if !ok {
			return
		}
		m := provisionPattern.FindStringSubmatch(s)
		if m[2] != "" && !versionPattern.MatchString(m[2]) {
			d.fault(n, fmt.Sprintf("%q is no valid version", m[2]), "write "+versionForm)
			return
		}
		if once(n, m[1]) {
			list = append(list, Provision{Name: m[1], Version: m[2], At: d.at(n)})
		}
	})
	return list
}

func (d *decoder) kernel(n *yaml.Node, k *Kernel) {
	k.At = d.at(n)
	d.mapping(n, "kernel",
		field{"flavour", func(n *yaml.Node) { k.Flavour, _ = d.choice(n, "flavour", "standard", "cloud", "realtime") }},
		field{"version", func(n *yaml.Node) {
			k.Version, _ = d.word(n, "kernel version", versionPattern, "the Debian version of the kernel, like \"6.12.117-1\"")
		}},
		field{"arguments", func(n *yaml.Node) { k.Arguments = d.arguments(n) }},
		field{"modules", func(n *yaml.Node) { k.Modules = d.rules(n, "modules", false) }},
		field{"initrdModules", func(n *yaml.Node) { k.InitrdModules = d.rules(n, "initrdModules", false) }},
	)
}

func (d *decoder) arguments(n *yaml.Node) (list []string) {
	d.list(n, "arguments", func(n *yaml.Node) {
		s, ok := d.word(n, "kernel argument", argumentPattern, "one argument without spaces, like \"quiet\" or \"console=ttyS0\"")
		if !ok {
			return
		}
		if name, _, _ := strings.Cut(s, "="); name == "roothash" || name == "initrd" {
			d.fault(n, fmt.Sprintf("%q is set by the build", name), "delete the line")
			return
		}
		list = append(list, s)
	})
	return list
}

// rules reads keep and drop rules. In a list of paths a bare text is dropped.
func (d *decoder) rules(n *yaml.Node, what string, paths bool) (list []Rule) {
	add := func(n *yaml.Node, keep bool) {
		s, ok := d.text(n, "pattern")
		switch {
		case !ok:
		case s == "" || strings.ContainsAny(s, "\n\x00") || strings.Contains("/"+s+"/", "/../") || strings.Contains(s, "//"):
			d.fault(n, fmt.Sprintf("%q is no valid pattern", shorten(s)), "write a path; * and ? match in an element, ** any elements")
		case paths && !strings.HasPrefix(s, "/"):
			d.fault(n, fmt.Sprintf("pattern %q is relative", s), fmt.Sprintf("write %q", "/"+s))
		case !paths && strings.HasPrefix(s, "/"):
			d.fault(n, fmt.Sprintf("pattern %q is absolute", s), "write the path below /usr/lib/modules/RELEASE, like \"kernel/sound/**\"")
		default:
			list = append(list, Rule{Keep: keep, Pattern: strings.TrimSuffix(s, "/")})
		}
	}
	d.list(n, what, func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && paths {
			add(n, false)
			return
		}
		seen := d.mapping(n, "rule of "+what,
			field{"keep", func(n *yaml.Node) { add(n, true) }},
			field{"drop", func(n *yaml.Node) { add(n, false) }},
		)
		if len(seen) > 1 {
			d.fault(n, "one rule both keeps and drops", "write two rules; the last that matches decides")
		}
	})
	return list
}
