package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// bus connects to systemd's private bus where root may, else to the system bus.
func bus(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot reach systemd: %w", err)
	}
	return conn, nil
}

// UnitState returns the active state of a unit: active, inactive, failed, activating …
func (m Machine) UnitState(ctx context.Context, unit string) (string, error) {
	conn, err := bus(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	property, err := conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
	if err != nil {
		return "", fmt.Errorf("cannot read state of %s: %w", unit, err)
	}
	state, _ := property.Value.Value().(string)
	return state, nil
}

// FailedUnits returns the names of units that failed, sorted.
func (m Machine) FailedUnits(ctx context.Context) ([]string, error) {
	conn, err := bus(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	units, err := conn.ListUnitsFilteredContext(ctx, []string{"failed"})
	if err != nil {
		return nil, fmt.Errorf("cannot list failed units: %w", err)
	}
	var names []string
	for _, u := range units {
		names = append(names, u.Name)
	}
	slices.Sort(names)
	return names, nil
}

// RunConfined runs a program to its end as a transient unit of an unprivileged, throw-away user who can write nothing, and
// returns an error unless it exits 0. Its output goes to the journal.
func (m Machine) RunConfined(ctx context.Context, name string, argv []string, limit time.Duration) error {
	if len(argv) == 0 {
		return errors.New("cannot run program: none is named")
	}
	conn, err := bus(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	unit := "roost-" + name + "-" + strconv.FormatInt(time.Now().UnixNano(), 36) + ".service"
	property := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	ended := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, unit, "replace", []dbus.Property{
		dbus.PropDescription("Roost gate " + name), dbus.PropType("oneshot"), dbus.PropExecStart(argv, false),
		property("DynamicUser", true), property("NoNewPrivileges", true), property("ProtectSystem", "strict"), property("ProtectHome", "yes"),
		property("PrivateTmp", true), property("TimeoutStartUSec", uint64(limit/time.Microsecond)), property("CollectMode", "inactive-or-failed"),
	}, ended)
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	select {
	case result := <-ended:
		if result != "done" {
			return fmt.Errorf("%s: %s", strings.Join(argv, " "), result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reload asks a unit to read its configuration again, or starts it anew where it cannot.
func (m Machine) Reload(ctx context.Context, unit string) error {
	conn, err := bus(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := make(chan string, 1)
	if _, err := conn.ReloadOrTryRestartUnitContext(ctx, unit, "replace", ended); err != nil {
		return fmt.Errorf("cannot reload %s: %w", unit, err)
	}
	select {
	case result := <-ended:
		if result != "done" {
			return fmt.Errorf("cannot reload %s: %s", unit, result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Notify tells systemd that the daemon is ready, and what it does, in one line.
func (m Machine) Notify(ready bool, status string) error {
	state := "STATUS=" + status
	if ready {
		state = daemon.SdNotifyReady + "\n" + state
	}
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	return nil
}

// Watchdog feeds systemd's watchdog at a third of its interval for as long as alive holds, until ctx ends. Without a
// watchdog it only waits.
func (m Machine) Watchdog(ctx context.Context, alive func() bool) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		if alive() {
			if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
				return fmt.Errorf("cannot feed watchdog: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Console writes a line to the machine's console, for whoever stands before it.
func (m Machine) Console(line string) {
	f, err := os.OpenFile(m.path("dev/console"), os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return // a machine without a console has nobody before it
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}
