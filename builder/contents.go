package builder

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"roost/builder/assemble"
	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
	"roost/images/depot"
)

// declared returns the components that the recipe names, with what it says of them: what the daemon in the image needs.
func declared(r *recipe.Recipe, l *lock.Lock) []images.Component {
	var list []images.Component
	for _, c := range r.Components {
		list = append(list, describeLayer(r, l, c.Layer, c.Name, c.Of))
	}
	return list
}

// describeLayer collects what one file of a recipe declares.
func describeLayer(r *recipe.Recipe, l *lock.Lock, layer, name, of string) images.Component {
	c := images.Component{Name: name}
	for p := range l.Packages() {
		if p.Name == of {
			c.Version = string(p.Version)
		}
	}
	for _, p := range r.Programs {
		if r.LayerOf(p.At) != layer {
			continue
		}
		version := programVersion(p, l)
		c.Programs = append(c.Programs, strings.TrimSpace(p.Name+" "+version))
		if p.Name == of {
			c.Version = version
		}
	}
	for _, x := range r.Containers {
		if r.LayerOf(x.At) == layer {
			c.Containers = append(c.Containers, x.Name)
		}
	}
	for _, s := range r.State {
		if r.LayerOf(s.At) == layer {
			c.State = append(c.State, images.StateDir{Path: s.Path, Rollback: s.Rollback})
		}
	}
	for _, p := range r.Ports {
		if r.LayerOf(p.At) == layer {
			c.Ports = append(c.Ports, images.Port{Number: p.Number, Protocol: p.Protocol, Unit: p.Unit, Local: p.Local})
		}
	}
	return c
}

// programVersion is that of the module a program comes from; a program of sources has none.
func programVersion(p recipe.Program, l *lock.Lock) string {
	if len(p.Modules) == 0 {
		return ""
	}
	return strings.TrimPrefix(p.Modules[0].Version, "v")
}

// contentsOf says what the assembled image is made of. Packages belong to the component of the file that asked for them
// first; base and kernel are components of their own.
func contentsOf(r *recipe.Recipe, l *lock.Lock, image assemble.Result) *images.Contents {
	contents := &images.Contents{Schema: 1}
	for _, u := range image.Units {
		if e, _ := image.Tree.Lookup("/etc/systemd/system/" + u); e.Target != "/dev/null" { // masked, though something wants it
			contents.Units = append(contents.Units, u)
		}
	}
	image.Units = contents.Units
	files := map[string][]string{} // by package
	for _, p := range image.Packages {
		files[p.Name] = p.Files
	}
	named := map[string]recipe.Component{}
	for _, c := range r.Components {
		named[c.Layer] = c
	}
	for _, g := range l.Groups {
		name := strings.TrimSuffix(path.Base(g.Name), path.Ext(g.Name))
		if g.Name == lock.GroupBase {
			name = r.Base.Distribution
		}
		c := describeLayer(r, l, g.Name, cmp.Or(named[g.Name].Name, name), named[g.Name].Of)
		c.Packages = len(g.Packages)
		var owned []string
		for _, p := range g.Packages {
			owned = append(owned, files[p.Name]...)
			if g.Name == lock.GroupKernel && p.Name == l.Kernel {
				c.Version = string(p.Version)
			}
		}
		measure(r, image, g.Name, owned, &c)
		contents.Components = append(contents.Components, c)
	}
	for _, layer := range withoutPackages(r, l) {
		c := describeLayer(r, l, layer, cmp.Or(named[layer].Name, strings.TrimSuffix(path.Base(layer), path.Ext(layer))), named[layer].Of)
		measure(r, image, layer, nil, &c)
		contents.Components = append(contents.Components, c)
	}
	contents.Setuid = setuid(image.Tree)
	return contents
}

// withoutPackages returns the files of a recipe that bring programs or are components, and name no package.
func withoutPackages(r *recipe.Recipe, l *lock.Lock) (layers []string) {
	add := func(layer string) {
		grouped := slices.ContainsFunc(l.Groups, func(g lock.Group) bool { return g.Name == layer })
		if !grouped && !slices.Contains(layers, layer) {
			layers = append(layers, layer)
		}
	}
	for _, p := range r.Programs {
		add(r.LayerOf(p.At))
	}
	for _, c := range r.Components {
		add(c.Layer)
	}
	return layers
}

