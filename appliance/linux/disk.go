package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Disk is an open block device.
type Disk struct {
	*os.File
	size int64
}

// Size is that of the device in bytes.
func (d *Disk) Size() int64 { return d.size }

// OpenDisk opens a block device: to be read, also while it is used; to be written, only while nobody else does, no mounted
// file system and no partition of it (O_EXCL, open(2)).
func (m Machine) OpenDisk(path string, write bool) (*Disk, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | os.O_EXCL
	}
	f, err := os.OpenFile(m.path(path), flags, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errors.New("there is no such device")
	case errors.Is(err, syscall.EBUSY):
		return nil, fmt.Errorf("%s is in use", path)
	case err != nil:
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		err = fmt.Errorf("%s is not a block device", path)
	}
	d := &Disk{File: f}
	if err == nil {
		d.size, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil && d.size == 0 {
		err = fmt.Errorf("%s has no medium", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}
