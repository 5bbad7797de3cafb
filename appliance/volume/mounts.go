package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	device uint64 // of the file system
	root   string // what of the file system is mounted
	point  string
	kind   string
	source string
}

// mounts lists what is mounted, oldest first.
func mounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot see what is mounted: %w", err)
	}
	return parseMounts(string(b)), nil
}

// parseMounts reads mountinfo; lines that are none are left out.
func parseMounts(text string) (list []mount) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		dash := 6 // the first place after the optional fields
		for dash < len(fields) && fields[dash] != "-" {
			dash++
		}
		if dash+2 >= len(fields) {
			continue
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		a, err1 := strconv.ParseUint(major, 10, 32)
		b, err2 := strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		list = append(list, mount{
			device: unix.Mkdev(uint32(a), uint32(b)), root: unescape(fields[3]), point: unescape(fields[4]),
			kind: fields[dash+1], source: unescape(fields[dash+2]),
		})
	}
	return list
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountedAt finds what is mounted on a path, uppermost first. The path need not answer, as one of a dead file system does not.
func mountedAt(point string) (*mount, error) {
	list, err := mounts()
	if err != nil {
		return nil, err
	}
	point = settle(point)
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].point == point {
			return &list[i], nil
		}
	}
	return nil, nil
}

// settle resolves links in all of a path but its last part.
func settle(path string) string {
	path = filepath.Clean(path)
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// deviceNumber is the number of a block device.
func deviceNumber(path string) (uint64, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, fmt.Errorf("cannot use device %s: %w", path, err)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, fmt.Errorf("cannot use device %s: it is no block device", path)
	}
	return s.Rdev, nil
}

// holds reports whether m shows a block device: its file system, or its node.
func (m *mount) holds(device string, number uint64) bool {
	return m.device == number || m.kind == "devtmpfs" && m.root == strings.TrimPrefix(device, "/dev")
}

// mountDevice mounts a file system.
func mountDevice(device, kind, point string, readOnly bool, options []string) error {
	if readOnly {
		options = append(options, "ro")
	}
	args := []string{"-t", kind}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	return call("mount", append(args, device, point)...)
}

// bind shows at a path what is at another: a directory, or the node of a device.
func bind(from, to string, readOnly bool) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount %s at %s: %w", from, to, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(fmt.Errorf("cannot mount %s read-only: %w", to, err), unmount(to))
	}
	return nil
}

// unmount takes away all that is mounted on a path.
func unmount(point string) error {
	for {
		m, err := mountedAt(point)
		if err != nil || m == nil {
			return err
		}
		if err := unix.Unmount(m.point, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("cannot unmount %s: %w", point, err)
		}
	}
}

// discardPoint unmounts a path and removes it.
func discardPoint(point string) error {
	if err := unmount(point); err != nil {
		return err
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot unmount: %w", err)
	}
	return nil
}

// call runs a program of the image; the error has its words.
func call(program string, args ...string) error {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w: %s", program, args[len(args)-1], err, strings.TrimSpace(string(out)))
	}
	return nil
}
