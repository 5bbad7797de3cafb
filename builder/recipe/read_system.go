package recipe

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"roost/images"
)

func (d *decoder) files(n *yaml.Node) (list []fileSource) {
	once := d.once("file")
	d.list(n, "files", func(n *yaml.Node) {
		f := fileSource{File: File{Owner: "root", Group: "root", At: d.at(n)}}
		seen := d.mapping(n, "file",
			field{"path", func(n *yaml.Node) { f.Path = d.imagePath(n, "path") }},
			field{"mode", func(n *yaml.Node) { f.Mode, f.mode = d.mode(n) }},
			field{"owner", func(n *yaml.Node) { f.Owner, f.Group = d.owner(n) }},
			field{"content", func(n *yaml.Node) { s, _ := d.text(n, "content"); f.Content = []byte(s) }},
			field{"template", func(n *yaml.Node) { f.Content, f.Template = d.template(n), true }},
			field{"source", func(n *yaml.Node) { f.source, _ = d.text(n, "source") }},
			field{"link", func(n *yaml.Node) { f.Link = d.link(n) }},
			field{"directory", func(n *yaml.Node) {
				if f.Directory = d.truth(n, "directory"); !f.Directory {
					d.fault(n, "directory is false", "delete the line")
				}
			}},
		)
		if !d.need(n, seen, "file", "path") || !once(n, f.Path) {
			return
		}
		var kinds []string
		for _, kind := range []string{"content", "template", "source", "link", "directory"} {
			if seen[kind] != nil {
				kinds = append(kinds, kind)
			}
		}
		if len(kinds) != 1 {
			d.fault(n, fmt.Sprintf("file %s has %d of content, template, source, link, directory", f.Path, len(kinds)), "give exactly one")
			return
		}
		if f.Template && !strings.HasPrefix(f.Path, "/etc/") {
			d.fault(n, fmt.Sprintf("template %s is outside /etc, which alone can be written", f.Path), "write a path in /etc")
			return
		}
		if seen["link"] != nil && seen["mode"] != nil {
			d.fault(seen["mode"], "a symbolic link has no mode", "delete the line")
			return
		}
		if !f.mode && f.Link == "" {
			f.Mode = defaultMode(f.Directory)
		}
		list = append(list, f)
	})
	return list
}

// template reads a text with site values in it.
func (d *decoder) template(n *yaml.Node) []byte {
	s, ok := d.text(n, "template")
	if !ok {
		return nil
	}
	if _, err := images.ParseTemplate(s); err != nil {
		d.fault(n, err.Error(), "write {{name}} with one of "+strings.Join(images.TemplateNames(), ", "))
	}
	return []byte(s)
}

func defaultMode(directory bool) uint32 {
	if directory {
		return 0o755
	}
	return 0o644
}

func (d *decoder) moves(n *yaml.Node) (list []Move) {
	once := d.once("move")
	d.list(n, "moves", func(n *yaml.Node) {
		m := Move{At: d.at(n)}
		seen := d.mapping(n, "move",
			field{"from", func(n *yaml.Node) {
				var ok bool
				if m.From, ok = d.text(n, "from"); ok && (path.Clean("/"+m.From) != m.From || m.From == "/") {
					d.fault(n, fmt.Sprintf("%q is no clean absolute path", shorten(m.From)), "write the path that a package makes, like \"/var/lib/x/static\"")
					m.From = ""
				}
			}},
			field{"to", func(n *yaml.Node) { m.To = d.imagePath(n, "to") }},
		)
		if d.need(n, seen, "move", "from", "to") && once(n, m.From) {
			list = append(list, m)
		}
	})
	return list
}

func (d *decoder) edits(n *yaml.Node) (list []Edit) {
	d.list(n, "edits", func(n *yaml.Node) {
		e := Edit{At: d.at(n)}
		seen := d.mapping(n, "edit",
			field{"path", func(n *yaml.Node) { e.Path = d.imagePath(n, "path") }},
			field{"old", func(n *yaml.Node) { e.Old, _ = d.text(n, "old") }},
			field{"new", func(n *yaml.Node) { e.New, _ = d.text(n, "new") }},
		)
		if !d.need(n, seen, "edit", "path", "old", "new") {
			return
		}
		if e.Old == "" || e.Old == e.New {
			d.fault(n, "the edit of "+e.Path+" changes nothing", "write the text that is there as old, and what it becomes as new")
			return
		}
		list = append(list, e)
	})
	return list
}

