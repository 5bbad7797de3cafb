package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Open returns the directory at path on a real disk, made with its parents if missing. Files get the permission perm
// (0o600 for secrets); directories made on the way get the search bits that go with it.
func Open(path string, perm fs.FileMode) (*Dir, error) {
	path = filepath.Clean(path)
	if err := makeDirectory(path, perm|perm>>2&0o111); err != nil {
		return nil, fmt.Errorf("cannot make directory %s: %w", path, err)
	}
	d, err := On(disk{path: path, perm: perm})
	if err != nil {
		return nil, fmt.Errorf("cannot open directory %s: %w", path, err)
	}
	return d, nil
}

// Disk returns the directory at path on a real disk as a bare Medium, made with its parents if missing, for an owner that
// appends to files and keeps its own order of writes. Everyone else wants [Open].
func Disk(path string, perm fs.FileMode) (Medium, error) {
	path = filepath.Clean(path)
	if err := makeDirectory(path, perm|perm>>2&0o111); err != nil {
		return nil, fmt.Errorf("cannot make directory %s: %w", path, err)
	}
	return disk{path: path, perm: perm}, nil
}

// Move renames the file from to to, replacing it, so that content and both names last: fsync of the file, rename, fsync of
// both directories. It is for large files that were written in pieces; both names must be on one file system.
func Move(from, to string) error {
	for _, step := range []func() error{
		func() error { return syncPath(from) },
		func() error { return os.Rename(from, to) },
		func() error { return syncPath(filepath.Dir(to)) },
		func() error { return syncPath(filepath.Dir(from)) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("cannot move %s to %s: %w", from, to, err)
		}
	}
	return nil
}

// makeDirectory is os.MkdirAll that makes each new name last.
func makeDirectory(path string, perm fs.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDirectory(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncPath(parent)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// disk is a directory of the running system as a Medium.
type disk struct {
	path string
	perm fs.FileMode
}

func (d disk) at(name string) string { return filepath.Join(d.path, name) }

func (d disk) Create(name string) (File, error) {
	return os.OpenFile(d.at(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, d.perm)
}

func (d disk) ReadFile(name string) ([]byte, error) { return os.ReadFile(d.at(name)) }
func (d disk) Remove(name string) error             { return os.Remove(d.at(name)) }
func (d disk) Sync() error                          { return syncPath(d.path) }

func (d disk) Rename(from, to string, replace bool) error {
	if replace {
		return os.Rename(d.at(from), d.at(to))
	}
	err := unix.Renameat2(unix.AT_FDCWD, d.at(from), unix.AT_FDCWD, d.at(to), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without the flag: a hard link is as exclusive, and the temporary goes after it.
		if err = os.Link(d.at(from), d.at(to)); err == nil {
			err = os.Remove(d.at(from))
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (d disk) Names() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}
