package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// firmware is a pair of OVMF files: code that enforces Secure Boot, and an empty variable store.
type firmware struct{ code, vars string }

func findFirmware() (firmware, error) {
	for _, f := range []firmware{
		{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	} {
		if exists(f.code) && exists(f.vars) {
			return f, nil
		}
	}
	return firmware{}, errors.New("cannot find UEFI firmware for virtual machines: install the package ovmf")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// accelerator is how QEMU runs machines.
type accelerator struct {
	name string
	cpu  string
	args []string
}

var (
	kvm = accelerator{name: "kvm", cpu: "host", args: []string{"-accel", "kvm"}}
	tcg = accelerator{name: "tcg", cpu: "max,la57=off", args: []string{"-accel", "tcg,thread=multi,tb-size=512"}}
)

// probeAccelerator finds out whether KVM really runs firmware here: /dev/kvm may open and still not be able to. The
// answer is kept in the lab's directory.
func (l *Lab) probeAccelerator(ctx context.Context) (accelerator, error) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return accelerator{}, errors.New("cannot run virtual machines: install the package qemu-system-x86")
	}
	file := filepath.Join(l.dir, "accelerator")
	if b, err := os.ReadFile(file); err == nil {
		if strings.TrimSpace(string(b)) == "kvm" {
			return kvm, nil
		}
		return tcg, nil
	}
	found := tcg
	if kvmBoots(ctx, l.firmware) {
		found = kvm
	}
	if err := os.WriteFile(file, []byte(found.name+"\n"), 0o600); err != nil {
		return accelerator{}, fmt.Errorf("cannot record the accelerator: %v", err)
	}
	return found, nil
}

// kvmBoots starts firmware under KVM and waits for its first byte on the serial port.
func kvmBoots(ctx context.Context, fw firmware) bool {
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,smm=on", "-accel", "kvm", "-m", "256", "-nodefaults", "-display", "none",
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-no-reboot",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+fw.code, "-drive", "if=pflash,format=raw,unit=1,snapshot=on,file="+fw.vars, "-serial", "stdio")
	out := &firstByte{seen: cancel}
	cmd.Stdout = out
	if err := cmd.Run(); err == nil {
		return out.any
	}
	return out.any
}

// firstByte ends the probe as soon as the firmware speaks.
type firstByte struct {
	any  bool
	seen func()
}

func (w *firstByte) Write(b []byte) (int, error) {
	if len(bytes.TrimSpace(b)) > 0 {
		w.any = true
		w.seen()
	}
	return len(b), nil
}

// pidfdOpen returns a file that becomes readable when the process ends.
func pidfdOpen(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

func awaitExit(pidfd *os.File, limit time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	deadline := time.Now().Add(limit)
	for {
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the process did not end within %d s", int(limit.Seconds()))
		}
		return nil
	}
}
