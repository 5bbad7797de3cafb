package assemble

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/builder/tree"
)

const (
	vendorUnits = "/usr/lib/systemd/system"
	localUnits  = "/etc/systemd/system"
)

// install is what a unit's [Install] section asks for (systemd.unit(5)).
type install struct {
	links           []string // directories below localUnits: "multi-user.target.wants"
	aliases         []string
	also            []string
	defaultInstance string
}

// splitInstance splits "getty@tty1.service" into the name of its file, "getty@.service", and "tty1".
func splitInstance(unit string) (file, instance string) {
	stem, suffix := strings.TrimSuffix(unit, path.Ext(unit)), path.Ext(unit)
	if prefix, instance, ok := strings.Cut(stem, "@"); ok {
		return prefix + "@" + suffix, instance
	}
	return unit, ""
}

// findUnit returns the path of a unit's file. Links are followed, so an alias finds the unit it stands for.
func findUnit(d *tree.Draft, unit string) (string, error) {
	file, _ := splitInstance(unit)
	for _, dir := range []string{localUnits, vendorUnits} {
		at, exists, err := d.Resolve(dir + "/" + file)
		if err != nil {
			return "", err
		}
		if e, _ := d.Lookup(at); exists && e.Type == tree.File {
			return at, nil
		}
	}
	return "", fmt.Errorf("cannot find unit %s in the image", unit)
}

// parseInstall reads the [Install] section of a unit file, with %i, %n and the like left as they are but for the instance.
func parseInstall(text []byte, instance string) install {
	var in install
	section := ""
	joined := strings.ReplaceAll(string(text), "\\\n", " ")
	for line := range strings.Lines(joined) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, ok := strings.Cut(line, "=")
		if section != "[Install]" || !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		value = strings.ReplaceAll(value, "%i", instance)
		words := slices.DeleteFunc(strings.Fields(value), func(w string) bool { return !isUnitName(w) })
		switch strings.TrimSpace(key) {
		case "WantedBy":
			in.links = append(in.links, suffixed(words, ".wants")...)
		case "RequiredBy":
			in.links = append(in.links, suffixed(words, ".requires")...)
		case "UpheldBy":
			in.links = append(in.links, suffixed(words, ".upholds")...)
		case "Alias":
			in.aliases = append(in.aliases, words...)
		case "Also":
			in.also = append(in.also, words...)
		case "DefaultInstance":
			if len(words) == 1 {
				in.defaultInstance = words[0]
			}
		}
	}
	return in
}

// isUnitName refuses what could be no file of its own in a directory of units.
func isUnitName(s string) bool {
	return s != "." && s != ".." && len(s) < 256 && !strings.ContainsAny(s, "/\x00")
}

func suffixed(words []string, suffix string) []string {
	for i := range words {
		words[i] += suffix
	}
	return words
}

// readInstall finds a unit and reads its [Install] section. The unit's name comes back with its default instance.
func (a *assembly) readInstall(d *tree.Draft, unit string) (name, file string, in install, err error) {
	if file, err = findUnit(d, unit); err != nil {
		return "", "", install{}, err
	}
	text, err := a.text(d, file)
	if err != nil {
		return "", "", install{}, err
	}
	template, instance := splitInstance(unit)
	in = parseInstall(text, instance)
	if strings.Contains(template, "@.") && instance == "" && in.defaultInstance != "" {
		unit = strings.Replace(template, "@.", "@"+in.defaultInstance+".", 1)
		in = parseInstall(text, in.defaultInstance)
	}
	return unit, file, in, nil
}

// enable makes the links that "systemctl enable" would make, for unit and those of its Also=.
func (a *assembly) enable(d *tree.Draft, unit string, seen map[string]bool) error {
	if seen[unit] {
		return nil
	}
	seen[unit] = true
	if e, ok := d.Lookup(localUnits + "/" + unit); ok && e.Target == "/dev/null" {
		d.Remove(e.Path)
	}
	name, file, in, err := a.readInstall(d, unit)
	if err != nil {
		return err
	}
	if len(in.links)+len(in.aliases)+len(in.also) == 0 {
		return fmt.Errorf("cannot enable %s: its file has no [Install] section, so other units or nothing start it", unit)
	}
	for _, dir := range in.links {
		if err := putLink(d, path.Join(localUnits, dir, name), file); err != nil {
			return err
		}
	}
	for _, alias := range in.aliases {
		if err := putLink(d, path.Join(localUnits, alias), file); err != nil {
			return err
		}
	}
	for _, other := range in.also {
		if err := a.enable(d, other, seen); err != nil {
			return fmt.Errorf("%s needs %s: %w", unit, other, err)
		}
	}
	return nil
}

func putLink(d *tree.Draft, at, target string) error {
	d.Remove(at)
	return d.Put(tree.Entry{Path: at, Type: tree.Symlink, Mode: 0o777, Target: target})
}

// disable removes the links that enabling unit, and those of its Also=, made.
func (a *assembly) disable(d *tree.Draft, unit string, seen map[string]bool) error {
	if seen[unit] {
		return nil
	}
	seen[unit] = true
	name, file, in, err := a.readInstall(d, unit)
	if err != nil {
		return err
	}
	for _, p := range d.Paths() {
		e, _ := d.Lookup(p)
		if !strings.HasPrefix(p, localUnits+"/") || e.Type != tree.Symlink || e.Target == "/dev/null" {
			continue
		}
		isLink := path.Dir(p) != localUnits && path.Base(p) == name
		isAlias := path.Dir(p) == localUnits && path.Base(e.Target) == path.Base(file) && slices.Contains(in.aliases, path.Base(p))
		if isLink || isAlias {
			d.Remove(p)
		}
	}
	for _, other := range in.also {
		if err := a.disable(d, other, seen); err != nil {
			return err
		}
	}
	return nil
}

// mask makes unit unstartable. It need not exist.
func mask(d *tree.Draft, unit string) error { return putLink(d, localUnits+"/"+unit, "/dev/null") }

// EnabledUnits returns the units that something in the tree's configuration starts, sorted: those linked below a .wants,
// .requires or .upholds directory of /etc/systemd/system.
func EnabledUnits(t tree.Tree) []string {
	var units []string
	for _, e := range t.Under(localUnits) {
		switch path.Ext(path.Dir(e.Path)) {
		case ".wants", ".requires", ".upholds":
			if e.Type == tree.Symlink && e.Target != "/dev/null" {
				units = append(units, path.Base(e.Path))
			}
		}
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// preset is a systemd.preset(5) file that repeats what is enabled and nothing else, so that "systemctl preset-all", which
// systemd runs by itself on a machine without an identity, changes nothing.
func preset(units []string) string {
	var b strings.Builder
	b.WriteString("# What this image enables. Made by the image builder.\n")
	for _, unit := range units {
		if file, instance := splitInstance(unit); instance != "" {
			fmt.Fprintf(&b, "enable %s %s\n", file, instance)
		} else {
			fmt.Fprintf(&b, "enable %s\n", unit)
		}
	}
	b.WriteString("disable *\n")
	return b.String()
}
