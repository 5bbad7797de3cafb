package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// visit runs a command in the namespaces and the cgroup of process pid, and returns its exit status.
func visit(pid string, argv []string) (int, error) {
	runtime.LockOSThread()
	if len(argv) == 0 {
		return 2, errors.New("cannot run a command in the container: none is given")
	}
	if err := enterCgroup(pid); err != nil {
		return 1, err
	}
	if err := enterNamespaces(pid); err != nil {
		return 1, err
	}
	if err := os.Setenv("PATH", "/usr/sbin:/usr/bin"); err != nil {
		return 1, err
	}
	// Not Pdeathsig: os/exec would take the container's numbers of processes for a parent that is gone.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=" + os.Getenv("TERM"), "container=roost"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	if err != nil {
		return 1, fmt.Errorf("cannot run %s in the container: %v", argv[0], err)
	}
	return 0, nil
}

// enterCgroup moves this process to where the container's systemd is.
func enterCgroup(pid string) error {
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return fmt.Errorf("cannot enter the container: %v", err)
	}
	root, err := hierarchy()
	if err != nil || root == "" {
		return err // the keeper has the hierarchy for itself
	}
	for _, line := range strings.Split(string(b), "\n") {
		path, ok := strings.CutPrefix(line, "0::")
		if !ok {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, path, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("cannot enter the container's cgroup: %v", err)
		}
	}
	return nil
}

func enterNamespaces(pid string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread that shares its root cannot change mounts
		return fmt.Errorf("cannot enter the container: %v", err)
	}
	var open []*os.File
	for _, name := range []string{"ipc", "uts", "net", "cgroup", "pid", "mnt"} {
		f, err := os.Open("/proc/" + pid + "/ns/" + name)
		if err != nil {
			return fmt.Errorf("cannot enter the container: %v", err)
		}
		defer f.Close()
		open = append(open, f)
	}
	for _, f := range open {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("cannot enter the container: %s: %v", f.Name(), err)
		}
	}
	return nil
}
