package boot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"roost/images/durable"
)

// Volume is the directory EFI/Linux of a FAT file system as the kernel gives it: nothing lasts until it is synced, and a
// rename is not atomic.
type Volume interface {
	Names() ([]string, error)
	Size(name string) (int64, error)            // bytes
	Open(name string) (io.ReadCloser, error)    // what the device holds, not what a cache remembers
	Create(name string) (durable.File, error)   // truncated
	Rename(from, to string) error               // to does not exist
	Remove(name string) error                   // a missing name is fs.ErrNotExist
	Sync() error                                // makes names last
	Space() (size int64, free int64, err error) // bytes of the file system
}

// OpenVolume returns EFI/Linux of the partition mounted at mount, which should be mounted dirsync, and after a check of
// the FAT (see ESP.Recover).
func OpenVolume(mount string) (Volume, error) {
	dir := filepath.Join(mount, "EFI", "Linux")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", dir, err)
	}
	return directory(dir), nil
}

type directory string

func (d directory) at(name string) string { return filepath.Join(string(d), name) }

func (d directory) Names() ([]string, error) {
	entries, err := os.ReadDir(string(d))
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

func (d directory) Size(name string) (int64, error) {
	info, err := os.Stat(d.at(name))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d directory) Open(name string) (io.ReadCloser, error) {
	f, err := os.Open(d.at(name))
	if err != nil {
		return nil, err
	}
	// Clean pages are dropped, so that the read comes from the device. Advice only: a cache that stays costs proof, not safety.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return f, nil
}

func (d directory) Create(name string) (durable.File, error) {
	return os.OpenFile(d.at(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
}

func (d directory) Rename(from, to string) error { return os.Rename(d.at(from), d.at(to)) }
func (d directory) Remove(name string) error     { return os.Remove(d.at(name)) }

func (d directory) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Syncfs(int(f.Fd())) // vfat writes the allocation table only then
}

func (d directory) Space() (size, free int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(string(d), &s); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: string(d), Err: err}
	}
	return int64(s.Blocks) * s.Bsize, int64(s.Bavail) * s.Bsize, nil
}
