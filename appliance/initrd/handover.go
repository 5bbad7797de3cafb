package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openRoot opens the root image through dm-verity and mounts it with its /etc overlay and /var.
func (m *machine) openRoot() error {
	device, err := openVerity(m.root, m.args.rootHash, m.trial)
	if err != nil {
		return err
	}
	if err := unix.Mount(device, sysroot, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("cannot mount the root image: %v; its content does not match the signed root hash, or the disk fails", err)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		if err := unix.Mount(dir, sysroot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("cannot move %s into the root image: %v", dir, err)
		}
	}
	if err := m.mountState(); err != nil {
		return err
	}
	return mountEtc()
}

// mountState mounts the state partition on /var, or memory when the machine runs without a disk.
func (m *machine) mountState() error {
	if m.root.state == "" {
		err := unix.Mount("tmpfs", sysroot+"/var", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=25%")
		if err != nil {
			return fmt.Errorf("cannot mount memory on /var: %v", err)
		}
		return nil
	}
	if err := m.prepareState(); err != nil {
		return err
	}
	if err := unix.Mount(sysroot+m.root.state, sysroot+"/var", "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "commit=5"); err != nil {
		return fmt.Errorf("cannot mount the state partition %s: %v", m.root.state, err)
	}
	return nil
}

// mountEtc lays a volatile upper layer over the image's /etc and puts the machine's identity into it.
func mountEtc() error {
	layers := sysroot + "/run/roost/etc"
	for _, dir := range []string{layers + "/upper", layers + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot lay an overlay over /etc: %v", err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s/etc,upperdir=%s/upper,workdir=%s/work", sysroot, layers, layers)
	if err := unix.Mount("overlay", sysroot+"/etc", "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("cannot lay an overlay over /etc: %v", err)
	}
	return writeIdentity(sysroot)
}

// writeIdentity copies the machine id and the host name, which systemd reads before anything else runs, from the state
// partition into /etc. A machine that is not installed has neither; systemd then makes a transient machine id.
func writeIdentity(root string) error {
	for _, name := range []string{"machine-id", "hostname"} {
		b, err := os.ReadFile(filepath.Join(root, "var/lib/roost/identity", name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read the machine's identity: %v", err)
		}
		if err := os.WriteFile(filepath.Join(root, "etc", name), b, 0o444); err != nil {
			return fmt.Errorf("cannot write the machine's identity: %v", err)
		}
	}
	return nil
}

// handOver writes the boot record, makes the root image the root of the machine, and becomes systemd.
func (m *machine) handOver() error {
	if m.record.Origin == "" {
		return fmt.Errorf("cannot hand over: the boot has no origin")
	}
	m.record.Trial, m.record.Ended = m.trial, uptime()
	if err := m.record.write(sysroot + "/run/roost/boot.json"); err != nil {
		return err
	}
	m.con.step("starting the system")
	if err := deleteInitrd("/"); err != nil {
		m.con.warn("cannot free the initial RAM disk: %v", err)
	}
	m.con.dog.leave()
	m.con.dog = nil
	if err := os.Chdir(sysroot); err != nil {
		return fmt.Errorf("cannot enter the root image: %v", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot switch to the root image: %v", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot switch to the root image: %v", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("cannot switch to the root image: %v", err)
	}
	const init = "/usr/lib/systemd/systemd"
	err := unix.Exec(init, []string{init}, []string{"PATH=/usr/sbin:/usr/bin", "TERM=linux"})
	return fmt.Errorf("cannot start %s: %v", init, err)
}

// deleteInitrd frees the memory of the initial RAM disk. It stays on the file system of root.
func deleteInitrd(root string) error {
	var first error
	for _, name := range []string{"lib", "etc", "init"} {
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// exitError is a program of the root image that ended with a failure.
type exitError struct {
	program string
	code    int
	output  string
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%s failed with exit status %d: %s", filepath.Base(e.program), e.code, e.output)
}

// runInRoot runs a program of the verified root image, in it. Empty arguments are dropped.
func runInRoot(program string, args ...string) error {
	var kept []string
	for _, a := range args {
		if a != "" {
			kept = append(kept, a)
		}
	}
	null, err := os.Open(sysroot + "/dev/null") // os/exec would look for it where /dev no longer is
	if err != nil {
		return fmt.Errorf("cannot run %s: %v", program, err)
	}
	defer null.Close()
	cmd := exec.Command(program, kept...)
	cmd.Stdin = null
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: sysroot}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return &exitError{program: program, code: exit.ExitCode(), output: strings.TrimSpace(string(out))}
	}
	return fmt.Errorf("cannot run %s: %v", program, err)
}
