package recipe

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	importPattern    = regexp.MustCompile(`^[A-Za-z0-9_~][A-Za-z0-9._~-]*(/[A-Za-z0-9._~-]+)*$`)
	goVersionPattern = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?$`)
	stampPattern     = regexp.MustCompile(`^[A-Za-z0-9._~/-]+\.[A-Za-z_][A-Za-z0-9_]*$`)
	stampValue       = regexp.MustCompile(`^[!-&(-~]+$`) // no space and no quote: it becomes part of one linker flag
	imagePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	fromPattern      = regexp.MustCompile(`^(docker://[a-z0-9][a-z0-9.:-]*/[a-z0-9/._-]+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?|oci(-archive)?:[^:]+(:[A-Za-z0-9._/-]+)?)$`)
	userPattern      = regexp.MustCompile(`^[0-9]{1,9}:[0-9]{1,9}$`)
)

// component reads what the file calls itself: a name, or a name and where its version comes from.
func (d *decoder) component(n *yaml.Node) (list []Component) {
	c := Component{At: d.at(n)}
	name := func(n *yaml.Node) {
		c.Name, _ = d.word(n, "component name", namePattern, "at most 32 of a-z 0-9 -, like \"ceph\"")
	}
	if n.Kind == yaml.ScalarNode {
		name(n)
	} else if seen := d.mapping(n, "component",
		field{"name", name},
		field{"of", func(n *yaml.Node) { c.Of, _ = d.word(n, "package or program", packagePattern, "a name of this file") }},
	); !d.need(n, seen, "component", "name") {
		return nil
	}
	if c.Name == "" {
		return nil
	}
	return []Component{c}
}

func (d *decoder) programs(n *yaml.Node) (list []Program) {
	once := d.once("program")
	d.list(n, "programs", func(n *yaml.Node) {
		p := Program{At: d.at(n)}
		var packageAt *yaml.Node
		seen := d.mapping(n, "program",
			field{"name", func(n *yaml.Node) { p.Name, _ = d.word(n, "program name", namePattern, "at most 32 of a-z 0-9 -") }},
			field{"directory", func(n *yaml.Node) { p.Directory, _ = d.text(n, "directory") }},
			field{"modules", func(n *yaml.Node) { p.Modules = d.modules(n) }},
			field{"package", func(n *yaml.Node) { packageAt = n; p.Package, _ = d.text(n, "package") }},
			field{"commands", func(n *yaml.Node) { p.Commands = d.commands(n) }},
			field{"main", func(n *yaml.Node) { p.Main = d.goText(n) }},
			field{"stamps", func(n *yaml.Node) { p.Stamps = d.stamps(n) }},
			field{"target", func(n *yaml.Node) { p.Target = d.imagePath(n, "target") }},
		)
		if d.need(n, seen, "program", "name") && d.programForm(n, &p, seen, packageAt) && once(n, p.Name) {
			list = append(list, p)
		}
	})
	return list
}

// programForm checks that the fields of a program say one thing.
func (d *decoder) programForm(n *yaml.Node, p *Program, seen map[string]*yaml.Node, packageAt *yaml.Node) bool {
	var said []string
	for _, f := range []string{"package", "commands", "main"} {
		if seen[f] != nil {
			said = append(said, f)
		}
	}
	if len(said) != 1 {
		d.fault(n, fmt.Sprintf("program %s has %d of package, commands, main", p.Name, len(said)), "give exactly one")
		return false
	}
	published := seen["modules"] != nil
	switch {
	case published && seen["directory"] != nil:
		d.fault(seen["directory"], "a program of published modules has no directory", "delete one of the two")
	case seen["commands"] != nil && !published:
		d.fault(seen["commands"], "commands are those of published modules", "add modules: [{path: …, version: …}]")
	case seen["stamps"] != nil && !published:
		d.fault(seen["stamps"], "stamps are for programs of published modules", "delete the line")
	case seen["main"] != nil && seen["directory"] != nil:
		d.fault(seen["directory"], "a program with a text of its own has no directory", "delete one of the two")
	case packageAt != nil && published && !importPattern.MatchString(p.Package):
		d.fault(packageAt, fmt.Sprintf("%q is no import path", p.Package), "write the path of the command, like \"go.example.org/tool/cmd/tool\"")
	case packageAt != nil && !published && !goPackagePattern.MatchString(p.Package):
		d.fault(packageAt, fmt.Sprintf("%q is no valid Go package", p.Package), "write its path in the module, like \"./cmd/agent\"")
	case seen["target"] == nil && !published && seen["main"] == nil:
		return d.need(n, seen, "program", "target")
	default:
		return true
	}
	return false
}

func (d *decoder) modules(n *yaml.Node) (list []Module) {
	once := d.once("module")
	d.list(n, "modules", func(n *yaml.Node) {
		m := Module{At: d.at(n)}
		version := func(to *string) func(n *yaml.Node) {
			return func(n *yaml.Node) {
				*to, _ = d.word(n, "module version", goVersionPattern, "the exact version, like \"v1.37.1\"")
			}
		}
		seen := d.mapping(n, "module",
			field{"path", func(n *yaml.Node) {
				m.Path, _ = d.word(n, "module path", importPattern, "a Go module path, like \"k8s.io/kubernetes\"")
			}},
			field{"version", version(&m.Version)},
			field{"nested", version(&m.Nested)},
		)
		if d.need(n, seen, "module", "path", "version") && once(n, m.Path) {
			list = append(list, m)
		}
	})
	return list
}

// commands reads import paths whose last elements differ: these are the names to call the program by.
func (d *decoder) commands(n *yaml.Node) (list []string) {
	once := d.once("command")
	d.list(n, "commands", func(n *yaml.Node) {
		s, ok := d.word(n, "import path", importPattern, "the path of a command, like \"k8s.io/kubernetes/cmd/kubelet\"")
		if ok && once(n, path.Base(s)) {
			list = append(list, s)
		}
	})
	return list
}

func (d *decoder) goText(n *yaml.Node) string {
	s, ok := d.text(n, "main")
	if ok && !strings.Contains("\n"+s, "\npackage main\n") {
		d.fault(n, "main is no Go command", "write a text that begins with \"package main\"")
	}
	return s
}

func (d *decoder) stamps(n *yaml.Node) (list []Setting) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, "stamps is "+describe(n), "write \"import/path.variable: value\"")
		return nil
	}
	d.pairs(n, "stamps", func(key string, k, v *yaml.Node) {
		if !stampPattern.MatchString(key) {
			d.fault(k, fmt.Sprintf("%q is no variable of a Go package", key), "write \"import/path.variable\"")
			return
		}
		if s, ok := d.word(v, "value of a stamp", stampValue, "one word without quotes"); ok {
			list = append(list, Setting{Key: key, Value: s, At: d.at(k)})
		}
	})
	return list
}

