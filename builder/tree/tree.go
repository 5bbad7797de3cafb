// Package tree is a root file system as a value.
//
// A [Tree] is a sorted list of entries; file contents are named by digest and live in a [Store]. Trees are merged, pruned
// by rules, compared and cached like any other value, and nothing needs root or a mount until an image is written. A
// [Draft] is the editable form.
//
// A tree promises: one canonical encoding, so [Tree.Digest] names a tree; every parent of an entry is present and a
// directory; and no times. An image has one time for all its files (SOURCE_DATE_EPOCH), which is given to whoever
// writes it, so a time can never be the reason why two trees differ. Hard links are not kept either: linked files are
// entries with one digest, and a writer may store them once.
//
// Rejected: a directory on disk as the working form (needs root for owners and capabilities, leaks host state, cannot be
// compared without reading everything) and tar streams (order and duplicates carry meaning, so no canonical form).
package tree

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"roost/images"
)

// Type is what kind of file an entry is. The values are part of the encoding.
type Type uint8

// The types of files a tree can hold. Sockets cannot be stored in one.
const (
	File Type = iota + 1
	Directory
	Symlink
	CharDevice
	BlockDevice
	FIFO
)

var typeNames = [...]string{File: "file", Directory: "directory", Symlink: "symlink", CharDevice: "character device", BlockDevice: "block device", FIFO: "fifo"}

func (t Type) String() string {
	if int(t) < len(typeNames) && t != 0 {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Entry is one file. Fields that do not belong to its type are zero.
type Entry struct {
	Path   string        // absolute and clean; the root is "/"
	Type   Type          //
	Mode   uint32        // permission bits with setuid, setgid and sticky: 07777; always 0777 for symlinks
	UID    uint32        //
	GID    uint32        //
	Target string        // of a symlink, as stored
	Major  uint32        // of a device
	Minor  uint32        // of a device
	Xattrs []Xattr       // sorted by name, security.capability among them
	Blob   images.Digest // content of a file
	Size   int64         // bytes of a file
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string // with its namespace, as in "security.capability"
	Value []byte
}

// Equal reports whether e and f are the same file at the same path.
func (e Entry) Equal(f Entry) bool { return e.Path == f.Path && e.equalBut(f) }

// equalBut compares everything but the path.
func (e Entry) equalBut(f Entry) bool {
	return e.Type == f.Type && e.Mode == f.Mode && e.UID == f.UID && e.GID == f.GID && e.Target == f.Target &&
		e.Major == f.Major && e.Minor == f.Minor && e.Blob == f.Blob && e.Size == f.Size &&
		slices.EqualFunc(e.Xattrs, f.Xattrs, func(x, y Xattr) bool { return x.Name == y.Name && string(x.Value) == string(y.Value) })
}

// check tells what is wrong with e by itself.
func (e Entry) check() error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	if e.Mode&^0o7777 != 0 {
		return fmt.Errorf("mode %o has more than permission bits", e.Mode)
	}
	if e.Type < File || e.Type > FIFO {
		return fmt.Errorf("unknown %v", e.Type)
	}
	if (e.Type == File) != (e.Blob != "") || (e.Type != File && e.Size != 0) || e.Size < 0 {
		return fmt.Errorf("%v with content %q of %d bytes", e.Type, e.Blob, e.Size)
	}
	if e.Blob != "" {
		if _, err := images.ParseDigest(string(e.Blob)); err != nil {
			return err
		}
	}
	if (e.Type == Symlink) != (e.Target != "") || strings.IndexByte(e.Target, 0) >= 0 {
		return fmt.Errorf("%v with target %q", e.Type, e.Target)
	}
	if e.Type == Symlink && e.Mode != 0o777 {
		return fmt.Errorf("symlink with mode %o, want 777", e.Mode)
	}
	if e.Type != CharDevice && e.Type != BlockDevice && (e.Major != 0 || e.Minor != 0) {
		return fmt.Errorf("%v with a device number", e.Type)
	}
	return checkXattrs(e.Xattrs)
}

func checkXattrs(xattrs []Xattr) error {
	for i, x := range xattrs {
		if x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("extended attribute with name %q", x.Name)
		}
		if i > 0 && xattrs[i-1].Name >= x.Name {
			return fmt.Errorf("extended attributes %q and %q out of order", xattrs[i-1].Name, x.Name)
		}
	}
	return nil
}

