package linux

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Resident returns the resident memory of this process in bytes.
func (m Machine) Resident() (int64, error) {
	return m.kilobytes("proc/self/status", "VmRSS")
}

// Memory returns the memory of the machine in bytes.
func (m Machine) Memory() (int64, error) { return m.kilobytes("proc/meminfo", "MemTotal") }

// MemoryUsed returns the memory in bytes that is not available for programs, caches that can be dropped not counted.
func (m Machine) MemoryUsed() (int64, error) {
	total, err := m.Memory()
	if err != nil {
		return 0, err
	}
	available, err := m.kilobytes("proc/meminfo", "MemAvailable")
	return total - available, err
}

// kilobytes reads "NAME: N kB" from a file of proc(5).
func (m Machine) kilobytes(file, name string) (int64, error) {
	b, err := os.ReadFile(m.path(file))
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", name, err)
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == name+":" && fields[2] == "kB" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("cannot read %s: /%s does not tell", name, file)
}

// BootTimes are moments of this boot as systemd knows them (org.freedesktop.systemd1(5)), in milliseconds. The first two are
// before the kernel's start, the others after it; 0 is unknown, or not yet.
type BootTimes struct {
	Firmware, Loader, Userspace, Finish int64
}

// BootTimes asks systemd for them.
func (m Machine) BootTimes(ctx context.Context) (t BootTimes, err error) {
	conn, err := bus(ctx)
	if err != nil {
		return t, err
	}
	defer conn.Close()
	for name, field := range map[string]*int64{"Firmware": &t.Firmware, "Loader": &t.Loader, "Userspace": &t.Userspace, "Finish": &t.Finish} {
		value, err := conn.GetManagerProperty(name + "TimestampMonotonic")
		if err != nil {
			return t, fmt.Errorf("cannot ask systemd for boot times: %w", err)
		}
		if *field, err = microseconds(value); err != nil {
			return t, fmt.Errorf("cannot ask systemd for boot times: %w", err)
		}
		*field /= 1000
	}
	return t, nil
}

// microseconds reads a 64-bit number in D-Bus's text form, "@t 123".
func microseconds(value string) (int64, error) {
	return strconv.ParseInt(strings.TrimPrefix(value, "@t "), 10, 64)
}
