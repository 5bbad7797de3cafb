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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Spec says what a machine is made of. The zero value of a field takes the default.
type Spec struct {
	Name     string `json:"name"`
	Memory   int64  `json:"memory"`          // bytes; default 2 GiB
	CPUs     int    `json:"cpus"`            // default 2
	Disk     int64  `json:"disk"`            // bytes of the (sparse) disk; default 32 GiB; negative means none
	DiskKind string `json:"diskKind"`        // virtio (default), nvme, sata
	NIC      string `json:"nic"`             // virtio-net-pci (default), e1000e
	WriteLog bool   `json:"writeLog"`        // record every write to the disk in writes.log (QEMU blklogwrites)
	Image    string `json:"image,omitempty"` // raw disk image to start from instead of an empty disk
	CDROM    string `json:"cdrom,omitempty"` // ISO image in the drive
	BIOS     bool   `json:"bios,omitempty"`  // legacy firmware instead of UEFI, for machines that only discovery supports
}

func (s Spec) withDefaults() Spec {
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

// Machine is one virtual machine of a lab.
type Machine struct {
	Spec
	lab *Lab
	dir string
}

// Paths of a machine's files.
func (m *Machine) DiskPath() string    { return filepath.Join(m.dir, "disk.raw") }
func (m *Machine) ConsoleLog() string  { return filepath.Join(m.dir, "console.log") }
func (m *Machine) WritesPath() string  { return filepath.Join(m.dir, "writes.log") }
func (m *Machine) varsPath() string    { return filepath.Join(m.dir, "vars.fd") }
func (m *Machine) consolePath() string { return filepath.Join(m.dir, "console.sock") }
func (m *Machine) controlPath() string { return filepath.Join(m.dir, "control.sock") }
func (m *Machine) pidPath() string     { return filepath.Join(m.dir, "pid") }
func (m *Machine) tapName() string     { return "tap-" + m.Name }

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

// create writes the machine's files; what exists is kept.
func (m *Machine) create() error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("cannot create machine %s: %v", m.Name, err)
	}
	if err := m.createVars(); err != nil {
		return err
	}
	if m.Disk > 0 {
		if err := m.createDisk(); err != nil {
			return err
		}
	}
	return m.lab.network.tap(m.tapName())
}

func (m *Machine) createVars() error {
	if _, err := os.Stat(m.varsPath()); err == nil || m.BIOS {
		return nil
	}
	template, err := os.ReadFile(m.lab.firmware.vars)
	if err != nil {
		return fmt.Errorf("cannot read the firmware's variable store: %v", err)
	}
	if k := m.lab.SecureBoot; k != nil {
		if template, err = enrol(template, k.PK, k.KEK, k.DB); err != nil {
			return err
		}
	}
	if err := os.WriteFile(m.varsPath(), template, 0o600); err != nil {
		return fmt.Errorf("cannot write the variable store of %s: %v", m.Name, err)
	}
	return nil
}

