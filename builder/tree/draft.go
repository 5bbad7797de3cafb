package tree

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Draft is a tree being edited. The zero value is not usable; see [NewDraft] and [Tree.Draft]. It is not safe for
// concurrent use.
type Draft struct {
	entries map[string]Entry
}

// NewDraft starts from nothing but a root directory.
func NewDraft() *Draft {
	return &Draft{entries: map[string]Entry{"/": {Path: "/", Type: Directory, Mode: 0o755}}}
}

// Draft starts an edit of t. t itself does not change.
func (t Tree) Draft() *Draft {
	d := NewDraft()
	for _, e := range t.entries {
		d.entries[e.Path] = e
	}
	return d
}

// Tree ends the edit.
func (d *Draft) Tree() (Tree, error) {
	entries := make([]Entry, 0, len(d.entries))
	for _, e := range d.entries {
		entries = append(entries, e)
	}
	return New(entries)
}

// Lookup returns the entry at p; symlinks on the way are not followed.
func (d *Draft) Lookup(p string) (Entry, bool) {
	e, ok := d.entries[p]
	return e, ok
}

// Resolve follows symlinks as [Tree.Resolve] does.
func (d *Draft) Resolve(p string) (string, bool, error) { return resolve(d.Lookup, p) }

// Put sets the entry at e.Path after following symlinks of its parent directories (so a file of /lib lands in /usr/lib
// where /lib is a link), and makes missing parents as root's 0755 directories. An entry already there is replaced; a
// directory with content is replaced by a directory only.
func (d *Draft) Put(e Entry) error {
	if err := checkPath(e.Path); err != nil {
		return fmt.Errorf("cannot put %q: %w", e.Path, err)
	}
	if e.Path == "/" {
		if e.Type != Directory {
			return errors.New(`cannot put "/": it must be a directory`)
		}
		d.entries["/"] = e
		return nil
	}
	at, err := d.locate(e.Path)
	if err != nil {
		return fmt.Errorf("cannot put %q: %w", e.Path, err)
	}
	if err := d.makeParents(path.Dir(at)); err != nil {
		return fmt.Errorf("cannot put %q: %w", e.Path, err)
	}
	e.Path = at
	if old, ok := d.entries[e.Path]; ok && old.Type == Directory && e.Type != Directory && d.hasChildren(e.Path) {
		return fmt.Errorf("cannot put %q: a %v cannot replace a directory with files in it", e.Path, e.Type)
	}
	d.entries[e.Path] = e
	return nil
}

func (d *Draft) makeParents(dir string) error {
	for at := dir; ; at = path.Dir(at) {
		e, ok := d.entries[at]
		switch {
		case ok && e.Type == Directory:
			return nil
		case ok:
			return fmt.Errorf("%s is a %v", at, e.Type)
		}
		d.entries[at] = Entry{Path: at, Type: Directory, Mode: 0o755}
	}
}

func (d *Draft) hasChildren(dir string) bool {
	prefix := dir + "/"
	for p := range d.entries {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return false
}

// Remove deletes the entry at p with everything below. It reports whether there was one.
func (d *Draft) Remove(p string) bool {
	e, ok := d.entries[p]
	if !ok || p == "/" {
		return false
	}
	delete(d.entries, p)
	if e.Type == Directory {
		d.Empty(p)
	}
	return true
}

// Empty deletes everything below directory dir, not dir itself.
func (d *Draft) Empty(dir string) {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	for p := range d.entries {
		if p != "/" && strings.HasPrefix(p, prefix) {
			delete(d.entries, p)
		}
	}
}

// Move gives the entry at from, with everything below, the path to. What is at to is removed first.
func (d *Draft) Move(from, to string) error {
	if _, ok := d.entries[from]; !ok {
		return fmt.Errorf("cannot move %q: no such entry", from)
	}
	if from == to || strings.HasPrefix(to, from+"/") || strings.HasPrefix(from, to+"/") {
		return fmt.Errorf("cannot move %q to %q: one holds the other", from, to)
	}
	d.Remove(to)
	if err := d.makeParents(path.Dir(to)); err != nil {
		return fmt.Errorf("cannot move %q to %q: %w", from, to, err)
	}
	var moved []Entry
	for p, e := range d.entries {
		if p == from || strings.HasPrefix(p, from+"/") {
			moved = append(moved, e)
		}
	}
	for _, e := range moved {
		delete(d.entries, e.Path)
		e.Path = to + strings.TrimPrefix(e.Path, from)
		d.entries[e.Path] = e
	}
	return nil
}

// Paths returns the paths of all entries, sorted.
func (d *Draft) Paths() []string {
	paths := make([]string, 0, len(d.entries))
	for p := range d.entries {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}
