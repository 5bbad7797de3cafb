package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// settings of the kernel that Kubernetes writes at every start and that are the whole computer's. The container gets a copy
// of each to write to, which has no effect.
func settings() []string {
	return []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}
}

const secure = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountKernel mounts the kernel's own file systems so that the container sees itself, and can change its network but not the
// computer.
func (g *guest) mountKernel() error {
	err := g.mountAll([]mount{
		{"proc", "proc", "proc", secure, ""},
		{g.in("proc/sys"), "proc/sys", "", unix.MS_BIND, ""},
		{g.in("proc/sys/net"), "proc/sys/net", "", unix.MS_BIND, ""},
		{"", "proc/sys", "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | secure, ""},
		{"sysfs", "sys", "sysfs", secure | unix.MS_RDONLY, ""},
	})
	if err != nil {
		return err
	}
	if exists(g.in("proc/sysrq-trigger")) {
		if err := unix.Mount("/dev/null", g.in("proc/sysrq-trigger"), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot cover /proc/sysrq-trigger: %v", err)
		}
	}
	if exists(g.in("sys/firmware")) { // the computer's firmware, its EFI variables among it
		if err := unix.Mount("tmpfs", g.in("sys/firmware"), "tmpfs", secure|unix.MS_RDONLY, "size=0"); err != nil {
			return fmt.Errorf("cannot hide /sys/firmware: %v", err)
		}
	}
	if err := g.hideDisks(); err != nil {
		return err
	}
	copies := map[string][]byte{"kernel/random/boot_id": bootID()}
	for _, name := range settings() {
		value, err := os.ReadFile(g.in("proc/sys/" + name))
		if err != nil {
			continue // this kernel has no such setting
		}
		copies[name] = value
	}
	for name, value := range copies {
		if err := g.cover(name, value); err != nil {
			return err
		}
	}
	return nil
}

// bootID is a new one at each start, which programs tell boots apart by.
func bootID() []byte {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return []byte(fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// cover puts a file in the place of a kernel setting.
func (g *guest) cover(name string, value []byte) error {
	file := g.in("run/roost/sysctl/" + name)
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, value, 0o644)
	}
	if err == nil {
		err = unix.Mount(file, g.in("proc/sys/"+name), "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("cannot cover /proc/sys/%s: %v", name, err)
	}
	return nil
}

// hideDisks leaves of the computer's block devices those that the container was given.
func (g *guest) hideDisks() error {
	for _, dir := range []string{"sys/block", "sys/class/block"} {
		links := map[string]string{}
		for _, name := range g.blockDevices() {
			target, err := os.Readlink(g.in(dir + "/" + name))
			if err != nil {
				return fmt.Errorf("cannot find block device %s: %v", name, err)
			}
			links[name] = target
		}
		if err := unix.Mount("tmpfs", g.in(dir), "tmpfs", secure, "mode=0755,size=64k"); err != nil {
			return fmt.Errorf("cannot hide /%s: %v", dir, err)
		}
		for name, target := range links {
			if err := os.Symlink(target, g.in(dir+"/"+name)); err != nil {
				return fmt.Errorf("cannot show block device %s: %v", name, err)
			}
		}
	}
	return nil
}

// blockDevices are the kernel's names of the block devices that the container was given.
func (g *guest) blockDevices() (names []string) {
	for _, disk := range g.hardware.Disks {
		if name, ok := strings.CutPrefix(disk.Path, "/dev/"); ok {
			names = append(names, name)
		}
	}
	return names
}

// mountCgroup makes the container's cgroup the root of all it sees.
func (g *guest) mountCgroup() error {
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cannot make a cgroup name space: %v", err)
	}
	return g.mountAll([]mount{{"cgroup2", "sys/fs/cgroup", "cgroup2", secure, ""}})
}

// makeDevices fills a /dev of the container's own. There is no /dev/kvm: what asks for it must run without. /dev/kmsg is
// null: the kernel's log is the computer's.
func (g *guest) makeDevices() error {
	if err := g.mountAll([]mount{{"tmpfs", "dev", "tmpfs", unix.MS_NOSUID, "mode=0755,size=4m"}}); err != nil {
		return err
	}
	for _, dir := range []string{"pts", "shm", "mqueue", "net", "disk/by-id"} {
		if err := os.MkdirAll(g.in("dev/"+dir), 0o755); err != nil {
			return err
		}
	}
	err := g.mountAll([]mount{
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "dev/mqueue", "mqueue", secure, ""},
	})
	if err != nil {
		return err
	}
	for _, d := range []struct {
		name         string
		major, minor uint32
		mode         uint32
	}{
		{"null", 1, 3, 0o666}, {"kmsg", 1, 3, 0o666}, {"zero", 1, 5, 0o666}, {"full", 1, 7, 0o666}, {"random", 1, 8, 0o666}, {"urandom", 1, 9, 0o666},
		{"tty", 5, 0, 0o666}, {"fuse", 10, 229, 0o666}, {"net/tun", 10, 200, 0o666},
	} {
		path := g.in("dev/" + d.name)
		if err := errors.Join(unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(d.major, d.minor))), unix.Chmod(path, d.mode)); err != nil {
			return fmt.Errorf("cannot make /dev/%s: %v", d.name, err)
		}
	}
	for name, target := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, g.in("dev/"+name)); err != nil {
			return err
		}
	}
	if err := g.makeDisks(); err != nil {
		return err
	}
	return g.makeConsole()
}

// makeDisks makes the nodes of the container's block devices, and their stable names as udev would.
func (g *guest) makeDisks() error {
	for _, disk := range g.hardware.Disks {
		name, ok := strings.CutPrefix(disk.Path, "/dev/")
		if !ok {
			continue
		}
		var stat unix.Stat_t
		err := unix.Stat(disk.Path, &stat) // the computer's node
		if err == nil {
			err = unix.Mknod(g.in("dev/"+name), unix.S_IFBLK|0o660, int(stat.Rdev))
		}
		if err == nil {
			err = os.Symlink("../../"+name, g.in(strings.TrimPrefix(disk.ID, "/")))
		}
		if err != nil {
			return fmt.Errorf("cannot make %s: %v", disk.Path, err)
		}
	}
	return nil
}

// makeConsole puts the terminal that this process was given at /dev/console.
func (g *guest) makeConsole() error {
	terminal, err := os.Readlink("/proc/self/fd/0")
	if err == nil {
		err = os.WriteFile(g.in("dev/console"), nil, 0o600)
	}
	if err == nil {
		err = unix.Mount(terminal, g.in("dev/console"), "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("cannot make /dev/console: %v", err)
	}
	return nil
}