func checkPath(p string) error {
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.IndexByte(p, 0) >= 0 {
		return errors.New("path is not absolute and clean")
	}
	return nil
}

// Tree is a root file system: entries sorted by path, valid as [New] checks. It is a value: methods return new trees
// that may share entries with it.
type Tree struct {
	entries []Entry
}

// New makes a tree of entries in any order. It refuses two entries with one path, an entry whose parent is missing or no
// directory, and fields that do not fit an entry's type.
func New(entries []Entry) (Tree, error) {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	return fromSorted(sorted)
}

func fromSorted(entries []Entry) (Tree, error) {
	directories := make(map[string]bool, len(entries)/8)
	for i, e := range entries {
		if err := e.check(); err != nil {
			return Tree{}, fmt.Errorf("cannot make a tree with %q: %w", e.Path, err)
		}
		if i > 0 && entries[i-1].Path >= e.Path {
			return Tree{}, fmt.Errorf("cannot make a tree with %q: it comes twice or out of order", e.Path)
		}
		if e.Path != "/" && !directories[path.Dir(e.Path)] {
			return Tree{}, fmt.Errorf("cannot make a tree with %q: its parent is not a directory of the tree", e.Path)
		}
		if e.Type == Directory {
			directories[e.Path] = true
		}
	}
	if len(entries) > 0 && (entries[0].Path != "/" || entries[0].Type != Directory) {
		return Tree{}, errors.New("cannot make a tree: its root is not a directory")
	}
	return Tree{entries: entries}, nil
}

// Entries returns the entries sorted by path. The slice is the tree's own: read it only.
func (t Tree) Entries() []Entry { return t.entries }

// Len returns the number of entries.
func (t Tree) Len() int { return len(t.entries) }

// Size returns the bytes of all file contents, linked and equal files counted each time.
func (t Tree) Size() int64 {
	var sum int64
	for _, e := range t.entries {
		sum += e.Size
	}
	return sum
}

// Lookup returns the entry at p; symlinks on the way are not followed.
func (t Tree) Lookup(p string) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(t.entries, p, func(e Entry, p string) int { return cmp.Compare(e.Path, p) })
	if !ok {
		return Entry{}, false
	}
	return t.entries[i], true
}

// Under returns the entries below directory dir, not dir itself, sorted by path.
func (t Tree) Under(dir string) []Entry {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	byPath := func(e Entry, p string) int { return cmp.Compare(e.Path, p) }
	from, _ := slices.BinarySearchFunc(t.entries, prefix, byPath)
	to, _ := slices.BinarySearchFunc(t.entries, strings.TrimSuffix(prefix, "/")+"0", byPath) // '0' follows '/'
	under := t.entries[from:to]
	if dir == "/" && len(under) > 0 && under[0].Path == "/" {
		under = under[1:]
	}
	return under
}

// maxLinks is how many symlinks a path may cross, as in Linux (path_resolution(7)).
const maxLinks = 40

// Resolve follows symlinks and returns the path that p means inside the tree. The last element need not exist. The
// second result tells whether it does.
func (t Tree) Resolve(p string) (string, bool, error) { return resolve(t.Lookup, p) }

func resolve(lookup func(string) (Entry, bool), p string) (string, bool, error) {
	todo := strings.Split(strings.TrimPrefix(path.Clean("/"+p), "/"), "/")
	done, links, exists := "/", 0, true
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			done = path.Dir(done)
			continue
		}
		at := path.Join(done, name)
		e, ok := lookup(at)
		exists = ok
		if !ok || e.Type != Symlink {
			done = at
			continue
		}
		if links++; links > maxLinks {
			return "", false, fmt.Errorf("cannot resolve %q: more than %d symlinks", p, maxLinks)
		}
		if strings.HasPrefix(e.Target, "/") {
			done = "/"
		}
		todo = append(strings.Split(e.Target, "/"), todo...)
	}
	return done, exists, nil
}
