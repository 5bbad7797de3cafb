package slot

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"roost/images/disk"
)

// Device is the disk that holds the slots.
type Device interface {
	disk.Device
	Size() int64 // bytes
	// Fresh opens a view of what the medium holds, past every cache.
	Fresh() (View, error)
}

// View is a read-only view of a device.
type View interface {
	io.ReaderAt
	io.Closer
}

// OpenDevice opens a block device, or a disk image in a file, for writing.
func OpenDevice(path string) (Device, io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open disk: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd) // of a block device too
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot measure disk %s: %w", path, err), f.Close())
	}
	return &file{File: f, size: size}, f, nil
}

type file struct {
	*os.File
	size int64
}

func (f *file) Size() int64 { return f.size }

// Fresh reads by direct I/O. A file system without it (tmpfs) gets the next best: clean pages are dropped.
func (f *file) Fresh() (View, error) {
	direct, err := os.OpenFile(f.Name(), os.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		return direct, nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("cannot open disk for reading back: %w", err)
	}
	plain, err := os.Open(f.Name())
	if err != nil {
		return nil, fmt.Errorf("cannot open disk for reading back: %w", err)
	}
	if err := unix.Fadvise(int(plain.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot drop caches of %s: %w", f.Name(), err), plain.Close())
	}
	return plain, nil
}