// measure adds up a component's files, those of its packages and those that its recipe file adds, and finds its units among
// them.
func measure(r *recipe.Recipe, image assemble.Result, layer string, owned []string, c *images.Component) {
	for _, p := range r.Programs {
		if r.LayerOf(p.At) == layer && p.Target != "" {
			owned = append(owned, p.Target)
		}
	}
	for _, x := range r.Containers {
		if r.LayerOf(x.At) == layer {
			owned = append(owned, x.File())
		}
	}
	for _, f := range r.Files {
		if r.LayerOf(f.At) == layer {
			owned = append(owned, f.Path)
		}
	}
	for _, u := range r.Units.Define {
		if r.LayerOf(u.At) == layer {
			owned = append(owned, "/usr/lib/systemd/system/"+u.Name)
		}
	}
	units := map[string]bool{}
	for _, file := range owned {
		if e, ok := image.Tree.Lookup(file); ok {
			c.Size += e.Size
		}
		units[path.Base(file)] = strings.Contains(file, "/systemd/system/")
	}
	for _, u := range image.Units {
		template := u
		if at := strings.Index(u, "@"); at >= 0 {
			template = u[:at+1] + path.Ext(u)
		}
		if units[u] || units[template] {
			c.Units = append(c.Units, u)
		}
	}
}

// setuid finds the programs that have more rights than who calls them.
func setuid(t tree.Tree) (list []images.Setuid) {
	for _, e := range t.Entries() {
		capable := slices.ContainsFunc(e.Xattrs, func(x tree.Xattr) bool { return x.Name == "security.capability" })
		if e.Type == tree.File && (e.Mode&0o6000 != 0 || capable) {
			list = append(list, images.Setuid{Path: e.Path, Mode: fmt.Sprintf("%04o", e.Mode), Cap: capable})
		}
	}
	return list
}

// componentsFile is what the running machine needs of the contents.
func componentsFile(r *recipe.Recipe, l *lock.Lock) ([]byte, error) {
	b, err := json.MarshalIndent(declared(r, l), "", "  ")
	return append(b, '\n'), err
}

// ReadContents returns the contents attached to a release; empty where there are none.
func ReadContents(ctx context.Context, r *depot.Release) (*images.Contents, error) {
	papers, err := r.Papers(ctx)
	if err != nil {
		return nil, err
	}
	c := &images.Contents{}
	if text := papers[images.MediaTypeContents]; text != nil {
		if err := json.Unmarshal(text, c); err != nil {
			return nil, fmt.Errorf("cannot read what the release is made of: %w", err)
		}
	}
	return c, nil
}

// WriteContents prints contents for people: a table of components, then what each starts, keeps and opens.
func WriteContents(w io.Writer, c *images.Contents) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "COMPONENT\tVERSION\tPACKAGES\tSIZE\tPROGRAMS AND CONTAINER IMAGES")
	for _, x := range c.Components {
		made := strings.Join(slices.Concat(x.Programs, x.Containers), ", ")
		fmt.Fprintf(t, "%s\t%s\t%d\t%.1f MB\t%s\n", x.Name, cmp.Or(x.Version, "-"), x.Packages, float64(x.Size)/1e6, made)
	}
	fmt.Fprintln(t, "\nSTATE\tCOMPONENT\tIN A ROLLBACK")
	for _, x := range c.Components {
		for _, s := range x.State {
			fmt.Fprintf(t, "%s\t%s\t%s\n", s.Path, x.Name, s.Rollback)
		}
	}
	fmt.Fprintln(t, "\nPORT\tCOMPONENT\tUNIT")
	for _, x := range c.Components {
		for _, p := range x.Ports {
			where := ""
			if p.Local {
				where = " (this machine only)"
			}
			fmt.Fprintf(t, "%d/%s\t%s\t%s%s\n", p.Number, p.Protocol, x.Name, p.Unit, where)
		}
	}
	fmt.Fprintln(t, "\nUNIT ENABLED\tCOMPONENT")
	owner := map[string]string{}
	for _, x := range c.Components {
		for _, u := range x.Units {
			owner[u] = x.Name
		}
	}
	for _, u := range c.Units {
		fmt.Fprintf(t, "%s\t%s\n", u, cmp.Or(owner[u], "-"))
	}
	fmt.Fprintln(t, "\nWITH RIGHTS OF ITS OWN\tMODE")
	for _, s := range c.Setuid {
		mode := s.Mode
		if s.Cap {
			mode += ", capabilities"
		}
		fmt.Fprintf(t, "%s\t%s\n", s.Path, mode)
	}
	return t.Flush()
}
