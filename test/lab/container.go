package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"roost/appliance/api"
	"roost/images"
	"roost/images/depot"
	"roost/images/rootfs"
)

// container is a machine as systemd in namespaces of its own. A process of ours, the keeper, is its power supply: when the
// keeper ends, however it ends, so does the container, and with it its mounts, devices and links, all of which only its
// namespaces hold.
type container struct{ *Machine }

// Root is a release's root image, unpacked and checked, for containers to run.
type Root struct {
	Image    string        `json:"image,omitempty"` // EROFS file
	RootHash string        `json:"rootHash,omitempty"`
	Release  images.Digest `json:"release,omitempty"` // manifest
}

// The files of a container, in its directory.
func (m *Machine) statePath() string       { return filepath.Join(m.dir, "var") }
func (m *Machine) initPath() string        { return filepath.Join(m.dir, "init.pid") }
func (m *Machine) dataPath(n int) string   { return filepath.Join(m.dir, fmt.Sprintf("disk%d.raw", n+1)) }
func (m *Machine) mountPath() string       { return filepath.Join(m.dir, "root") }
func (m *Machine) cgroupMountPath() string { return filepath.Join(m.dir, "cgroup") }
func (m *Machine) diskName(n int) string {
	return fmt.Sprintf("roost-%s-%s-disk%d", m.lab.name, m.Name, n+1)
}
func (l *Lab) imagePath(hash string) string { return filepath.Join(l.dir, "images", hash+".erofs") }

// Unpack makes a release's root image ready for containers: decompressed, and judged block by block by its root hash. An
// image that is there already is used as it is.
func (l *Lab) Unpack(ctx context.Context, r *depot.Release) (Root, error) {
	hash := r.Document.RootHash
	root := Root{Image: l.imagePath(hash), RootHash: hash, Release: r.Manifest.Digest}
	if exists(root.Image) {
		return root, nil
	}
	if err := os.MkdirAll(filepath.Dir(root.Image), 0o700); err != nil {
		return Root{}, fmt.Errorf("cannot unpack release %s: %v", r.Document.Version, err)
	}
	data, err := unpackPart(ctx, r, images.KindRoot, root.Image+".new")
	if err != nil {
		return Root{}, err
	}
	defer os.Remove(data.Name())
	defer data.Close()
	verity, err := unpackPart(ctx, r, images.KindVerity, root.Image+".verity")
	if err != nil {
		return Root{}, err
	}
	defer os.Remove(verity.Name())
	defer verity.Close()
	if err := rootfs.Verify(ctx, data, verity, hash); err != nil {
		return Root{}, fmt.Errorf("cannot use release %s: %v", r.Document.Version, err)
	}
	return root, os.Rename(data.Name(), root.Image)
}

func unpackPart(ctx context.Context, r *depot.Release, kind images.Kind, path string) (*os.File, error) {
	content, _, err := r.Content(ctx, kind)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack release %s: %v", r.Document.Version, err)
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot unpack release %s: %w", r.Document.Version, err)
	}
	return f, nil
}

// create makes the directory that is the container's /var, and its block devices as sparse files.
func (c container) create() error {
	if c.Root.Image == "" {
		return fmt.Errorf("cannot create container %s: it has no root image", c.Name)
	}
	for _, dir := range []string{c.statePath(), c.mountPath()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot create container %s: %v", c.Name, err)
		}
	}
	return c.createDisks()
}

// createDisks makes the further disks of a machine, as sparse files.
func (m *Machine) createDisks() error {
	for n, size := range m.Disks {
		f, err := os.OpenFile(m.dataPath(n), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("cannot create disk %d of %s: %v", n+1, m.Name, err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			return fmt.Errorf("cannot size disk %d of %s: %v", n+1, m.Name, err)
		}
	}
	return nil
}

// hardware is what the container is told to have.
func (c container) hardware() *api.Inventory {
	i := &api.Inventory{Schema: 1}
	i.System.Vendor, i.System.Product = "Roost", "Lab container"
	i.System.Serial, i.System.UUID = c.lab.name+"-"+c.Name, c.UUID()
	i.Firmware.Kind, i.Firmware.SecureBoot = "container", "unsupported"
	i.NICs = []api.NIC{{Name: guestNIC, MAC: c.MAC(), Driver: "veth", Carrier: true, NUMA: -1}}
	i.Disks = []api.Disk{{Path: "/var", Size: c.Disk, Sector: 512, Bus: "container"}}
	return i
}

// start starts the keeper and returns when the container's own first process is under way, or could not be started.
func (c container) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(c.dir, "keeper.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot power on %s: %v", c.Name, err)
	}
	defer log.Close()
	told, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot power on %s: %v", c.Name, err)
	}
	defer told.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{keeperName, c.dir}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	err = c.lab.network.do(cmd.Start)
	tell.Close()
	if err != nil {
		return fmt.Errorf("cannot power on %s: %v", c.Name, err)
	}
	go cmd.Wait() // reaps the keeper, should it end before this process
	stop := context.AfterFunc(ctx, func() { told.Close() })
	defer stop()
	trouble, err := io.ReadAll(told)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("cannot power on %s: %v", c.Name, err)
	case len(trouble) > 0:
		return fmt.Errorf("cannot power on %s: %s", c.Name, trouble)
	}
	return nil
}

// stop ends the keeper; one that does not listen is killed, and the container with it.
func (c container) stop(pid int) error {
	if err := end(pid, syscall.SIGTERM); err == nil {
		return nil
	}
	return end(pid, syscall.SIGKILL)
}

func (c container) reset(context.Context) error    { return c.signal(syscall.SIGHUP) }
func (c container) shutdown(context.Context) error { return c.signal(syscall.SIGUSR1) }

func (c container) signal(s syscall.Signal) error {
	pid := c.pid()
	if pid == 0 {
		return fmt.Errorf("cannot reach %s: it is off", c.Name)
	}
	return syscall.Kill(pid, s)
}

// clear removes the cgroup, all that a killed keeper can leave.
func (c container) clear() error {
	root, err := hierarchy()
	if err != nil || root == "" {
		return err
	}
	if err := cgroupOf(c.Machine, root).remove(); err != nil {
		return err
	}
	return os.RemoveAll(c.initPath())
}

// Command prepares a command that will run inside a running container, as root there.
func (m *Machine) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	if m.Kind != Container {
		return nil, fmt.Errorf("cannot run a command in %s: only containers can be entered; use ssh, or the console", m.Name)
	}
	if m.pid() == 0 || m.initPID() == 0 {
		return nil, fmt.Errorf("cannot run a command in %s: it is off", m.Name)
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{visitorName, strconv.Itoa(m.initPID())}, argv...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends what it started inside
	return cmd, nil
}

// initPID is the container's first process, as this computer numbers it.
func (m *Machine) initPID() int {
	b, err := os.ReadFile(m.initPath())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}