// imagePath reads an absolute path that the image can hold.
func (d *decoder) imagePath(n *yaml.Node, what string) string {
	s, ok := d.text(n, what)
	if !ok {
		return ""
	}
	clean := path.Clean("/" + s)
	if s != clean || clean == "/" || strings.ContainsAny(s, "\n\x00") {
		d.fault(n, fmt.Sprintf("%q is no clean absolute path", shorten(s)), fmt.Sprintf("write %q", shorten(clean)))
		return ""
	}
	top, _, _ := strings.Cut(clean[1:], "/")
	switch top {
	case "bin", "sbin", "lib", "lib64", "lib32":
		d.fault(n, fmt.Sprintf("/%s is a link to /usr/%s", top, top), fmt.Sprintf("write %q", "/usr"+clean))
		return ""
	case "dev", "proc", "sys", "run", "tmp":
		d.fault(n, fmt.Sprintf("/%s is mounted over when the image runs", top), "write a path in /usr or /etc")
		return ""
	case "var":
		d.fault(n, "/var is the machine's state and no part of the image", "add a file in /usr/lib/tmpfiles.d that creates it on boot")
		return ""
	}
	return clean
}

func (d *decoder) mode(n *yaml.Node) (uint32, bool) {
	s, ok := d.word(n, "mode", modePattern, "octal digits, like 0644")
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 8, 32)
	return uint32(v), err == nil
}

func (d *decoder) owner(n *yaml.Node) (owner, group string) {
	s, ok := d.word(n, "owner", ownerPattern, "user or user:group, by name or number")
	if !ok {
		return "root", "root"
	}
	owner, group, ok = strings.Cut(s, ":")
	if !ok {
		group = owner
	}
	return owner, group
}

func (d *decoder) link(n *yaml.Node) string {
	s, ok := d.text(n, "link")
	if ok && (s == "" || strings.ContainsAny(s, "\n\x00") || len(s) > 4095) {
		d.fault(n, fmt.Sprintf("%q is no link target", shorten(s)), "write a path")
	}
	return s
}

func (d *decoder) units(n *yaml.Node, u *Units) {
	once := d.once("unit")
	names := func(what string) func(n *yaml.Node) []string {
		return func(n *yaml.Node) (list []string) {
			d.list(n, what, func(n *yaml.Node) {
				s, ok := d.word(n, "unit", unitPattern, "a full unit name, like \"ssh.service\"")
				if ok && once(n, s) {
					list = append(list, s)
				}
			})
			return list
		}
	}
	d.mapping(n, "units",
		field{"enable", func(n *yaml.Node) { u.Enable = names("enable")(n) }},
		field{"disable", func(n *yaml.Node) { u.Disable = names("disable")(n) }},
		field{"mask", func(n *yaml.Node) { u.Mask = names("mask")(n) }},
		field{"define", func(n *yaml.Node) { u.Define = d.define(n) }},
	)
}

func (d *decoder) define(n *yaml.Node) (list []UnitFile) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, "define is "+describe(n), "write \"name.service: |\" and the unit's text below")
		return nil
	}
	d.pairs(n, "define", func(key string, k, v *yaml.Node) {
		if !unitPattern.MatchString(key) && !dropInPattern.MatchString(key) {
			d.fault(k, fmt.Sprintf("%q is no unit file name", key), "write \"name.service\" or \"name.service.d/50-why.conf\"")
			return
		}
		s, ok := d.text(v, "unit "+key)
		if ok && !strings.Contains(s, "[") {
			d.fault(v, fmt.Sprintf("unit %s has no section", key), "write a unit file, like \"[Service]\"")
			return
		}
		if ok {
			list = append(list, UnitFile{Name: key, Content: s, At: d.at(k)})
		}
	})
	return list
}

const accountForm = "at most 31 of a-z 0-9 _ -, beginning with a letter"

func (d *decoder) groups(n *yaml.Node) (list []Group) {
	once := d.once("group")
	d.list(n, "groups", func(n *yaml.Node) {
		g := Group{At: d.at(n)}
		seen := d.mapping(n, "group",
			field{"name", func(n *yaml.Node) { g.Name, _ = d.word(n, "group name", accountPattern, accountForm) }},
			field{"gid", func(n *yaml.Node) { g.GID, _ = d.number(n, "gid", 1, 60000) }},
		)
		if d.need(n, seen, "group", "name", "gid") && once(n, g.Name) {
			list = append(list, g)
		}
	})
	return list
}

func (d *decoder) users(n *yaml.Node) (list []User) {
	once := d.once("user")
	d.list(n, "users", func(n *yaml.Node) {
		u := User{Home: "/nonexistent", Shell: "/usr/sbin/nologin", At: d.at(n)}
		seen := d.mapping(n, "user",
			field{"name", func(n *yaml.Node) { u.Name, _ = d.word(n, "user name", accountPattern, accountForm) }},
			field{"uid", func(n *yaml.Node) { u.UID, _ = d.number(n, "uid", 1, 60000) }},
			field{"group", func(n *yaml.Node) { u.Group, _ = d.word(n, "group name", accountPattern, accountForm) }},
			field{"groups", func(n *yaml.Node) {
				d.list(n, "groups", func(n *yaml.Node) {
					if g, ok := d.word(n, "group name", accountPattern, accountForm); ok {
						u.Groups = append(u.Groups, g)
					}
				})
			}},
			field{"home", func(n *yaml.Node) { u.Home = d.account(n, "home") }},
			field{"shell", func(n *yaml.Node) { u.Shell = d.account(n, "shell") }},
			field{"comment", func(n *yaml.Node) { u.Comment = d.account(n, "comment") }},
		)
		if !d.need(n, seen, "user", "name") || !once(n, u.Name) {
			return
		}
		if u.Group == "" {
			u.Group = u.Name
		}
		list = append(list, u)
	})
	return list
}

