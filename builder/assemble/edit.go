package assemble

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
)

// Program is a compiled program to put into the image.
type Program struct {
	Target string   // path in the image
	Path   string   // file on the host
	Mode   uint32   // 0755 when zero
	Links  []string // further paths of it, as symbolic links
}

// edit applies what the recipe says besides packages, in the order in which later parts may refer to earlier ones.
func (a *assembly) edit(t tree.Tree) (tree.Tree, error) {
	r := a.Recipe
	d := t.Remove(func(p string) bool { return !recipe.Decide(r.Remove, p, true) }).Draft()
	if err := a.addAccounts(d); err != nil {
		return tree.Tree{}, err
	}
	for _, m := range r.Moves {
		if err := move(d, m); err != nil {
			return tree.Tree{}, fmt.Errorf("cannot move %s to %s: %w", m.From, m.To, err)
		}
	}
	for _, e := range r.Edits {
		if err := a.editText(d, e); err != nil {
			return tree.Tree{}, fmt.Errorf("cannot edit %s: %w", e.Path, err)
		}
	}
	for _, p := range a.programs {
		if err := a.addProgram(d, p); err != nil {
			return tree.Tree{}, fmt.Errorf("cannot add program %s: %w", p.Target, err)
		}
	}
	for _, u := range r.Units.Define {
		if err := a.write(d, vendorUnits+"/"+u.Name, 0o644, []byte(u.Content)); err != nil {
			return tree.Tree{}, err
		}
	}
	for _, list := range [][]recipe.File{r.Files, a.Files} {
		for _, f := range list {
			if err := a.addFile(d, f); err != nil {
				return tree.Tree{}, fmt.Errorf("cannot add %s: %w", f.Path, err)
			}
		}
	}
	if err := a.addSysusers(d); err != nil {
		return tree.Tree{}, err
	}
	if err := a.addState(d); err != nil {
		return tree.Tree{}, err
	}
	if err := a.setUnits(d); err != nil {
		return tree.Tree{}, err
	}
	if err := a.setSysctl(d); err != nil {
		return tree.Tree{}, err
	}
	if err := a.identify(d); err != nil {
		return tree.Tree{}, err
	}
	return d.Tree()
}

func (a *assembly) addProgram(d *tree.Draft, p Program) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	blob, size, err := a.Store.Put(f)
	if err != nil {
		return err
	}
	if err := d.Put(tree.Entry{Path: p.Target, Type: tree.File, Mode: cmp.Or(p.Mode, 0o755), Blob: blob, Size: size}); err != nil {
		return err
	}
	for _, link := range p.Links {
		target := p.Target
		if path.Dir(link) == path.Dir(target) {
			target = path.Base(target)
		}
		if err := putLink(d, link, target); err != nil {
			return err
		}
	}
	return nil
}

func move(d *tree.Draft, m recipe.Move) error {
	if _, ok := d.Lookup(m.From); !ok {
		return errors.New("no package made it")
	}
	if _, ok := d.Lookup(m.To); ok {
		return errors.New("the image has both")
	}
	return d.Move(m.From, m.To)
}

// editText changes a text of a package. What Python compiled from it goes: it would not be used, and could not be written.
func (a *assembly) editText(d *tree.Draft, change recipe.Edit) error {
	e, ok := d.Lookup(change.Path)
	if !ok || e.Type != tree.File {
		return errors.New("it is no file of the image")
	}
	text, err := a.text(d, change.Path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), change.Old); n != 1 {
		return fmt.Errorf("%q is there %d times, want once; look what the package's version has, and write that", change.Old, n)
	}
	text = []byte(strings.Replace(string(text), change.Old, change.New, 1))
	if e.Blob, err = a.Store.PutBytes(text); err != nil {
		return err
	}
	e.Size = int64(len(text))
	if stem, ok := strings.CutSuffix(path.Base(change.Path), ".py"); ok {
		for _, p := range d.Paths() {
			if path.Dir(p) == path.Dir(change.Path)+"/__pycache__" && strings.HasPrefix(path.Base(p), stem+".") {
				d.Remove(p)
			}
		}
	}
	return d.Put(e)
}

// addState writes the tmpfiles.d(5) lines that make the recipe's directories of state. The name of the file comes before
// those of packages, so that it is the recipe's word that counts.
func (a *assembly) addState(d *tree.Draft) error {
	if len(a.Recipe.State) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("# Directories in which components keep their state. Made by the image builder.\n")
	for _, s := range a.Recipe.State {
		uid, err := a.number(d, "/etc/passwd", s.Owner)
		if err != nil {
			return fmt.Errorf("cannot declare state %s: %w", s.Path, err)
		}
		gid, err := a.number(d, "/etc/group", s.Group)
		if err != nil {
			return fmt.Errorf("cannot declare state %s: %w", s.Path, err)
		}
		if s.Seed != "" {
			if e, ok := d.Lookup(s.Seed); !ok || e.Type != tree.Directory {
				return fmt.Errorf("cannot declare state %s: its seed %s is no directory of the image", s.Path, s.Seed)
			}
			fmt.Fprintf(&b, "C %s - - - - %s\n", tmpfilesPath(s.Path), tmpfilesPath(s.Seed))
			fmt.Fprintf(&b, "z %s %04o %d %d - -\n", tmpfilesPath(s.Path), s.Mode, uid, gid)
			continue
		}
		fmt.Fprintf(&b, "d %s %04o %d %d - -\n", tmpfilesPath(s.Path), s.Mode, uid, gid)
	}
	return a.write(d, "/usr/lib/tmpfiles.d/00-roost-state.conf", 0o644, []byte(b.String()))
}

