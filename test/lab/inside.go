package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"roost/appliance/api"
)

// bootRecord is /run/roost/boot.json, as the initrd writes it on a machine that has one.
type bootRecord struct {
	Origin     string          `json:"origin"` // container
	RootHash   string          `json:"rootHash"`
	Release    string          `json:"release,omitempty"`
	Interface  string          `json:"interface"`
	MAC        string          `json:"mac"`
	Address    string          `json:"address,omitempty"` // with prefix length
	BootServer string          `json:"bootServer,omitempty"`
	Site       json.RawMessage `json:"site,omitempty"`
	Hardware   *api.Inventory  `json:"hardware"`
}

// guest is the first process of a container on its way to become systemd. It does what the initrd does on a machine.
type guest struct {
	*Machine
	root     string // where the container's root is being put together
	hardware *api.Inventory
}

// begin is the main of a container's first process. It returns only when something failed.
func begin(dir string, facts io.Reader, trouble io.WriteCloser) error {
	runtime.LockOSThread() // name space of cgroups, capabilities: they belong to threads
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	g, err := newGuest(dir, facts)
	if err == nil {
		err = g.assemble()
	}
	if err != nil {
		fmt.Fprint(trouble, err)
		return err
	}
	trouble.Close()
	if err := g.join(); err != nil {
		return err
	}
	if err := g.enter(); err != nil {
		return err
	}
	return becomeSystemd()
}

func newGuest(dir string, facts io.Reader) (*guest, error) {
	m, err := readMachine(dir)
	if err != nil {
		return nil, err
	}
	g := &guest{Machine: m, root: m.mountPath(), hardware: &api.Inventory{}}
	if err := json.NewDecoder(facts).Decode(g.hardware); err != nil {
		return nil, fmt.Errorf("cannot hear what the machine has: %v", err) // the keeper is gone
	}
	return g, nil
}

func (g *guest) in(name string) string { return filepath.Join(g.root, name) }

// assemble puts the root together, outside in.
func (g *guest) assemble() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot keep mounts to itself: %v", err)
	}
	if err := unix.Sethostname([]byte("(none)")); err != nil { // as a kernel that just started; else it is the computer's
		return fmt.Errorf("cannot forget the host name: %v", err)
	}
	for _, step := range []func() error{g.mountRoot, g.mountState, g.mountEtc, g.mountKernel, g.mountCgroup, g.makeDevices, g.coverRuntime} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mountRoot mounts the root image, straight from its file where the kernel can (since 6.12), else through a loop device.
func (g *guest) mountRoot() error {
	err := unix.Mount(g.Root.Image, g.root, "erofs", unix.MS_RDONLY|unix.MS_NODEV, "")
	if errors.Is(err, unix.ENOTBLK) {
		var d loop
		if d, err = attachLoop(g.Root.Image, ""); err == nil {
			err = unix.Mount(d.file.Name(), g.root, "erofs", unix.MS_RDONLY|unix.MS_NODEV, "")
			d.file.Close() // the mount holds it now
		}
	}
	if err != nil {
		return fmt.Errorf("cannot mount root image %s: %v", g.Root.Image, err)
	}
	return nil
}

func (g *guest) mountState() error {
	if err := unix.Mount(g.statePath(), g.in("var"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount %s on /var: %v", g.statePath(), err)
	}
	if err := unix.Mount("", g.in("var"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("cannot mount %s on /var: %v", g.statePath(), err)
	}
	if err := unix.Mount("tmpfs", g.in("run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=20%"); err != nil {
		return fmt.Errorf("cannot mount memory on /run: %v", err)
	}
	return nil
}

// mountEtc lays a volatile upper layer over the image's /etc and puts the machine's identity into it.
func (g *guest) mountEtc() error {
	layers := g.in("run/roost/etc")
	for _, dir := range []string{layers + "/upper", layers + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot lay an overlay over /etc: %v", err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", g.in("etc"), layers, layers)
	if err := unix.Mount("overlay", g.in("etc"), "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("cannot lay an overlay over /etc: %v", err)
	}
	for _, name := range []string{"machine-id", "hostname"} {
		b, err := os.ReadFile(g.in("var/lib/roost/identity/" + name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(g.in("etc/"+name), b, 0o444)
		}
		if err != nil {
			return fmt.Errorf("cannot write the machine's identity: %v", err)
		}
	}
	return nil
}

// mount is one entry of a table of mounts.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (g *guest) mountAll(table []mount) error {
	for _, m := range table {
		if err := unix.Mount(m.source, g.in(m.target), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("cannot mount /%s: %v", m.target, err)
		}
	}
	return nil
}

// enter leaves the computer's file systems for the container's root and gives up what reaches past it.
func (g *guest) enter() error {
	if err := unix.Chdir(g.root); err != nil {
		return fmt.Errorf("cannot enter the root: %v", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot enter the root: %v", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot leave the computer's root: %v", err)
	}
	// Pods mount for each other; systemd shares mounts itself only where it is not in a container.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("cannot share mounts inside: %v", err)
	}
	for _, capability := range []uintptr{
		unix.CAP_SYS_MODULE, unix.CAP_SYS_TIME, unix.CAP_SYS_RAWIO, unix.CAP_WAKE_ALARM, unix.CAP_BLOCK_SUSPEND, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE,
	} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot give up capability %d: %v", capability, err)
		}
	}
	return nil
}

func becomeSystemd() error {
	unix.Umask(0o022)
	const init = "/usr/lib/systemd/systemd"
	err := unix.Exec(init, []string{init}, []string{"PATH=/usr/sbin:/usr/bin", "TERM=linux", "container=roost"})
	return fmt.Errorf("cannot start %s: %v", init, err)
}