func (m *Machine) createDisk() error {
	if _, err := os.Stat(m.DiskPath()); err == nil {
		return nil
	}
	if m.Image != "" {
		out, err := exec.Command("cp", "--sparse=always", m.Image, m.DiskPath()).CombinedOutput()
		if err != nil {
			return fmt.Errorf("cannot copy the disk image of %s: %v: %s", m.Name, err, out)
		}
	}
	f, err := os.OpenFile(m.DiskPath(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot create the disk of %s: %v", m.Name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() >= m.Disk {
		return nil
	}
	if err := f.Truncate(m.Disk); err != nil {
		return fmt.Errorf("cannot size the disk of %s: %v", m.Name, err)
	}
	return nil
}

// PowerOn starts the machine; a running machine is left alone.
func (m *Machine) PowerOn(ctx context.Context) error {
	if m.Running() {
		return nil
	}
	args := m.arguments()
	log, err := os.OpenFile(filepath.Join(m.dir, "qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot power on %s: %v", m.Name, err)
	}
	defer log.Close()
	err = m.lab.network.do(func() error {
		cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd.Run() // with -daemonize, returns once the machine's sockets are there
	})
	if err != nil {
		tail, _ := os.ReadFile(log.Name())
		return fmt.Errorf("cannot power on %s: %v: %s", m.Name, err, lastLine(tail))
	}
	return nil
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// arguments is QEMU's command line. The boot order is left to the firmware: bootindex would rewrite BootOrder at every
// start. The network card carries no option ROM, because QEMU's iPXE would hide the firmware's own PXE.
func (m *Machine) arguments() []string {
	a := []string{
		"-name", m.lab.name + "-" + m.Name, "-uuid", m.UUID(),
		"-machine", "q35,smm=on,usb=off,hpet=off", "-cpu", m.lab.accel.cpu, "-smp", strconv.Itoa(m.CPUs), "-m", strconv.FormatInt(m.Memory>>20, 10),
		"-nodefaults", "-display", "none", "-vga", "none", "-daemonize", "-pidfile", m.pidPath(),
		"-smbios", "type=1,manufacturer=Roost,product=Lab,serial=" + m.lab.name + "-" + m.Name,
		"-chardev", "socket,id=serial,path=" + m.consolePath() + ",server=on,wait=off,logfile=" + m.ConsoleLog() + ",logappend=on", "-serial", "chardev:serial",
		"-qmp", "unix:" + m.controlPath() + ",server=on,wait=off",
		"-device", "i6300esb", "-action", "watchdog=reset",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-netdev", "tap,id=net,ifname=" + m.tapName() + ",script=no,downscript=no", "-device", m.NIC + ",netdev=net,mac=" + m.MAC() + m.romFile(),
	}
	a = append(a, m.lab.accel.args...)
	if !m.BIOS {
		a = append(a,
			"-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+m.lab.firmware.code,
			"-drive", "if=pflash,format=raw,unit=1,file="+m.varsPath())
	}
	if m.CDROM != "" {
		a = append(a, "-drive", "if=none,id=cd,media=cdrom,readonly=on,format=raw,file="+m.CDROM, "-device", "ide-cd,drive=cd")
	}
	if m.Disk > 0 {
		a = append(a, m.diskArguments()...)
	}
	return a
}

// romFile empties the option ROM for UEFI machines; a BIOS machine has no network boot but that ROM.
func (m *Machine) romFile() string {
	if m.BIOS {
		return ""
	}
	return ",romfile="
}

func (m *Machine) diskArguments() []string {
	file := "driver=file,filename=" + m.DiskPath() + ",aio=threads,discard=unmap"
	a := []string{"-blockdev", file + ",node-name=file", "-blockdev", "driver=raw,file=file,node-name=raw,discard=unmap"}
	node := "raw"
	if m.WriteLog {
		a = append(a, "-blockdev", "driver=file,filename="+m.WritesPath()+",node-name=log",
			"-blockdev", "driver=blklogwrites,file=raw,log=log,log-super-update-interval=1,node-name=logged")
		node = "logged"
	}
	device := map[string]string{"virtio": "virtio-blk-pci", "nvme": "nvme", "sata": "ide-hd"}[m.DiskKind]
	return append(a, "-device", device+",drive="+node+",serial="+m.lab.name+"-"+m.Name)
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
	if err != nil || !strings.Contains(string(name), m.pidPath()) {
		return 0
	}
	return pid
}

// PowerOff takes the power away at once, as pulling the plug does, and waits until the process is gone.
func (m *Machine) PowerOff() error {
	pid := m.pid()
	if pid == 0 {
		return nil
	}
	fd, err := pidfdOpen(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot power off %s: %v", m.Name, err)
	}
	defer fd.Close()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot power off %s: %v", m.Name, err)
	}
	if err := awaitExit(fd, 10*time.Second); err != nil {
		return fmt.Errorf("cannot power off %s: %v", m.Name, err)
	}
	return os.RemoveAll(m.pidPath())
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.control(ctx, "system_reset") }

// Shutdown presses the power button: the operating system is asked to shut down.
func (m *Machine) Shutdown(ctx context.Context) error { return m.control(ctx, "system_powerdown") }

func (m *Machine) control(ctx context.Context, command string) error {
	q, err := dialQMP(ctx, m.controlPath())
	if err != nil {
		return err
	}
	defer q.close()
	_, err = q.execute(command, nil)
	return err
}

// SetCable plugs the network cable in or pulls it.
func (m *Machine) SetCable(in bool) error { return m.lab.network.setLink(m.tapName(), in) }

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
