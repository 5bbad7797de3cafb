package esp

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
)

const (
	direntSize    = 32
	attrLabel     = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLongName  = 0x0f
	longPerSlot   = 13 // UTF-16 units in one entry of a long name
)

// node is a file or directory that is to be on the volume.
type node struct {
	name      string
	short     [11]byte
	directory bool
	children  []*node
	content   io.Reader
	cluster   int64 // first; 0 for an empty file
	size      int64
}

// treeOf arranges files in directories, in the order they come, and gives them short names.
func treeOf(files []File) (*node, error) {
	root := &node{directory: true}
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return nil, fmt.Errorf("cannot put %s on it: not a path", f.Path)
		}
		at := root
		dir, base := path.Split(f.Path)
		for _, name := range strings.Split(strings.TrimSuffix(dir, "/"), "/") {
			if name == "" {
				continue
			}
			next, err := at.child(name)
			if err != nil {
				return nil, fmt.Errorf("cannot put %s on it: %w", f.Path, err)
			}
			if next.content != nil {
				return nil, fmt.Errorf("cannot put %s on it: %s is a file", f.Path, name)
			}
			next.directory, at = true, next
		}
		n, err := at.child(base)
		if err != nil {
			return nil, fmt.Errorf("cannot put %s on it: %w", f.Path, err)
		}
		if n.directory || n.content != nil {
			return nil, fmt.Errorf("cannot put %s on it twice (FAT does not tell case apart)", f.Path)
		}
		n.content = f.Content
	}
	return root, nil
}

// child returns the child of that name, whatever its case, or adds one.
func (n *node) child(name string) (*node, error) {
	for _, c := range n.children {
		if strings.EqualFold(c.name, name) {
			return c, nil
		}
	}
	for _, r := range name {
		if r <= ' ' || r > '~' || strings.ContainsRune(`"*/:<>?\|`, r) {
			return nil, fmt.Errorf("name %q has a character that FAT or firmware cannot take", name)
		}
	}
	if len(name) > 255 || strings.HasSuffix(name, ".") {
		return nil, fmt.Errorf("name %q is not one that FAT can take", name)
	}
	c := &node{name: name, short: n.shortName(name)}
	n.children = append(n.children, c)
	return c, nil
}

// shortName finds an 8.3 name that no sibling has. A name that is 8.3 and upper-case already is its own; generated ones
// carry '~', which no name that is its own can, so the two never meet.
func (n *node) shortName(name string) [11]byte {
	stem, ext := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		stem, ext = name[:dot], name[dot+1:]
	}
	head, tail := clean83(stem), clean83(ext)
	if head == stem && tail == ext && len(stem) <= 8 && len(ext) <= 3 {
		return pack83(stem, ext)
	}
	for i := 1; ; i++ {
		number := fmt.Sprintf("~%d", i)
		short := pack83(head[:min(len(head), 8-len(number))]+number, tail)
		if !slices.ContainsFunc(n.children, func(c *node) bool { return c.short == short }) {
			return short
		}
	}
}

// clean83 keeps what a short name may hold, in upper case.
func clean83(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		}
		return -1
	}, s)
}

func pack83(stem, ext string) (short [11]byte) {
	copy(short[:], "           ")
	copy(short[:8], stem)
	copy(short[8:], ext)
	return short
}

// isShort reports whether the short name says all.
func (n *node) isShort() bool {
	stem, ext := strings.TrimRight(string(n.short[:8]), " "), strings.TrimRight(string(n.short[8:]), " ")
	if ext != "" {
		stem += "." + ext
	}
	return stem == n.name
}

// slots returns the directory entries that n takes.
func (n *node) slots() int {
	if n.isShort() {
		return 1
	}
	return 1 + (len(n.name)+longPerSlot-1)/longPerSlot
}

// longName appends the entries of the long name, last part first (FAT specification 1.03, 7).
func (n *node) longName(b []byte) []byte {
	if n.isShort() {
		return b
	}
	sum := byte(0)
	for _, c := range n.short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	units := utf16.Encode([]rune(n.name))
	slots := n.slots() - 1
	if len(units)%longPerSlot != 0 {
		units = append(units, 0)
	}
	for len(units) < slots*longPerSlot {
		units = append(units, 0xffff)
	}
	for i := slots; i > 0; i-- {
		part := units[(i-1)*longPerSlot:][:longPerSlot]
		e := make([]byte, direntSize)
		e[0] = byte(i)
		if i == slots {
			e[0] |= 0x40
		}
		e[11], e[13] = attrLongName, sum
		for j, u := range part {
			at := 1 + 2*j
			if j >= 5 {
				at = 14 + 2*(j-5)
			}
			if j >= 11 {
				at = 28 + 2*(j-11)
			}
			binary.LittleEndian.PutUint16(e[at:], u)
		}
		b = append(b, e...)
	}
	return b
}

// dirent appends a short entry.
func (v *volume) dirent(b []byte, name [11]byte, attribute byte, cluster, size int64) []byte {
	le := binary.LittleEndian
	e := make([]byte, direntSize)
	copy(e, name[:])
	e[11] = attribute
	le.PutUint16(e[14:], v.stamp.time)
	le.PutUint16(e[16:], v.stamp.date)
	le.PutUint16(e[18:], v.stamp.date)
	le.PutUint16(e[20:], uint16(cluster>>16))
	le.PutUint16(e[22:], v.stamp.time)
	le.PutUint16(e[24:], v.stamp.date)
	le.PutUint16(e[26:], uint16(cluster))
	le.PutUint32(e[28:], uint32(size))
	return append(b, e...)
}
