package lab

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"roost/appliance/api"
)

// loop is a file as a block device. The kernel lets go of it when the last who holds it closes it: there is nothing to
// clean up after a crash.
type loop struct {
	file *os.File // the device
	name string   // stable, below /dev/disk/by-id
}

func attachLoop(path, name string) (loop, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return loop{}, fmt.Errorf("cannot make a block device of %s: %v", path, err)
	}
	defer control.Close()
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return loop{}, fmt.Errorf("cannot make a block device of %s: %v", path, err)
	}
	defer backing.Close()
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return loop{}, fmt.Errorf("cannot make a block device of %s: %v", path, err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return loop{}, fmt.Errorf("cannot make a block device of %s: %v", path, err)
		}
		config := &unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
		err = unix.IoctlLoopConfigure(int(device.Fd()), config)
		if err == nil {
			return loop{file: device, name: name}, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // else somebody was faster
			return loop{}, fmt.Errorf("cannot make a block device of %s: %v", path, err)
		}
	}
}

func (d loop) describe(size int64) api.Disk {
	return api.Disk{Path: d.file.Name(), ID: "/dev/disk/by-id/" + d.name, Size: size, Sector: 512, Bus: "loop"}
}
