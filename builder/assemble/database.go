package assemble

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/builder/deb"
	"roost/builder/tree"
)

// dpkg's database in the tree while packages are configured; the seal moves it (see databaseHome).
const database = "/var/lib/dpkg"

// text reads a file of d; a missing one is empty.
func (a *assembly) text(d *tree.Draft, name string) ([]byte, error) {
	e, ok := d.Lookup(name)
	if !ok {
		return nil, nil
	}
	if e.Type != tree.File {
		return nil, fmt.Errorf("cannot read %s: it is a %v", name, e.Type)
	}
	return a.Store.ReadFile(e.Blob)
}

// write puts a file of root's with mode into d.
func (a *assembly) write(d *tree.Draft, name string, mode uint32, content []byte) error {
	blob, err := a.Store.PutBytes(content)
	if err != nil {
		return err
	}
	return d.Put(tree.Entry{Path: name, Type: tree.File, Mode: mode, Blob: blob, Size: int64(len(content))})
}

// register writes what dpkg --unpack would have written about layers: status, info files and triggers. dpkg then
// configures them as if it had unpacked them itself.
func (a *assembly) register(d *tree.Draft, layers []*layer, own *ownership) error {
	status, err := a.text(d, database+"/status")
	if err != nil {
		return err
	}
	b := bytes.NewBuffer(slices.Clone(status))
	for _, l := range layers {
		conffiles, err := l.conffiles()
		if err != nil {
			return err
		}
		b.WriteString(statusParagraph(l, conffiles))
		if err := a.registerInfo(d, l, own); err != nil {
			return err
		}
	}
	for l := range own.lost { // of lower groups, too
		if _, ok := d.Lookup(database + "/info/" + l.infoName() + ".list"); !ok {
			continue
		}
		if err := a.write(d, database+"/info/"+l.infoName()+".list", 0o644, []byte(own.list(l))); err != nil {
			return err
		}
	}
	if err := a.write(d, database+"/status", 0o644, b.Bytes()); err != nil {
		return err
	}
	for name, content := range map[string]string{"/available": "", "/info/format": "1\n", "/arch": a.Lock.Architecture + "\n"} {
		if _, ok := d.Lookup(database + name); ok {
			continue
		}
		if err := a.write(d, database+name, 0o644, []byte(content)); err != nil {
			return err
		}
	}
	for _, name := range []string{"/updates", "/triggers", "/alternatives", "/parts"} {
		if _, ok := d.Lookup(database + name); ok {
			continue
		}
		if err := d.Put(tree.Entry{Path: database + name, Type: tree.Directory, Mode: 0o755}); err != nil {
			return err
		}
	}
	return a.registerTriggers(d, layers)
}

// statusParagraph is the package's entry in dpkg's status file in the state "unpacked".
func statusParagraph(l *layer, conffiles string) string {
	p := deb.Paragraph{}
	for _, f := range l.control {
		if f.Name == "Conffiles" || f.Name == "Status" {
			continue
		}
		p = append(p, f)
		if f.Name == "Package" {
			p = append(p, deb.Field{Name: "Status", Value: "install ok unpacked"})
		}
	}
	if conffiles != "" {
		p = append(p, deb.Field{Name: "Conffiles", Value: conffiles})
	}
	return p.String() + "\n"
}

// infoName is the stem of the package's files in info/: multi-arch packages that may be installed twice carry their
// architecture.
func (l *layer) infoName() string {
	if l.control.Get("Multi-Arch") == "same" {
		return l.Name + ":" + l.control.Get("Architecture")
	}
	return l.Name
}

func (a *assembly) registerInfo(d *tree.Draft, l *layer, own *ownership) error {
	stem := database + "/info/" + l.infoName() + "."
	for name, blob := range l.members {
		if name == "control" {
			continue
		}
		content, err := l.member(name)
		if err != nil {
			return err
		}
		mode := uint32(0o644)
		if slices.Contains(l.scripts, name) {
			mode = 0o755
		}
		if err := d.Put(tree.Entry{Path: stem + name, Type: tree.File, Mode: mode, Blob: blob, Size: int64(len(content))}); err != nil {
			return err
		}
	}
	return a.write(d, stem+"list", 0o644, []byte(own.list(l)))
}

// registerTriggers adds the triggers that layers are interested in to dpkg's records, and marks as activated each file
// trigger whose directory a layer writes to (deb-triggers(5)). Packages that are not configured yet ignore it, as they do
// in dpkg.
func (a *assembly) registerTriggers(d *tree.Draft, layers []*layer) error {
	files, err := a.text(d, database+"/triggers/File")
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(files), "\n")
	for _, l := range layers {
		text, err := l.member("triggers")
		if err != nil {
			return err
		}
		for _, t := range interests(text) {
			line := l.infoName() + t.suffix + "\n"
			if strings.HasPrefix(t.name, "/") {
				lines = append(lines, t.name+" "+line)
				continue
			}
			name := database + "/triggers/" + t.name
			have, err := a.text(d, name)
			if err != nil {
				return err
			}
			if err := a.write(d, name, 0o644, append(have, line...)); err != nil {
				return err
			}
		}
	}
	slices.Sort(lines)
	if err := a.write(d, database+"/triggers/File", 0o644, []byte(strings.Join(slices.Compact(lines), ""))); err != nil {
		return err
	}
	return a.activate(d, lines, layers)
}

// interest is one interest directive: trigger name, and what dpkg appends to the package's name in its records.
type interest struct{ name, suffix string }

func interests(text []byte) []interest {
	var all []interest
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) != 2 || !strings.HasPrefix(words[0], "interest") {
			continue
		}
		suffix := ""
		if words[0] == "interest-noawait" {
			suffix = "/noawait"
		}
		all = append(all, interest{words[1], suffix})
	}
	return all
}

// activate writes the list of activated file triggers that dpkg takes up at its next run.
func (a *assembly) activate(d *tree.Draft, fileTriggers []string, layers []*layer) error {
	wanted := map[string]bool{}
	for _, line := range fileTriggers {
		if name, _, ok := strings.Cut(line, " "); ok {
			wanted[name] = true
		}
	}
	hit := map[string]bool{}
	for _, l := range layers {
		for _, e := range l.files.Entries() {
			for at := e.Path; at != "/"; at = path.Dir(at) {
				if wanted[at] {
					hit[at] = true
				}
			}
		}
	}
	var names []string
	for name := range hit {
		names = append(names, name+" -\n")
	}
	slices.Sort(names)
	return a.write(d, database+"/triggers/Unincorp", 0o644, []byte(strings.Join(names, "")))
}
