package recipe

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Shipped is the prefix of names that are looked up among the recipes that come with the roost command.
const Shipped = "roost:"

// Limits of one recipe. They stop a mistake, not a user.
const (
	maxDepth       = 32
	maxFiles       = 256
	maxSource      = 64 << 20 // bytes of one file brought by source
	maxSourceTotal = 256 << 20
	maxSourceCount = 20000
)

// Loader reads recipes.
type Loader struct {
	FS      fs.FS // what recipe names refer to; nil is the host's file system
	Shipped fs.FS // what names after "roost:" refer to; may be nil
}

// Load reads the recipe in the file name and all it includes. What is wrong in them is returned as [Faults].
func (l Loader) Load(name string) (*Recipe, error) {
	if !strings.HasPrefix(name, Shipped) {
		name = path.Clean(filepath.ToSlash(name))
	}
	if data, err := l.read(name); err != nil {
		return nil, fmt.Errorf("cannot read recipe %s: %w", name, plainCause(err))
	} else if data == nil {
		return nil, fmt.Errorf("cannot read recipe %s: it is a directory", name)
	}
	var faults Faults
	w := &walk{loader: l, top: name, faults: &faults, seen: map[string]int{}}
	w.recipe.source = name
	w.file(name, Position{}, nil)
	if len(faults) == 0 {
		w.recipe.finish()
		w.recipe.validate(&decoder{file: name, faults: &faults}, Position{name, 1, 1}, w.updateAt)
	}
	if len(faults) > 0 {
		w.sort(faults)
		return nil, faults
	}
	return &w.recipe, nil
}

// walk is the state of one Load.
type walk struct {
	loader   Loader
	top      string
	faults   *Faults
	seen     map[string]int // file name to order of first reading
	updateAt Position
	recipe   Recipe
	bytes    int64 // brought by source
	count    int
}

// file merges the files that name includes, then name itself. from is the include entry, chain the files above it.
func (w *walk) file(name string, from Position, chain []string) {
	d := &decoder{file: name, faults: w.faults}
	if i := slices.Index(chain, name); i >= 0 {
		d.faultAt(from, "include cycle: "+strings.Join(append(slices.Clone(chain[i:]), name), " → "), "delete one of these includes")
		return
	}
	if _, done := w.seen[name]; done {
		return
	}
	if len(chain) >= maxDepth || len(w.seen) >= maxFiles {
		d.faultAt(from, fmt.Sprintf("more than %d recipe files, or %d inside each other", maxFiles, maxDepth), "include fewer")
		return
	}
	w.seen[name] = len(w.seen)
	data, err := w.loader.read(name)
	if err != nil || data == nil {
		w.missing(d, name, from, err)
		return
	}
	top := d.document(data)
	if top == nil {
		return
	}
	var p part
	d.read(top, &p)
	for _, inc := range p.includes {
		w.file(beside(name, inc.name), inc.at, append(slices.Clip(chain), name))
	}
	for _, s := range p.sources {
		p.Files = append(p.Files, w.source(d, name, s)...)
	}
	for i := range p.Programs {
		w.program(d, name, &p.Programs[i])
	}
	for i := range p.Containers {
		w.container(d, name, &p.Containers[i])
	}
	if p.Update.RollbackFloor != "" {
		w.updateAt = p.updateAt
	}
	w.recipe.merge(&p, w.relative(name))
}

// missing reports an include that cannot be read, and what stands beside it under a similar name.
func (w *walk) missing(d *decoder, name string, from Position, err error) {
	if err == nil {
		d.faultAt(from, fmt.Sprintf("cannot include %s: it is a directory", name), "name a file in it")
		return
	}
	fix := "paths are relative to the file that includes"
	if fsys, file, e := w.loader.locate(name); e == nil {
		entries, _ := fs.ReadDir(fsys, path.Dir(file)) // only for a better message
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		if s := suggest(path.Base(file), names); s != "" {
			fix = fmt.Sprintf("did you mean %q?", s)
		}
	}
	d.faultAt(from, fmt.Sprintf("cannot include %s: %v", name, plainCause(err)), fix)
}