// account reads one field of passwd(5): no colon, no new line; paths absolute.
func (d *decoder) account(n *yaml.Node, what string) string {
	s, ok := d.text(n, what)
	if ok && (strings.ContainsAny(s, ":\n\x00") || what != "comment" && path.Clean("/"+s) != s) {
		d.fault(n, fmt.Sprintf("%q is no valid %s", shorten(s), what), "write an absolute path without colon")
		return ""
	}
	return s
}

func (d *decoder) sysctl(n *yaml.Node) (list []Setting) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, "sysctl is "+describe(n), "write \"net.ipv4.ip_forward: 1\"")
		return nil
	}
	d.pairs(n, "sysctl", func(key string, k, v *yaml.Node) {
		if !sysctlPattern.MatchString(key) {
			d.fault(k, fmt.Sprintf("%q is no sysctl", key), "write its dotted name, like \"net.ipv4.ip_forward\"")
			return
		}
		s, ok := d.text(v, key)
		if ok && (s == "" || strings.Contains(s, "\n")) {
			d.fault(v, fmt.Sprintf("%q is no value of %s", s, key), "write one line")
			return
		}
		if ok {
			list = append(list, Setting{Key: key, Value: s, At: d.at(k)})
		}
	})
	return list
}

func (d *decoder) gates(n *yaml.Node) (list []images.Gate) {
	once := d.once("gate")
	d.list(n, "gates", func(n *yaml.Node) {
		var g images.Gate
		seen := d.mapping(n, "gate",
			field{"name", func(n *yaml.Node) { g.Name, _ = d.word(n, "gate name", namePattern, "at most 32 of a-z 0-9 -") }},
			field{"kind", func(n *yaml.Node) {
				g.Kind, _ = d.choice(n, "kind", "unit", "units", "controller", "component", "program")
			}},
			field{"unit", func(n *yaml.Node) {
				g.Unit, _ = d.word(n, "unit", unitPattern, "a full unit name, like \"ssh.service\"")
			}},
			field{"exec", func(n *yaml.Node) {
				d.list(n, "exec", func(n *yaml.Node) {
					if s, ok := d.text(n, "exec"); ok {
						g.Exec = append(g.Exec, s)
					}
				})
			}},
		)
		if !d.need(n, seen, "gate", "name", "kind") || g.Kind == "" || !once(n, g.Name) {
			return
		}
		for _, only := range []struct{ field, kind string }{{"unit", "unit"}, {"exec", "program"}} {
			if g.Kind == only.kind && !d.need(n, seen, "gate of kind "+g.Kind, only.field) {
				return
			}
			if g.Kind != only.kind && seen[only.field] != nil {
				d.fault(seen[only.field], fmt.Sprintf("a gate of kind %s has no %s", g.Kind, only.field), "delete it, or write kind "+only.kind)
				return
			}
		}
		if g.Kind == "program" && (len(g.Exec) == 0 || !strings.HasPrefix(g.Exec[0], "/")) {
			d.fault(n, "the program of gate "+g.Name+" has no absolute path", "write exec: [/usr/bin/…]")
			return
		}
		list = append(list, g)
	})
	return list
}

func (d *decoder) slot(n *yaml.Node, s *Slot) {
	d.mapping(n, "slot",
		field{"root", func(n *yaml.Node) { s.Root, _ = d.size(n, "root", 64*MiB, TiB) }},
		field{"verity", func(n *yaml.Node) { s.Verity, _ = d.size(n, "verity", MiB, 16*GiB) }},
		field{"state", func(n *yaml.Node) { s.State, _ = d.size(n, "state", 128*MiB, 1024*TiB) }},
	)
}

func (d *decoder) update(n *yaml.Node, u *Update) {
	d.mapping(n, "update",
		field{"tries", func(n *yaml.Node) { u.Tries, _ = d.number(n, "tries", 1, 9) }},
		field{"gateSeconds", func(n *yaml.Node) { u.GateSeconds, _ = d.number(n, "gateSeconds", 10, 86400) }},
		field{"rollbackFloor", func(n *yaml.Node) { u.RollbackFloor = d.releaseVersion(n, "rollbackFloor") }},
	)
}
