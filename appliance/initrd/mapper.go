package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapper drives the kernel's device mapper through its ioctl interface (Linux, include/uapi/linux/dm-ioctl.h).
// Only what opening one read-only target needs is here.
type mapper struct{ control *os.File }

// dmRequest is one ioctl buffer: header, target, table line.
type dmRequest struct {
	header unix.DmIoctl
	spec   unix.DmTargetSpec
	table  [1024]byte
}

func openMapper() (*mapper, error) {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the device mapper: %v", err)
	}
	return &mapper{control: f}, nil
}

func (d *mapper) close() { d.control.Close() }

func newRequest(name string) *dmRequest {
	r := &dmRequest{}
	r.header.Version = [3]uint32{4, 0, 0}
	r.header.Data_size = uint32(unsafe.Sizeof(*r))
	r.header.Data_start = uint32(unsafe.Offsetof(r.spec))
	copy(r.header.Name[:len(r.header.Name)-1], name)
	return r
}

func (d *mapper) ioctl(command uintptr, r *dmRequest) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.control.Fd(), command, uintptr(unsafe.Pointer(r)))
	if errno != 0 {
		return errno
	}
	return nil
}

// create makes a read-only device of one target and returns its node. sectors are of 512 bytes.
func (d *mapper) create(name, target, table string, sectors uint64) (string, error) {
	r := newRequest(name)
	if len(table) >= len(r.table) {
		return "", fmt.Errorf("cannot create device %s: table line of %d bytes is too long", name, len(table))
	}
	if err := d.ioctl(unix.DM_DEV_CREATE, r); err != nil {
		return "", fmt.Errorf("cannot create device %s: %v", name, err)
	}
	minor := unix.Minor(r.header.Dev)

	load := newRequest(name)
	load.header.Flags = unix.DM_READONLY_FLAG
	load.header.Target_count = 1
	load.spec.Length = sectors
	load.spec.Next = uint32(unsafe.Sizeof(load.spec) + unsafe.Sizeof(load.table))
	copy(load.spec.Target_type[:len(load.spec.Target_type)-1], target)
	copy(load.table[:], table)
	if err := d.ioctl(unix.DM_TABLE_LOAD, load); err != nil {
		return "", fmt.Errorf("cannot load the %s table of device %s: %v", target, name, err)
	}
	if err := d.ioctl(unix.DM_DEV_SUSPEND, newRequest(name)); err != nil { // without the suspend flag this resumes
		return "", fmt.Errorf("cannot start device %s: %v", name, err)
	}
	return fmt.Sprintf("/dev/dm-%d", minor), nil
}

// attachLoop makes a read-only loop device over file and returns its node.
func attachLoop(file string) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot open the loop control device: %v", err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("cannot get a free loop device: %v", err)
	}
	node := fmt.Sprintf("/dev/loop%d", n)
	loop, err := os.OpenFile(node, os.O_RDONLY, 0)
	if err != nil {
		return "", fmt.Errorf("cannot open a loop device: %v", err)
	}
	defer loop.Close()
	backing, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("cannot open the file for a loop device: %v", err)
	}
	defer backing.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: 4096, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY}}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		return "", fmt.Errorf("cannot attach %s to %s: %v", file, node, err)
	}
	return node, nil
}
