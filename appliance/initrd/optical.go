package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const opticalMount = "/run/roost/disc"

// findRootOnOptical looks for the root image on a disc in an optical drive, where roost image iso puts it. Firmware
// does not say which drive it booted from, but dm-verity judges the content, so any disc that has it will do.
func (m *machine) findRootOnOptical() (bool, error) {
	drives, err := filepath.Glob("/dev/sr*")
	if err != nil || len(drives) == 0 {
		return false, nil
	}
	if err := m.modules.load("isofs"); err != nil {
		m.con.warn("%v", err)
		return false, nil
	}
	if err := os.MkdirAll(opticalMount, 0o755); err != nil {
		return false, fmt.Errorf("cannot make %s: %v", opticalMount, err)
	}
	for _, drive := range drives {
		if unix.Mount(drive, opticalMount, "iso9660", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") != nil {
			continue // no disc, or another kind of disc
		}
		data, verity := filepath.Join(opticalMount, "root.img"), filepath.Join(opticalMount, "verity.img")
		if _, err := os.Stat(data); err == nil {
			m.con.step("root image on the disc in %s", drive)
			m.record.Origin, m.record.Disk = "iso", drive
			if m.root.data, err = attachLoop(data); err != nil {
				return true, err
			}
			m.root.verity, err = attachLoop(verity)
			return true, err
		}
		if err := unix.Unmount(opticalMount, 0); err != nil {
			return false, fmt.Errorf("cannot release the disc in %s: %v", drive, err)
		}
	}
	return false, nil
}
