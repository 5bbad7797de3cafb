package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endLimit is how long killed processes may take to go.
const endLimit = 10 * time.Second

// cgroup is a container's subtree of the unified hierarchy (kernel: Documentation/admin-guide/cgroup-v2.rst). Its systemd
// sees it as the whole.
type cgroup struct{ path string }

// hierarchy finds where the unified hierarchy is mounted; empty when it is not.
func hierarchy() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("cannot find the cgroup hierarchy: %v", err)
	}
	return parseHierarchy(string(b)), nil
}

// parseHierarchy reads mountinfo (proc_pid_mountinfo(5)).
func parseHierarchy(mounts string) string {
	for _, line := range strings.Split(mounts, "\n") {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return fields[4]
		}
	}
	return ""
}

// openCgroup makes the machine's cgroup. On a computer that mounts no unified hierarchy it is mounted at private, which
// nobody else sees if the caller has mounts of its own.
func openCgroup(m *Machine, private string) (cgroup, error) {
	root, err := hierarchy()
	if err != nil {
		return cgroup{}, err
	}
	if root == "" {
		root = private
		if err := os.MkdirAll(root, 0o755); err != nil {
			return cgroup{}, fmt.Errorf("cannot make cgroup of %s: %v", m.Name, err)
		}
		if err := unix.Mount("cgroup2", root, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return cgroup{}, fmt.Errorf("cannot mount the unified cgroup hierarchy: %v", err)
		}
	}
	c := cgroupOf(m, root)
	if err := c.remove(); err != nil {
		return cgroup{}, err
	}
	if err := os.MkdirAll(c.path, 0o755); err != nil {
		return cgroup{}, fmt.Errorf("cannot make cgroup of %s: %v", m.Name, err)
	}
	delegate(root)
	delegate(filepath.Dir(c.path))
	return c, nil
}

func cgroupOf(m *Machine, root string) cgroup {
	return cgroup{filepath.Join(root, "roost-"+m.lab.name, m.Name)}
}

// delegate offers every controller to the children, one by one: some may be in use by the older hierarchies, and a cgroup
// with processes of its own can offer none. What is not offered is missing in the container, and systemd lives with that.
func delegate(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, controller := range strings.Fields(string(b)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
}

// remove kills what is left in the cgroup and removes it with all below.
func (c cgroup) remove() error {
	if _, err := os.Stat(c.path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot end the processes in %s: %v", c.path, err)
	}
	if err := c.awaitEmpty(endLimit); err != nil {
		return err
	}
	return removeTree(c.path)
}

// awaitEmpty waits until no process is left: cgroup.events tells changes by POLLPRI.
func (c cgroup) awaitEmpty(limit time.Duration) error {
	f, err := os.Open(filepath.Join(c.path, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("cannot watch %s: %v", c.path, err)
	}
	defer f.Close()
	buf := make([]byte, 256)
	for deadline := time.Now().Add(limit); ; {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return fmt.Errorf("cannot watch %s: %v", c.path, err)
		}
		if bytes.Contains(buf[:n], []byte("populated 0")) {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("cannot end the processes in %s within %s", c.path, limit)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("cannot watch %s: %v", c.path, err)
		}
	}
}

// removeCgroups removes the cgroup that a lab's containers were in.
func removeCgroups(lab string) error {
	root, err := hierarchy()
	if err != nil || root == "" {
		return err
	}
	return cgroup{filepath.Join(root, "roost-"+lab)}.remove()
}

// removeTree removes cgroups from the leaves up. Their files are no files and go by themselves.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot remove cgroup %s: %v", dir, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil {
		return fmt.Errorf("cannot remove cgroup %s: %v", dir, err)
	}
	return nil
}
