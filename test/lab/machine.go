package lab

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Kind is how a machine runs.
type Kind string

// The kinds of machine.
const (
	VirtualMachine Kind = "vm"        // QEMU: firmware, a kernel of its own, a disk
	Container      Kind = "container" // systemd of a release on the kernel of this computer, at native speed
)

// Spec says what a machine is made of. The zero value of a field takes the default. Containers use Name, Kind, Disk (which
// they only name as their size), Disks and Root; virtual machines all but Root.
type Spec struct {
	Name     string `json:"name"`
	Kind     Kind   `json:"kind"`            // VirtualMachine (default) or Container
	Memory   int64  `json:"memory"`          // bytes; default 2 GiB
	CPUs     int    `json:"cpus"`            // default 2
	Disk     int64  `json:"disk"`            // bytes of the (sparse) disk; default 32 GiB; negative means none
	DiskKind string `json:"diskKind"`        // virtio (default), nvme, sata, usb
	NIC      string `json:"nic"`             // virtio-net-pci (default), e1000e (which OVMF cannot boot from)
	WriteLog bool   `json:"writeLog"`        // the disk can be recorded, see Machine.Record; virtio only
	Image    string `json:"image,omitempty"` // raw disk image to start from instead of an empty disk
	Vars     string `json:"vars,omitempty"`  // variable store of UEFI firmware to start from, keys included
	CDROM    string `json:"cdrom,omitempty"` // ISO image in the drive
	BIOS     bool   `json:"bios,omitempty"`  // legacy firmware instead of UEFI, for machines that only discovery supports

	Root  Root    `json:"root"`            // what a container runs, from Lab.Unpack
	Disks []int64 `json:"disks,omitempty"` // bytes of each further disk; a virtual machine's are virtio with serial NAME-diskN
}

func (s Spec) withDefaults() Spec {
	if s.Kind == "" {
		s.Kind = VirtualMachine
	}
	if s.Memory == 0 {
		s.Memory = 2 << 30
	}
	if s.CPUs == 0 {
		s.CPUs = 2
	}
	if s.Disk == 0 {
		s.Disk = 32 << 30
	}
	if s.DiskKind == "" {
		s.DiskKind = "virtio"
	}
	if s.NIC == "" {
		s.NIC = "virtio-net-pci"
	}
	return s
}

// Machine is one machine of a lab.
type Machine struct {
	Spec
	lab *Lab
	dir string
}

// Paths of a machine's files.
func (m *Machine) DiskPath() string    { return filepath.Join(m.dir, "disk.raw") }
func (m *Machine) ConsoleLog() string  { return filepath.Join(m.dir, "console.log") }
func (m *Machine) varsPath() string    { return filepath.Join(m.dir, "vars.fd") }
func (m *Machine) consolePath() string { return filepath.Join(m.dir, "console.sock") }
func (m *Machine) controlPath() string { return filepath.Join(m.dir, "control.sock") }
func (m *Machine) pidPath() string     { return filepath.Join(m.dir, "pid") }

// portName is the machine's port on the bridge.
func (m *Machine) portName() string {
	if m.Kind == Container {
		return "veth-" + m.Name
	}
	return "tap-" + m.Name
}

// MAC is the machine's hardware address: locally administered, derived from the names of lab and machine.
func (m *Machine) MAC() string {
	sum := sha256.Sum256([]byte(m.lab.name + "/" + m.Name))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}.String()
}

// UUID is the machine's SMBIOS UUID.
func (m *Machine) UUID() string {
	sum := sha256.Sum256([]byte("uuid/" + m.lab.name + "/" + m.Name))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// hull is how a machine of one kind is made and moved.
type hull interface {
	create() error
	start(context.Context) error
	stop(pid int) error
	reset(context.Context) error
	shutdown(context.Context) error
	clear() error // what a crash may have left; the machine is off
}

func (m *Machine) hull() hull {
	if m.Kind == Container {
		return container{m}
	}
	return vm{m}
}

// create writes the machine's files; what exists is kept.
func (m *Machine) create() error {
	if diskDevices[m.DiskKind] == "" {
		return fmt.Errorf("cannot create machine %s: no disk is of kind %q", m.Name, m.DiskKind)
	}
	if m.WriteLog && (m.Kind == Container || m.DiskKind != "virtio") {
		return fmt.Errorf("cannot create machine %s: only a virtio disk can be recorded", m.Name)
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("cannot create machine %s: %v", m.Name, err)
	}
	return m.hull().create()
}

// PowerOn starts the machine; a running machine is left alone.
func (m *Machine) PowerOn(ctx context.Context) error {
	if m.Running() {
		return nil
	}
	return m.hull().start(ctx)
}

// Running reports whether the machine's process is there.
func (m *Machine) Running() bool {
	pid := m.pid()
	return pid > 0 && syscall.Kill(pid, 0) == nil
}

func (m *Machine) pid() int {
	b, err := os.ReadFile(m.pidPath())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	// A number alone may by now belong to somebody else.
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(name), m.dir) {
		return 0
	}
	return pid
}

// PowerOff takes the power away at once, as pulling the plug does, and waits until the machine is gone.
func (m *Machine) PowerOff() error {
	if pid := m.pid(); pid != 0 {
		if err := m.hull().stop(pid); err != nil {
			return fmt.Errorf("cannot power off %s: %v", m.Name, err)
		}
	}
	if err := m.hull().clear(); err != nil {
		return fmt.Errorf("cannot power off %s: %v", m.Name, err)
	}
	return os.RemoveAll(m.pidPath())
}

// Remove powers the machine off and removes it from the lab with its disk.
func (m *Machine) Remove() error {
	if err := m.PowerOff(); err != nil {
		return err
	}
	if err := m.lab.network.unplug(m.portName()); err != nil {
		return err
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("cannot remove machine %s: %v", m.Name, err)
	}
	return nil
}

// end sends a signal to a process and waits until it is gone.
func end(pid int, signal syscall.Signal) error {
	fd, err := pidfdOpen(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return awaitExit(fd, 10*time.Second)
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.hull().reset(ctx) }

// Shutdown presses the power button: the operating system is asked to shut down.
func (m *Machine) Shutdown(ctx context.Context) error { return m.hull().shutdown(ctx) }

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// SetCable plugs the network cable in or pulls it.
func (m *Machine) SetCable(in bool) error { return m.lab.network.setLink(m.portName(), in) }

// Console connects a terminal to the serial console until ctx ends, in is closed, or the machine powers off.
func (m *Machine) Console(ctx context.Context, in io.Reader, out io.Writer) error {
	conn, err := net.Dial("unix", m.consolePath())
	if err != nil {
		return fmt.Errorf("cannot connect to the console of %s: %v; is the machine on?", m.Name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		if _, err := io.Copy(conn, in); err == nil {
			conn.Close() // end of input: detach
		}
	}()
	_, err = io.Copy(out, conn)
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (m *Machine) save() error {
	b, err := json.MarshalIndent(m.Spec, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.dir, "machine.json"), append(b, '\n'), 0o600)
}
