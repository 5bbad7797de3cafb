package tree

import (
	"fmt"
	"path"
	"slices"
)

// Conflict is a path that two trees hold differently where [Tree.Overlay] had to choose.
type Conflict struct {
	Path         string
	Lower, Upper Entry
}

func (c Conflict) String() string {
	if c.Lower.Type != c.Upper.Type {
		return fmt.Sprintf("%s is a %v below and a %v above", c.Path, c.Lower.Type, c.Upper.Type)
	}
	return fmt.Sprintf("%s differs between two %v entries", c.Path, c.Lower.Type)
}

// Overlay returns t with the entries of upper on top, and where upper replaced something unlike it. Two directories are
// no conflict: the lower one's owner and mode stay, as dpkg does it, for packages list shared directories carelessly. A
// directory of upper over a symlink to a directory goes through the symlink (merged /usr). A path that upper has as a
// file and t as a directory with content is an error.
func (t Tree) Overlay(upper Tree) (Tree, []Conflict, error) {
	d := t.Draft()
	conflicts, err := d.Overlay(upper)
	if err != nil {
		return Tree{}, nil, err
	}
	merged, err := d.Tree()
	return merged, conflicts, err
}

// Overlay puts the entries of upper on the draft; see [Tree.Overlay].
func (d *Draft) Overlay(upper Tree) ([]Conflict, error) {
	var conflicts []Conflict
	for _, e := range upper.entries {
		at, err := d.locate(e.Path)
		if err != nil {
			return nil, err
		}
		lower, ok := d.Lookup(at)
		if ok && e.Type == Directory && d.isDirectory(at) {
			continue
		}
		if ok && !lower.equalBut(e) {
			conflicts = append(conflicts, Conflict{Path: at, Lower: lower, Upper: e})
		}
		if err := d.Put(e); err != nil {
			return nil, err
		}
	}
	return conflicts, nil
}

// locate follows symlinks of the directories that lead to p, not one at p itself.
func (d *Draft) locate(p string) (string, error) {
	if p == "/" {
		return p, nil
	}
	dir, _, err := d.Resolve(path.Dir(p))
	return path.Join(dir, path.Base(p)), err
}

// isDirectory tells whether p is a directory or a symlink that leads to one.
func (d *Draft) isDirectory(p string) bool {
	at, exists, err := d.Resolve(p)
	e, _ := d.Lookup(at)
	return err == nil && exists && e.Type == Directory
}

// Changes compares t with its successor: what was added or changed, and the paths that are gone, sorted.
func (t Tree) Changes(next Tree) (changed []Entry, removed []string) {
	for _, e := range next.entries {
		if old, ok := t.Lookup(e.Path); !ok || !old.equalBut(e) {
			changed = append(changed, e)
		}
	}
	for _, e := range t.entries {
		if _, ok := next.Lookup(e.Path); !ok {
			removed = append(removed, e.Path)
		}
	}
	slices.Sort(removed)
	return changed, removed
}

// Remove returns t without the entries that drop picks by path. Directories on the way to an entry that stays also stay,
// and so does the root. The language of such rules is builder/recipe's.
func (t Tree) Remove(drop func(path string) bool) Tree {
	kept := make([]Entry, 0, len(t.entries))
	needed := map[string]bool{}
	for _, e := range slices.Backward(t.entries) { // children come before their parents this way
		if e.Path != "/" && !needed[e.Path] && drop(e.Path) {
			continue
		}
		kept = append(kept, e)
		needed[path.Dir(e.Path)] = true
	}
	slices.Reverse(kept)
	return Tree{entries: kept}
}
