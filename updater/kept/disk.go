package kept

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Disk is the real file system below a root. Of a directory it takes what lies on the same file system.
type Disk struct{ Root string }

func (d Disk) at(dir string) string { return filepath.Join(d.Root, dir) }

// Size counts the blocks of every file once, however many names it has.
func (d Disk) Size(dir string) (n int64, found bool, err error) {
	seen := map[uint64]bool{}
	err = walk(d.at(dir), func(_ string, st *unix.Stat_t) error {
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		n += st.Blocks * 512
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Lstat(d.at(dir))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, false, nil
		}
		return n, true, err // a file went while it was counted
	}
	return n, err == nil, err
}

// Free asks the next directory above that exists.
func (d Disk) Free(dir string) (int64, error) {
	p := d.at(dir)
	for {
		var st unix.Statfs_t
		err := unix.Statfs(p, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || p == filepath.Dir(p) {
			return 0, fmt.Errorf("cannot tell the room of %s: %w", p, err)
		}
		p = filepath.Dir(p)
	}
}

// Rename makes the parents of to.
func (d Disk) Rename(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(d.at(to)), 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(d.at(to)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot rename %s to %s: it exists: %w", from, to, fs.ErrExist)
	}
	return os.Rename(d.at(from), d.at(to))
}

// Remove removes a directory with all that is in it.
func (d Disk) Remove(dir string) error { return os.RemoveAll(d.at(dir)) }

// Sync has the whole file system of the state reach the disk.
func (d Disk) Sync() error {
	f, err := os.Open(d.at("/var"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot sync /var: %w", err)
	}
	return nil
}

// Copy copies content, holes, hard links within the directory, owners, permissions, extended attributes and times. Sockets
// are of a process that is gone and are left out.
func (d Disk) Copy(from, to string) error {
	from, to = d.at(from), d.at(to)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	c := copying{from: from, to: to, links: map[uint64]string{}}
	err := walk(from, c.one)
	for i := len(c.dirs) - 1; err == nil && i >= 0; i-- { // last: what is made in a directory changes its times
		err = c.attributes(c.dirs[i].name, c.dirs[i].st)
	}
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", from, err)
	}
	return nil
}

// walk calls f for a directory and all below it on its file system, parents first, following no link.
func walk(root string, f func(name string, st *unix.Stat_t) error) error {
	var device uint64
	return filepath.WalkDir(root, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: p, Err: err}
		}
		if p == root {
			device = st.Dev
		}
		if err := f(strings.TrimPrefix(p, root), &st); err != nil {
			return err
		}
		if st.Dev != device && entry.IsDir() {
			return fs.SkipDir // a mount point: it stays, empty
		}
		return nil
	})
}

type copying struct {
	from, to string
	links    map[uint64]string // inode to its first name in the copy
	dirs     []copied
}

type copied struct {
	name string
	st   unix.Stat_t
}

func (c *copying) one(name string, st *unix.Stat_t) error {
	from, to := c.from+name, c.to+name
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[st.Ino]; ok {
			return os.Link(first, to)
		}
		c.links[st.Ino] = to
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		c.dirs = append(c.dirs, copied{name, *st})
		return os.Mkdir(to, 0o700)
	case unix.S_IFREG:
		err = copyFile(from, to, st.Size)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	case unix.S_IFSOCK:
		return nil
	default: // pipes and devices
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return c.attributes(name, *st)
}

// attributes gives a copy the owner, permissions, extended attributes and times of the original.
func (c *copying) attributes(name string, st unix.Stat_t) error {
	from, to := c.from+name, c.to+name
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyExtended(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(unix.AT_FDCWD, to, st.Mode&0o7777, 0); err != nil { // after the owner, which takes set-id bits away
			return &fs.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimes", Path: to, Err: err}
	}
	return nil
}

func copyExtended(from, to string) error {
	names := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Llistxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: from, Err: err}
	}
	value := make([]byte, 64<<10)
	for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return &fs.PathError{Op: "copy attribute " + name + " of", Path: from, Err: err}
		}
	}
	return nil
}

// copyFile shares blocks where the file system can; else it copies what is not a hole, inside the kernel.
func copyFile(from, to string, size int64) (err error) {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	for at := int64(0); at < size; {
		data, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			break // a hole to the end
		}
		if err != nil {
			return err
		}
		hole, err := in.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(in, out, data, hole-data); err != nil {
			return err
		}
		at = hole
	}
	return out.Truncate(size)
}

func copyRange(in, out *os.File, at, n int64) error {
	for _, f := range []*os.File{in, out} {
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
	}
	_, err := io.CopyN(out, in, n)
	return err
}