// containers reads the list oci.
func (d *decoder) containers(n *yaml.Node) (list []Container) {
	once := d.once("container image")
	d.list(n, "oci", func(n *yaml.Node) {
		c := Container{At: d.at(n)}
		seen := d.mapping(n, "container image",
			field{"name", func(n *yaml.Node) {
				c.Name, _ = d.word(n, "image name", imagePattern, "host, path and tag, like \"roost.local/pause:1.0\"")
			}},
			field{"program", func(n *yaml.Node) { c.Program, _ = d.word(n, "program name", namePattern, "the name of a program") }},
			field{"arguments", func(n *yaml.Node) {
				d.list(n, "arguments", func(n *yaml.Node) {
					if s, ok := d.text(n, "argument"); ok {
						c.Arguments = append(c.Arguments, s)
					}
				})
			}},
			field{"user", func(n *yaml.Node) { c.User, _ = d.word(n, "user", userPattern, "numbers, like \"65534:65534\"") }},
			field{"from", func(n *yaml.Node) {
				c.From, _ = d.word(n, "place", fromPattern, "\"docker://HOST/NAME:TAG\", \"oci:DIRECTORY:TAG\" or \"oci-archive:FILE:TAG\"")
			}},
			field{"signedBy", func(n *yaml.Node) { c.key, _ = d.text(n, "signedBy") }},
			field{"unsigned", func(n *yaml.Node) { c.unsigned = d.truth(n, "unsigned") }},
		)
		if d.need(n, seen, "container image", "name") && d.containerForm(n, &c, seen) && once(n, c.Name) {
			list = append(list, c)
		}
	})
	return list
}

