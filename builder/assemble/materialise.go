package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"roost/builder/tree"
	"roost/images"
)

// materialise writes t as real files below directory dir, which exists. Contents are linked from the store where owner and
// mode allow, which is safe because whoever works on the files does so through an overlay. Each content is linked once,
// for programs take two names of one inode for one file and refuse to copy between them.
//
// Files that hide picks are left out.
func (a *assembly) materialise(ctx context.Context, t tree.Tree, dir string, hide func(path string) bool) error {
	var files []tree.Entry
	for _, e := range t.Entries() {
		if e.Type == tree.File && hide != nil && hide(e.Path) {
			continue
		}
		if e.Type == tree.File {
			files = append(files, e)
			continue
		}
		if err := makeSpecial(dir, e); err != nil {
			return fmt.Errorf("cannot lay out %s: %w", e.Path, err)
		}
	}
	linked := onceSet{seen: map[images.Digest]bool{}}
	g, ctx := errgroup.WithContext(ctx)
	for part := range slices.Chunk(files, max(1, (len(files)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))) {
		g.Go(func() error {
			for _, e := range part {
				if err := errors.Join(ctx.Err(), a.makeFile(dir, e, &linked)); err != nil {
					return fmt.Errorf("cannot lay out %s: %w", e.Path, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, e := range slices.Backward(t.Entries()) {
		if e.Type == tree.Directory {
			if err := os.Chtimes(filepath.Join(dir, e.Path), fileTime(), fileTime()); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileTime is when all files were made, as far as programs can see.
func fileTime() time.Time { return time.Unix(tree.FileTime, 0) }

// onceSet says true the first time it is asked about a digest.
type onceSet struct {
	mu   sync.Mutex
	seen map[images.Digest]bool
}

func (s *onceSet) first(d images.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.seen[d]
	s.seen[d] = true
	return first
}

func makeSpecial(dir string, e tree.Entry) error {
	name := filepath.Join(dir, e.Path)
	var err error
	switch e.Type {
	case tree.Directory:
		if e.Path != "/" {
			err = os.Mkdir(name, 0o700)
		}
	case tree.Symlink:
		err = os.Symlink(e.Target, name)
	case tree.FIFO:
		err = unix.Mkfifo(name, 0o600)
	case tree.CharDevice:
		err = unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	case tree.BlockDevice:
		err = unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	}
	if err != nil {
		return err
	}
	return dress(name, e)
}

func (a *assembly) makeFile(dir string, e tree.Entry, linked *onceSet) error {
	name := filepath.Join(dir, e.Path)
	once := len(e.Xattrs) == 0 && linked.first(e.Blob)
	if once && e.Mode == 0o644 && e.UID == 0 && e.GID == 0 && os.Link(a.Store.Path(e.Blob), name) == nil {
		return nil
	}
	if once && a.copies.link(e, name) {
		return nil
	}
	from, err := a.Store.Open(e.Blob)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close()); err != nil {
		return err
	}
	if err := dress(name, e); err != nil {
		return err
	}
	if err := os.Chtimes(name, fileTime(), fileTime()); err != nil || !once {
		return err
	}
	return a.copies.keep(e, name)
}

// copies are files that cannot be linked from the store, for their owner or mode, with second names in a directory: the next
// job links them from there. A nil one keeps nothing.
type copies struct {
	dir string

	mu   sync.Mutex
	kept map[copied]string
}

// copied is what a file must have in common with a copy to be the same.
type copied struct {
	blob           images.Digest
	mode, uid, gid uint32
}

// link gives the copy of e the name, and tells whether there was one.
func (c *copies) link(e tree.Entry, name string) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	from, ok := c.kept[copied{e.Blob, e.Mode, e.UID, e.GID}]
	c.mu.Unlock()
	return ok && os.Link(from, name) == nil
}

// keep takes the file name, which is e, as a copy.
func (c *copies) keep(e tree.Entry, name string) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := copied{e.Blob, e.Mode, e.UID, e.GID}
	if c.kept[key] != "" {
		return nil
	}
	at := filepath.Join(c.dir, strconv.Itoa(len(c.kept)))
	if err := os.Link(name, at); err != nil {
		return err
	}
	c.kept[key] = at
	return nil
}

// dress gives a new file its owner, mode and attributes, in the order in which the kernel does not undo them.
func dress(name string, e tree.Entry) error {
	if e.UID != 0 || e.GID != 0 {
		if err := os.Lchown(name, int(e.UID), int(e.GID)); err != nil {
			return err
		}
	}
	if e.Type != tree.Symlink {
		if err := unix.Chmod(name, e.Mode); err != nil {
			return err
		}
	}
	for _, x := range e.Xattrs {
		if err := unix.Lsetxattr(name, x.Name, x.Value, 0); err != nil {
			return fmt.Errorf("attribute %s: %w", x.Name, err)
		}
	}
	return nil
}

// absorb applies to t what an overlay's upper directory holds: new and changed files, whiteouts and opaque directories
// (Documentation/filesystems/overlayfs.rst).
func (a *assembly) absorb(t tree.Tree, upper string) (tree.Tree, error) {
	d := t.Draft()
	err := filepath.WalkDir(upper, func(name string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := "/" + strings.TrimPrefix(strings.TrimPrefix(name, upper), "/")
		if isVolatile(at) {
			if item.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return a.absorbFile(d, name, at)
	})
	if err != nil {
		return tree.Tree{}, fmt.Errorf("cannot take over changed files: %w", err)
	}
	return d.Tree()
}

// isVolatile picks what a run leaves behind that is of no use to any later one.
func isVolatile(at string) bool {
	switch at {
	case "/dev", "/proc", "/sys", "/run", "/tmp", "/var/cache/ldconfig", "/var/log", "/etc/.pwd.lock",
		policy, names, database + "/lock", database + "/lock-frontend", database + "/triggers/Lock", database + "/updates", database + "/tmp.ci":
		return true
	}
	return slices.Contains(placeholders(), at) ||
		strings.HasPrefix(at, "/var/lib/dpkg/") && strings.HasSuffix(at, "-old") ||
		strings.HasPrefix(at, "/var/cache/debconf/") && strings.HasSuffix(at, "-old")
}

func (a *assembly) absorbFile(d *tree.Draft, name, at string) error {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	e := tree.Entry{Path: at, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type = tree.File
		e.Blob, e.Size, err = a.putFile(name)
	case unix.S_IFDIR:
		e.Type = tree.Directory
	case unix.S_IFLNK:
		e.Type, e.Mode = tree.Symlink, 0o777
		e.Target, err = os.Readlink(name)
	case unix.S_IFCHR:
		if st.Rdev == 0 { // a whiteout
			d.Remove(at)
			return nil
		}
		e.Type, e.Major, e.Minor = tree.CharDevice, major, minor
	case unix.S_IFBLK:
		e.Type, e.Major, e.Minor = tree.BlockDevice, major, minor
	case unix.S_IFIFO:
		e.Type = tree.FIFO
	default:
		return nil // sockets do not outlive their process
	}
	opaque := false
	if err == nil && e.Type != tree.Symlink {
		e.Xattrs, opaque, err = readXattrs(name)
	}
	if err != nil {
		return err
	}
	if old, ok := d.Lookup(at); ok && old.Type == tree.Directory && (opaque || e.Type != tree.Directory) {
		d.Empty(at)
	}
	return d.Put(e)
}

func (a *assembly) putFile(name string) (images.Digest, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return a.Store.Put(f)
}

// readXattrs returns the attributes that belong in an image (capabilities and the user's own), and whether the overlay
// marked the directory as opaque.
func readXattrs(name string) (xattrs []tree.Xattr, opaque bool, err error) {
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(name, list)
	if errors.Is(err, syscall.ENOTSUP) || n == 0 && err == nil {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, &fs.PathError{Op: "listxattr", Path: name, Err: err}
	}
	for x := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(name, x, value)
		if err != nil {
			return nil, false, &fs.PathError{Op: "getxattr", Path: name, Err: err}
		}
		value = value[:n]
		switch {
		case strings.HasSuffix(x, ".overlay.opaque"):
			opaque = opaque || string(value) == "y"
		case strings.Contains(x, ".overlay."):
		case x == "security.capability" || strings.HasPrefix(x, "user."):
			xattrs = append(xattrs, tree.Xattr{Name: x, Value: value})
		}
	}
	slices.SortFunc(xattrs, func(x, y tree.Xattr) int { return strings.Compare(x.Name, y.Name) })
	return xattrs, opaque, nil
}
