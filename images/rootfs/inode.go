package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// inode is an object of the image with one or more names.
type inode struct {
	entry    *Entry
	children []child // of a directory, by name; includes "." and ".."; nil for all else
	links    int
	xattrs   []byte
	fixed    []byte // data of what is not a regular file
	same     *inode // has the same data

	size   int64
	full   int64 // blocks in the data area
	tail   int   // bytes behind the inode
	nid    int64
	number int // for tools that want small inode numbers
	start  int64
}

type child struct {
	name string
	*inode
}

// treeOf arranges entries and returns the inodes, the root first, the others in the order of their first names: every
// directory followed by what is in it.
func treeOf(entries []Entry) ([]*inode, error) {
	byPath := make(map[string]*inode, len(entries))
	sorted := make([]*Entry, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		if !fs.ValidPath(e.Path) || strings.ContainsRune(e.Path, 0) || len(path.Base(e.Path)) > 255 {
			return nil, fmt.Errorf("%q is not a path", e.Path)
		}
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, comparePaths)
	var inodes []*inode
	var links []*Entry
	for _, e := range sorted {
		if byPath[e.Path] != nil {
			return nil, fmt.Errorf("%s is there twice", e.Path)
		}
		if e.Link != "" {
			links = append(links, e)
			continue
		}
		n, err := newInode(e)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Path, err)
		}
		byPath[e.Path] = n
		inodes = append(inodes, n)
		if err := attach(byPath, e.Path, n); err != nil {
			return nil, err
		}
	}
	if len(inodes) == 0 || inodes[0].children == nil || inodes[0].entry.Path != "." {
		return nil, errors.New("no root directory")
	}
	for _, e := range links {
		n := byPath[e.Link]
		if n == nil || n.children != nil || byPath[e.Path] != nil {
			return nil, fmt.Errorf("%s cannot be another name of %s", e.Path, e.Link)
		}
		byPath[e.Path] = n
		if err := attach(byPath, e.Path, n); err != nil {
			return nil, err
		}
	}
	for _, n := range inodes {
		slices.SortFunc(n.children, func(a, b child) int { return strings.Compare(a.name, b.name) })
	}
	return inodes, nil
}

// comparePaths sorts a directory before its content, and all its content before its next sibling.
func comparePaths(a, b *Entry) int {
	switch {
	case a.Path == b.Path:
		return 0
	case a.Path == ".":
		return -1
	case b.Path == ".":
		return 1
	}
	return strings.Compare(strings.ReplaceAll(a.Path, "/", "\x00"), strings.ReplaceAll(b.Path, "/", "\x00"))
}

// attach gives n a name in its directory.
func attach(byPath map[string]*inode, name string, n *inode) error {
	n.links++
	if name == "." {
		if n.entry.Mode&TypeMask != TypeDirectory {
			return nil
		}
		n.children = []child{{".", n}, {"..", n}}
		n.links++
		return nil
	}
	parent := byPath[path.Dir(name)]
	if parent == nil || parent.children == nil {
		return fmt.Errorf("%s is in no directory", name)
	}
	parent.children = append(parent.children, child{path.Base(name), n})
	if n.entry.Mode&TypeMask == TypeDirectory {
		n.children = []child{{".", n}, {"..", parent}}
		n.links++
		parent.links++
	}
	return nil
}

func newInode(e *Entry) (*inode, error) {
	n := &inode{entry: e}
	var err error
	if n.xattrs, err = encodeXattrs(e.Xattrs); err != nil {
		return nil, err
	}
	switch e.Mode & TypeMask {
	case TypeRegular:
		if n.size = e.Size; n.size < 0 {
			return nil, fmt.Errorf("size %d", n.size)
		}
	case TypeSymlink:
		if e.Target == "" || len(e.Target) > blockSize-1 {
			return nil, fmt.Errorf("target of %d bytes", len(e.Target))
		}
		n.fixed, n.size = []byte(e.Target), int64(len(e.Target))
	case TypeDirectory, TypeChar, TypeBlock, TypeFIFO, TypeSocket:
	default:
		return nil, fmt.Errorf("mode %#o has no type", e.Mode)
	}
	return n, nil
}

// split decides what of the data goes into blocks and what behind the inode, which all in all may take limit bytes.
func (n *inode) split(limit int) {
	if n.children != nil {
		n.size = n.directorySize()
	}
	n.full, n.tail = n.size/blockSize, int(n.size%blockSize)
	if n.tail > 0 && inodeSize+len(n.xattrs)+n.tail > limit {
		n.full, n.tail = n.full+1, 0
	}
}

// tailAt returns the offset of the tail in the metadata.
func (n *inode) tailAt() int64 { return n.nid*unit + inodeSize + int64(len(n.xattrs)) }

// directorySize returns the bytes that the entries of a directory take.
func (n *inode) directorySize() int64 {
	size, used := int64(0), 0
	for _, c := range n.children {
		need := direntSize + len(c.name)
		if used+need > blockSize {
			size, used = size+blockSize, 0
		}
		used += need
	}
	return size + int64(used)
}

// directory returns the entries: in each block first the fixed parts, then the names.
func (n *inode) directory() []byte {
	out := make([]byte, 0, n.size)
	for rest := n.children; len(rest) > 0; {
		count, used := 0, 0
		for count < len(rest) && used+direntSize+len(rest[count].name) <= blockSize {
			used += direntSize + len(rest[count].name)
			count++
		}
		heads, names := make([]byte, 0, used), make([]byte, 0, used)
		for _, c := range rest[:count] {
			heads = binary.LittleEndian.AppendUint64(heads, uint64(c.nid))
			heads = binary.LittleEndian.AppendUint16(heads, uint16(count*direntSize+len(names)))
			heads = append(heads, c.fileType(), 0)
			names = append(names, c.name...)
		}
		out = append(append(out, heads...), names...)
		if rest = rest[count:]; len(rest) > 0 {
			out = append(out, make([]byte, blockSize-used)...)
		}
	}
	return out
}

// fileType returns the type as directory entries hold it.
func (n *inode) fileType() byte {
	switch n.entry.Mode & TypeMask {
	case TypeRegular:
		return 1
	case TypeDirectory:
		return 2
	case TypeChar:
		return 3
	case TypeBlock:
		return 4
	case TypeFIFO:
		return 5
	case TypeSocket:
		return 6
	}
	return 7 // symbolic link
}

// prefix is a start of attribute names that is stored as a number.
type prefix struct {
	name  string
	index byte
}

// encodeXattrs returns the attributes as they follow an inode.
func encodeXattrs(attrs map[string]string) ([]byte, error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	prefixes := []prefix{{"system.posix_acl_access", 2}, {"system.posix_acl_default", 3}, {"user.", 1}, {"trusted.", 4}, {"security.", 6}}
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]byte, xattrHeaderSize)
	for _, name := range names {
		i := slices.IndexFunc(prefixes, func(p prefix) bool { return strings.HasPrefix(name, p.name) })
		value := attrs[name]
		if i < 0 || len(name) > 255 || len(value) > blockSize {
			return nil, fmt.Errorf("attribute %q cannot be stored", name)
		}
		suffix := name[len(prefixes[i].name):]
		out = append(out, byte(len(suffix)), prefixes[i].index)
		out = binary.LittleEndian.AppendUint16(out, uint16(len(value)))
		out = append(append(out, suffix...), value...)
		for len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out, nil
}
