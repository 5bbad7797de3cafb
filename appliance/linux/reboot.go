package linux

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const rebootPatience = 30 * time.Second // for systemd to take the order, and then for each way that is less kind

// Reboot restarts the machine. It returns when systemd has taken the order: units end in order, the journal is closed, /var
// is unmounted. The image gives reboot.target a limit, beyond which systemd goes on by force, so a unit that does not end
// cannot hold up the restart. Only where systemd does not take the order is it told to skip its units, and where it does
// nothing the kernel restarts after a sync.
//
// It may be called again. When ctx ends, most likely because this very restart ends the daemon, nothing is forced.
func (m Machine) Reboot(ctx context.Context) error {
	r := restart{patience: rebootPatience, order: orderReboot, force: forceReboot, kernel: kernelReboot}
	return r.run(ctx)
}

// restart is the ways to restart, the kindest first.
type restart struct {
	patience time.Duration
	order    func(context.Context) error // systemd takes a job
	force    func() error                // systemd kills what runs and unmounts
	kernel   func() error                // does not return on success
}

func (r restart) run(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, r.patience)
	err := r.order(limited)
	cancel()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	forced := r.force()
	if forced == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(r.patience): // we are still there
		}
	}
	if kernel := r.kernel(); kernel != nil {
		return fmt.Errorf("cannot reboot: %w", errors.Join(err, forced, kernel))
	}
	return nil
}

func orderReboot(ctx context.Context) error {
	conn, err := bus(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.StartUnitContext(ctx, "reboot.target", "replace-irreversibly", nil); err != nil {
		return fmt.Errorf("systemd does not reboot: %w", err)
	}
	return nil
}

// forceReboot needs no bus: SIGRTMIN+15 has systemd reboot without ending units first (systemd(1)).
func forceReboot() error {
	const sigrtmin = 34 // glibc's; the two below are its own
	return syscall.Kill(1, sigrtmin+15)
}

func kernelReboot() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// RebootEarly restarts a machine whose units have not started yet, and that has no bus.
func (m Machine) RebootEarly() error {
	if err := forceReboot(); err != nil {
		return fmt.Errorf("cannot reboot: %w", errors.Join(err, kernelReboot()))
	}
	time.Sleep(rebootPatience) // systemd ends this program meanwhile
	return fmt.Errorf("cannot reboot: %w", kernelReboot())
}