// program makes the directory of p relative to the top recipe.
func (w *walk) program(d *decoder, name string, p *Program) {
	switch {
	case p.Directory == "":
	case strings.HasPrefix(name, Shipped):
		d.faultAt(p.At, "a shipped recipe cannot take a program from a directory", "delete directory")
	case !path.IsAbs(p.Directory):
		p.Directory = w.relative(beside(name, p.Directory))
	}
}

// container makes the place of c relative to the top recipe, and reads the key that must have signed it.
func (w *walk) container(d *decoder, name string, c *Container) {
	if kind, place, ok := strings.Cut(c.From, ":"); ok && kind != "docker" {
		dir, tag, tagged := strings.Cut(place, ":")
		if strings.HasPrefix(name, Shipped) {
			d.faultAt(c.At, "a shipped recipe cannot take an image from a directory", "write docker://HOST/NAME:TAG")
			return
		}
		if !path.IsAbs(dir) {
			dir = w.relative(beside(name, dir))
		}
		c.From = kind + ":" + dir
		if tagged {
			c.From += ":" + tag
		}
	}
	if c.key == "" {
		return
	}
	key, err := w.loader.read(beside(name, c.key))
	if err == nil && key == nil {
		err = errors.New("it is a directory")
	}
	if err != nil {
		d.faultAt(c.At, fmt.Sprintf("cannot read key %s: %v", c.key, plainCause(err)), "paths are relative to the file that names them")
		return
	}
	c.SignedBy = key
}

// relative names a file as seen from the top recipe's directory.
func (w *walk) relative(name string) string { return relativeTo(w.top, name) }

func relativeTo(top, name string) string {
	if strings.HasPrefix(name, Shipped) {
		if top, ok := strings.CutPrefix(top, Shipped); ok {
			if rel, err := filepath.Rel(path.Dir(top), name[len(Shipped):]); err == nil {
				return rel
			}
		}
		return name
	}
	if rel, err := filepath.Rel(path.Dir(top), name); err == nil {
		return rel
	}
	return name
}

// beside resolves a path written in the file name.
func beside(name, written string) string {
	if strings.HasPrefix(written, Shipped) {
		return Shipped + path.Clean(written[len(Shipped):])
	}
	if in, ok := strings.CutPrefix(name, Shipped); ok {
		return Shipped + path.Join(path.Dir(in), written)
	}
	if path.IsAbs(written) {
		return path.Clean(written)
	}
	return path.Join(path.Dir(name), written)
}

// sort puts faults in reading order: by file as first read, then by place.
func (w *walk) sort(faults Faults) {
	slices.SortStableFunc(faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(w.seen[a.At.File], w.seen[b.At.File]), cmp.Compare(a.At.Line, b.At.Line), cmp.Compare(a.At.Column, b.At.Column))
	})
}

// locate finds the file system and the path in it that a name refers to.
func (l Loader) locate(name string) (fs.FS, string, error) {
	if in, ok := strings.CutPrefix(name, Shipped); ok {
		if l.Shipped == nil || !fs.ValidPath(in) {
			return nil, "", fs.ErrNotExist
		}
		return l.Shipped, in, nil
	}
	if l.FS != nil {
		if !fs.ValidPath(name) {
			return nil, "", errors.New("the path leaves the directory")
		}
		return l.FS, name, nil
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, "", err
	}
	return os.DirFS("/"), cmp.Or(strings.TrimPrefix(filepath.ToSlash(abs), "/"), "."), nil
}

// read returns the content of a recipe file; nil without error means it is a directory.
func (l Loader) read(name string) ([]byte, error) {
	fsys, file, err := l.locate(name)
	if err != nil {
		return nil, err
	}
	info, err := fs.Stat(fsys, file)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, nil
	case info.Size() > MaxFile:
		return make([]byte, MaxFile+1), nil // the decoder reports the size
	}
	data, err := fs.ReadFile(fsys, file)
	if data == nil {
		data = []byte{}
	}
	return data, err
}

// plainCause drops the path from a path error: the message around it says it in the user's words.
func plainCause(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
