package linux

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// UnitStarted returns when the main process of a service started; the zero time when none runs.
func (m Machine) UnitStarted(ctx context.Context, unit string) (time.Time, error) {
	conn, err := bus(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	property, err := conn.GetUnitTypePropertyContext(ctx, unit, "Service", "ExecMainStartTimestamp")
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read start of %s: %w", unit, err)
	}
	micros, _ := property.Value.Value().(uint64)
	if micros == 0 {
		return time.Time{}, nil
	}
	return time.UnixMicro(int64(micros)), nil
}

// StartUnit lets systemd read its units again and asks it to start one anew. It does not wait until the unit is up.
func (m Machine) StartUnit(ctx context.Context, unit string) error {
	conn, err := bus(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("cannot let systemd read its units: %w", err)
	}
	if err := conn.ResetFailedUnitContext(ctx, unit); err != nil && !strings.Contains(err.Error(), "not loaded") {
		return fmt.Errorf("cannot start %s: %w", unit, err)
	}
	if _, err := conn.RestartUnitContext(ctx, unit, "replace", nil); err != nil {
		return fmt.Errorf("cannot start %s: %w", unit, err)
	}
	return nil
}

// ReloadUnits has systemd read its unit files again. It works before there is a system bus.
func (m Machine) ReloadUnits(ctx context.Context) error {
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	defer conn.Close()
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("cannot let systemd read its units: %w", err)
	}
	return nil
}

// RunUnit lets systemd read its units again, starts a unit that runs to its end, and waits for that.
func (m Machine) RunUnit(ctx context.Context, unit string) error {
	conn, err := bus(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("cannot let systemd read its units: %w", err)
	}
	ended := make(chan string, 1)
	if _, err := conn.StartUnitContext(ctx, unit, "replace", ended); err != nil {
		return fmt.Errorf("cannot run %s: %w", unit, err)
	}
	select {
	case result := <-ended:
		if result != "done" {
			return fmt.Errorf("cannot run %s: it %s; its journal says why", unit, result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StopUnit stops a unit and waits until it has ended. A unit that systemd does not know is stopped.
func (m Machine) StopUnit(ctx context.Context, unit string) error {
	conn, err := bus(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := make(chan string, 1)
	if _, err := conn.StopUnitContext(ctx, unit, "replace", ended); err != nil {
		if strings.Contains(err.Error(), "not loaded") {
			return nil
		}
		return fmt.Errorf("cannot stop %s: %w", unit, err)
	}
	select {
	case result := <-ended:
		if result != "done" {
			return fmt.Errorf("cannot stop %s: %s", unit, result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Load runs a program of nftables, all of it in one transaction.
func (m Machine) Load(ctx context.Context, program string) error {
	return m.pipe(ctx, program, "nft", "-f", "-")
}

// HasTable returns nil when a table of nftables, named by family and name, is there.
func (m Machine) HasTable(ctx context.Context, table string) error {
	return m.pipe(ctx, "", "nft", append([]string{"list", "table"}, strings.Fields(table)...)...)
}

func (m Machine) pipe(ctx context.Context, input, name string, args ...string) error {
	_, err := m.Run(ctx, []byte(input), name, args...)
	return err
}

// Run runs a program of the image to its end, with input on its standard input, and returns what it printed.
func (m Machine) Run(ctx context.Context, input []byte, name string, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Stdin = bytes.NewReader(input)
	var errs bytes.Buffer
	command.Stderr = &errs
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w: %s", name, err, strings.TrimSpace(errs.String()))
	}
	return out, nil
}