func (d *decoder) containerForm(n *yaml.Node, c *Container, seen map[string]*yaml.Node) bool {
	if (seen["program"] == nil) == (seen["from"] == nil) {
		d.fault(n, fmt.Sprintf("image %s comes from nowhere, or from two places", c.Name), "give either program or from")
		return false
	}
	for _, only := range []struct{ field, with string }{{"arguments", "program"}, {"user", "program"}, {"signedBy", "from"}, {"unsigned", "from"}} {
		if seen[only.field] != nil && seen[only.with] == nil {
			d.fault(seen[only.field], fmt.Sprintf("%s goes with %s", only.field, only.with), "delete the line")
			return false
		}
	}
	registry := strings.HasPrefix(c.From, "docker:")
	if registry && (c.key != "") == c.unsigned {
		d.fault(n, fmt.Sprintf("image %s comes from a registry, and nothing says whom to trust", c.Name), "write \"signedBy: FILE\" with the public key of who signs it, or \"unsigned: true\"")
		return false
	}
	if !registry && c.key != "" {
		d.fault(seen["signedBy"], "signatures are kept in registries only", "delete the line: the lock pins what the directory or archive holds")
		return false
	}
	return true
}

func (d *decoder) state(n *yaml.Node) (list []State) {
	once := d.once("state")
	d.list(n, "state", func(n *yaml.Node) {
		s := State{Mode: 0o755, Owner: "root", Group: "root", Rollback: RollbackKeep, At: d.at(n)}
		seen := d.mapping(n, "state",
			field{"path", func(n *yaml.Node) { s.Path = d.statePath(n) }},
			field{"mode", func(n *yaml.Node) { s.Mode, _ = d.mode(n) }},
			field{"owner", func(n *yaml.Node) { s.Owner, s.Group = d.owner(n) }},
			field{"seed", func(n *yaml.Node) { s.Seed = d.imagePath(n, "seed") }},
			field{"rollback", func(n *yaml.Node) {
				s.Rollback, _ = d.choice(n, "rollback", RollbackKeep, RollbackRestore, RollbackDrop)
			}},
		)
		if d.need(n, seen, "state", "path") && once(n, s.Path) {
			list = append(list, s)
		}
	})
	return list
}

// statePath reads a path in /var.
func (d *decoder) statePath(n *yaml.Node) string {
	s, ok := d.text(n, "path")
	if !ok {
		return ""
	}
	if path.Clean(s) != s || !strings.HasPrefix(s, "/var/") || strings.ContainsAny(s, " \n\x00") {
		d.fault(n, fmt.Sprintf("%q is no clean path in /var", shorten(s)), "write the directory of the state, like \"/var/lib/etcd\"")
		return ""
	}
	return s
}

func (d *decoder) ports(n *yaml.Node) (list []Port) {
	d.list(n, "ports", func(n *yaml.Node) {
		p := Port{Protocol: "tcp", At: d.at(n)}
		seen := d.mapping(n, "port",
			field{"port", func(n *yaml.Node) { p.Number, _ = d.number(n, "port", 1, 65535) }},
			field{"protocol", func(n *yaml.Node) { p.Protocol, _ = d.choice(n, "protocol", "tcp", "udp") }},
			field{"unit", func(n *yaml.Node) {
				p.Unit, _ = d.word(n, "unit", unitPattern, "a full unit name, like \"ssh.service\"")
			}},
			field{"local", func(n *yaml.Node) { p.Local = d.truth(n, "local") }},
		)
		if d.need(n, seen, "port", "port") && p.Number > 0 {
			list = append(list, p)
		}
	})
	return list
}
