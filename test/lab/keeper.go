package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names under which this program starts itself: they are its first argument.
const (
	keeperName  = "roost-lab-keeper"
	initName    = "roost-lab-init"
	visitorName = "roost-lab-visitor"
)

// Helper does the part of a container's life that needs a process of its own, when args, those of this process, ask for one.
// A program that makes containers calls it first and, when done is true, exits with the status.
func Helper(args []string) (status int, done bool) {
	if len(args) < 2 {
		return 0, false
	}
	if isRuntime(args) {
		fmt.Fprintln(os.Stderr, "roost:", runRuntime(args)) // it returns only when it failed
		return 1, true
	}
	var err error
	switch args[0] {
	case keeperName:
		err = keep(args[1], os.NewFile(3, "ready"))
	case initName:
		err = begin(args[1], os.NewFile(3, "facts"), os.NewFile(4, "trouble"))
	case visitorName:
		status, err = visit(args[1], args[2:])
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "roost:", err)
		return 1, true
	}
	return status, true
}

// keeper holds one container while it is on.
type keeper struct {
	container
	cgroup  cgroup
	console *terminal
	disks   []loop
	orders  chan os.Signal
}

// keep is the keeper's main: it runs the container, again after each reboot, until it powers itself off or is told to end.
// ready is closed when the container is under way; what is written to it before is why it is not.
func keep(dir string, ready *os.File) error {
	runtime.LockOSThread() // the container lives as long as the thread that started it
	k, err := openKeeper(dir)
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	defer k.close()
	for {
		again, err := k.run(ready)
		if err != nil {
			fmt.Fprint(ready, err) // nobody reads it any more when this was a reboot
			return err
		}
		if !again {
			return nil
		}
	}
}

// openKeeper takes hold of what outlives a reboot: terminal, disks, cgroup.
func openKeeper(dir string) (k *keeper, err error) {
	m, err := readMachine(dir)
	if err != nil {
		return nil, err
	}
	k = &keeper{container: container{m}, orders: make(chan os.Signal, 4)}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	signal.Notify(k.orders, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	if err := os.WriteFile(m.pidPath(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return k, err
	}
	if k.console, err = openTerminal(m.consolePath(), m.ConsoleLog()); err != nil {
		return k, err
	}
	for n := range m.Disks {
		d, err := attachLoop(m.dataPath(n), m.diskName(n))
		if err != nil {
			return k, err
		}
		k.disks = append(k.disks, d)
	}
	k.cgroup, err = openCgroup(m, m.cgroupMountPath())
	return k, err
}

// close leaves nothing behind.
func (k *keeper) close() {
	if k.cgroup.path != "" {
		if err := k.cgroup.remove(); err != nil {
			fmt.Fprintln(os.Stderr, "roost:", err)
		}
	}
	for _, d := range k.disks {
		d.file.Close()
	}
	if k.console != nil {
		k.console.close()
	}
	os.Remove(k.initPath())
	os.Remove(k.pidPath())
}

// run is one boot. again asks for another.
func (k *keeper) run(ready *os.File) (again bool, err error) {
	cmd, err := k.launch()
	if err != nil {
		return false, err
	}
	ended := make(chan *os.ProcessState, 1)
	go func() {
		_ = cmd.Wait() // the state tells how it ended
		ended <- cmd.ProcessState
	}()
	ready.Close()
	defer os.Remove(k.initPath())
	for reset := false; ; {
		select {
		case state := <-ended:
			if err := k.cgroup.awaitEmpty(endLimit); err != nil {
				return false, err
			}
			return reset || restarted(state), nil
		case order := <-k.orders:
			how := syscall.SIGKILL
			if order == syscall.SIGUSR1 {
				how = powerButton
			}
			reset = order == syscall.SIGHUP
			if err := cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return false, err
			}
		}
	}
}

// restarted reports whether a namespace's first process ended because it asked the kernel for a restart (reboot(2)).
func restarted(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGHUP
}

// powerButton asks systemd to power off: SIGRTMIN+4 (systemd(1)).
const powerButton = syscall.Signal(34 + 4)

// launch starts the first process of the container in namespaces of its own and plugs in its cable.
func (k *keeper) launch() (*exec.Cmd, error) {
	factsIn, factsOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer factsOut.Close()
	troubleIn, troubleOut, err := os.Pipe()
	if err != nil {
		factsIn.Close()
		return nil, err
	}
	defer troubleIn.Close()
	cmd, err := k.clone(factsIn, troubleOut)
	factsIn.Close()
	troubleOut.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot make namespaces: %v", err)
	}
	trouble, err := k.furnish(cmd.Process.Pid, factsOut, troubleIn)
	if err == nil && len(trouble) > 0 {
		err = errors.New(string(trouble))
	}
	if err != nil {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
		return nil, err
	}
	return cmd, nil
}

func (k *keeper) clone(facts, trouble *os.File) (*exec.Cmd, error) {
	group, err := os.Open(k.cgroup.path)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName, k.dir}
	cmd.Env = []string{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = k.console.slave, k.console.slave, k.console.slave
	cmd.ExtraFiles = []*os.File{facts, trouble}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
		UseCgroupFD: true, CgroupFD: int(group.Fd()),
		Setsid: true, Pdeathsig: syscall.SIGKILL,
	}
	return cmd, cmd.Start()
}

// furnish plugs the cable in, tells the first process what it has, and waits until it got so far that only the site can
// keep it waiting. What it says until then is why it cannot go on.
func (k *keeper) furnish(pid int, facts io.Writer, trouble io.Reader) ([]byte, error) {
	if err := plug(k.portName(), k.MAC(), pid); err != nil {
		return nil, err
	}
	hardware := k.hardware()
	for n, d := range k.disks {
		hardware.Disks = append(hardware.Disks, d.describe(k.Disks[n]))
	}
	if err := json.NewEncoder(facts).Encode(hardware); err != nil {
		return nil, fmt.Errorf("cannot tell the container what it has: %v", err)
	}
	said, err := io.ReadAll(trouble)
	if err != nil || len(said) > 0 {
		return said, err
	}
	return nil, os.WriteFile(k.initPath(), []byte(strconv.Itoa(pid)+"\n"), 0o600)
}

const guestNIC = "eth0" // in the container

// plug makes a pair of virtual network cards: one a port of the lab's bridge, one in the namespace of process pid.
func plug(port, mac string, pid int) error {
	address, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("cannot find bridge %s: %v", bridgeName, err)
	}
	if old, err := netlink.LinkByName(port); err == nil { // the kernel takes its time to remove those of an ended namespace
		if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("cannot unplug %s: %v", port, err)
		}
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MTU: mtu, MasterIndex: bridge.Attrs().Index},
		PeerName:  guestNIC, PeerHardwareAddr: address, PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("cannot make network cards %s: %v", port, err)
	}
	return raise(port)
}

// readMachine reads a machine by its directory.
func readMachine(dir string) (*Machine, error) {
	spec, err := os.ReadFile(filepath.Join(dir, "machine.json"))
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: filepath.Dir(dir)}
	name, err := os.ReadFile(filepath.Join(l.dir, "name"))
	if err != nil {
		return nil, fmt.Errorf("cannot tell the lab of %s: %v", dir, err)
	}
	l.name = string(name)
	m := &Machine{lab: l, dir: dir}
	return m, json.Unmarshal(spec, &m.Spec)
}
