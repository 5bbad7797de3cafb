package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const sysroot = "/sysroot"

// mountEarly mounts the kernel's file systems. /run survives into the booted system.
func mountEarly() error {
	mounts := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=80%"},
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("cannot make mount point: %v", err)
		}
		err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
		if err != nil && err != unix.EBUSY {
			return fmt.Errorf("cannot mount %s on %s: %v", m.kind, m.target, err)
		}
	}
	for _, dir := range []string{sysroot, "/run/roost"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make %s: %v", dir, err)
		}
	}
	return nil
}

// mountVariables makes EFI variables readable; their file system is a module in Debian's kernels. Without EFI there are none,
// and every reader of them treats that as absent.
func mountVariables() error {
	err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !isAbsent(err) {
		return fmt.Errorf("cannot mount the EFI variables: %v", err)
	}
	return nil
}

func isAbsent(err error) bool {
	return err == unix.ENODEV || err == unix.ENOENT || err == unix.EOPNOTSUPP || err == unix.EBUSY
}

// reboot restarts the machine and does not return.
func reboot() {
	syscall.Sync()
	for {
		// An error leaves nothing better to do than to try again; panic= on the command line covers a dead init.
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
			os.Exit(1)
		}
	}
}