// notInImage are directories of the machine, not of the image: what a recipe puts there would never be seen.
var notInImage = []string{"/var", "/run", "/tmp", "/dev", "/proc", "/sys", "/boot", "/efi"}

func (a *assembly) addFile(d *tree.Draft, f recipe.File) error {
	for _, dir := range notInImage {
		if f.Path == dir || strings.HasPrefix(f.Path, dir+"/") {
			return fmt.Errorf("%s belongs to the running machine, not to the image; let a tmpfiles.d file make it at boot", dir)
		}
	}
	e := tree.Entry{Path: f.Path, Mode: f.Mode & 0o7777}
	if f.Template {
		e.Path = images.TemplatesPath + f.Path
	}
	var err error
	if e.UID, err = a.number(d, "/etc/passwd", f.Owner); err != nil {
		return err
	}
	if e.GID, err = a.number(d, "/etc/group", f.Group); err != nil {
		return err
	}
	switch {
	case f.Directory:
		e.Type = tree.Directory
	case f.Link != "":
		e.Type, e.Mode, e.Target = tree.Symlink, 0o777, f.Link
	default:
		e.Type = tree.File
		if e.Blob, err = a.Store.PutBytes(f.Content); err != nil {
			return err
		}
		e.Size = int64(len(f.Content))
	}
	return d.Put(e)
}

// number returns the id of a user or group by name or number; "" is root.
func (a *assembly) number(d *tree.Draft, file, name string) (uint32, error) {
	if name == "" || name == "root" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	text, err := a.text(d, file)
	if err != nil {
		return 0, err
	}
	accounts, err := parseAccounts(text)
	if err != nil {
		return 0, err
	}
	for _, x := range accounts {
		if x.name == name {
			return x.id, nil
		}
	}
	return 0, fmt.Errorf("the image has no %s in %s", name, file)
}

func (a *assembly) setUnits(d *tree.Draft) error {
	for _, unit := range a.Recipe.Units.Disable {
		if err := a.disable(d, unit, map[string]bool{}); err != nil {
			return err
		}
	}
	for _, unit := range a.Recipe.Units.Enable {
		if err := a.enable(d, unit, map[string]bool{}); err != nil {
			return err
		}
	}
	for _, unit := range a.Recipe.Units.Mask {
		if err := mask(d, unit); err != nil {
			return err
		}
	}
	return nil
}

func (a *assembly) setSysctl(d *tree.Draft) error {
	if len(a.Recipe.Sysctl) == 0 {
		return nil
	}
	var b strings.Builder
	for _, s := range a.Recipe.Sysctl {
		fmt.Fprintf(&b, "%s = %s\n", s.Key, s.Value)
	}
	return a.write(d, "/usr/lib/sysctl.d/60-roost.conf", 0o644, []byte(b.String()))
}

// identify says in os-release(5) which image this is. Values of the distribution below stay where ours say nothing.
func (a *assembly) identify(d *tree.Draft) error {
	r := a.Recipe
	text, err := a.text(d, "/usr/lib/os-release")
	if err != nil {
		return err
	}
	ours := [][2]string{
		{"ID", "roost"}, {"ID_LIKE", "debian"}, {"NAME", "Roost"}, {"PRETTY_NAME", fmt.Sprintf("Roost %s %s", r.Name, r.Version)},
		{"IMAGE_ID", "roost-" + r.Name}, {"IMAGE_VERSION", string(r.Version)}, {"VERSION_ID", string(r.Version)}, {"VERSION", string(r.Version)},
	}
	var b strings.Builder
	for _, v := range ours {
		fmt.Fprintf(&b, "%s=%s\n", v[0], quote(v[1]))
	}
	for line := range strings.Lines(string(text)) {
		key, _, ok := strings.Cut(line, "=")
		known := key == "DEBIAN_VERSION_FULL" || strings.HasSuffix(key, "_URL") || key == "VERSION_CODENAME" // the release below, without its name
		if ok && known {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	if err := a.write(d, "/usr/lib/os-release", 0o644, []byte(b.String())); err != nil {
		return err
	}
	if err := putLink(d, "/etc/os-release", "../usr/lib/os-release"); err != nil {
		return err
	}
	if err := a.write(d, "/etc/issue", 0o644, []byte(fmt.Sprintf("Roost %s %s \\n \\l\n\n", r.Name, r.Version))); err != nil {
		return err
	}
	return a.write(d, "/etc/issue.net", 0o644, []byte(fmt.Sprintf("Roost %s %s\n", r.Name, r.Version)))
}

// quote writes an os-release value.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == "" {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}
