package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// vm is a machine as a QEMU process: real firmware, a kernel of its own, a disk.
type vm struct{ *Machine }

// create writes the machine's files; what exists is kept.
func (m vm) create() error {
	if err := m.lab.prepare(context.Background()); err != nil {
		return err
	}
	if err := m.createVars(); err != nil {
		return err
	}
	if m.Disk > 0 {
		if err := m.createDisk(); err != nil {
			return err
		}
	}
	if err := m.createDisks(); err != nil {
		return err
	}
	return m.lab.network.tap(m.portName())
}

func (m vm) createVars() error {
	if _, err := os.Stat(m.varsPath()); err == nil || m.BIOS {
		return nil
	}
	from := m.lab.firmware.vars
	if m.Vars != "" {
		from = m.Vars
	}
	template, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("cannot read the firmware's variable store: %v", err)
	}
	if k := m.lab.SecureBoot; k != nil && m.Vars == "" {
		if template, err = enrol(template, k.PK, k.KEK, k.DB); err != nil {
			return err
		}
	}
	if err := os.WriteFile(m.varsPath(), template, 0o600); err != nil {
		return fmt.Errorf("cannot write the variable store of %s: %v", m.Name, err)
	}
	return nil
}

func (m vm) createDisk() error {
	if _, err := os.Stat(m.DiskPath()); err == nil {
		return nil
	}
	if m.Image != "" {
		if err := copySparse(context.Background(), m.Image, m.DiskPath()); err != nil {
			return fmt.Errorf("cannot create machine %s: %w", m.Name, err)
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

func (m vm) start(ctx context.Context) error {
	if err := m.lab.prepare(ctx); err != nil {
		return err
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

// arguments is QEMU's command line. The boot order is left to the firmware: bootindex would rewrite BootOrder at every
// start. The network card carries no option ROM, because QEMU's iPXE would hide the firmware's own PXE.
func (m vm) arguments() []string {
	a := []string{
		"-name", m.lab.name + "-" + m.Name, "-uuid", m.UUID(),
		"-machine", "q35,smm=on,usb=off,hpet=off", "-cpu", m.lab.accel.cpu, "-smp", strconv.Itoa(m.CPUs), "-m", strconv.FormatInt(m.Memory>>20, 10),
		"-nodefaults", "-display", "none", "-vga", "none", "-daemonize", "-pidfile", m.pidPath(),
		"-smbios", "type=1,manufacturer=Roost,product=Lab,serial=" + m.lab.name + "-" + m.Name,
		"-chardev", "socket,id=serial,path=" + m.consolePath() + ",server=on,wait=off,logfile=" + m.ConsoleLog() + ",logappend=on", "-serial", "chardev:serial",
		"-qmp", "unix:" + m.controlPath() + ",server=on,wait=off",
		"-device", "i6300esb", "-action", "watchdog=reset",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-netdev", "tap,id=net,ifname=" + m.portName() + ",script=no,downscript=no", "-device", m.NIC + ",netdev=net,mac=" + m.MAC() + m.romFile(),
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
	for n := range m.Disks {
		a = append(a, "-blockdev", fmt.Sprintf("driver=file,filename=%s,aio=threads,discard=unmap,node-name=data%d", m.dataPath(n), n+1),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=data%d,serial=%s-disk%d", n+1, m.Name, n+1))
	}
	return a
}

// romFile empties the option ROM for UEFI machines; a BIOS machine has no network boot but that ROM.
func (m vm) romFile() string {
	if m.BIOS {
		return ""
	}
	return ",romfile="
}

// diskDevices are QEMU's devices for the kinds of disks.
var diskDevices = map[string]string{"virtio": "virtio-blk-pci", "nvme": "nvme", "sata": "ide-hd", "usb": "usb-storage"}

// diskArguments names the nodes that Record rewires: file below raw. A machine that may be recorded differs in three ways.
// QEMU 7.2's driver garbles its log at a write of zeros that meets another write, so the guest has to write them out. It fails
// a write of more than 1022 pieces, which QEMU makes of many small ones where it merges them. And a flush does not reach the
// medium of this computer: else the log would count as flushed what was written while the flush took its time.
func (m vm) diskArguments() []string {
	file := "driver=file,filename=" + m.DiskPath() + ",aio=threads,discard=unmap,node-name=file"
	device := diskDevices[m.DiskKind] + ",drive=raw,serial=" + m.lab.name + "-" + m.Name
	if m.WriteLog {
		file += ",cache.no-flush=on"
		device += ",write-zeroes=off,request-merging=off"
	}
	a := []string{"-blockdev", file, "-blockdev", "driver=raw,file=file,node-name=raw,discard=unmap", "-device", device}
	if m.DiskKind == "usb" {
		a = append([]string{"-device", "qemu-xhci"}, a...)
	}
	return a
}

// stop takes the power away at once.
func (m vm) stop(pid int) error { return end(pid, syscall.SIGKILL) }

func (m vm) reset(ctx context.Context) error { return m.control(ctx, "system_reset") }

func (m vm) shutdown(ctx context.Context) error { return m.control(ctx, "system_powerdown") }

func (m vm) clear() error { return nil }

func (m vm) control(ctx context.Context, command string) error {
	q, err := dialQMP(ctx, m.controlPath())
	if err != nil {
		return err
	}
	defer q.close()
	_, err = q.execute(command, nil)
	return err
}
