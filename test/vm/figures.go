package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"roost/appliance/api"
	"roost/test/lab"
)

// noteVitals adds what a host says of its memory and its boot to the summary.
func (j *Journey) noteVitals(h *api.Host, limit int) {
	v := h.Vitals
	if v == nil {
		return
	}
	if h.Phase == api.Discovered {
		j.note("  memory in use in discovery, root image and all (target 2048 MB)", megabytes(v.Peak))
	} else {
		j.note(fmt.Sprintf("  memory of roostd on %s, resident (target %d MB)", h.Name, limit), megabytes(v.Daemon))
	}
	j.note("  boot of "+h.Name+": firmware, loader, kernel, initrd, userspace",
		fmt.Sprintf("%.1f, %.1f, %.1f, %.1f, %.1f s", seconds(v.Firmware), seconds(v.Loader), seconds(v.Kernel), seconds(v.Initrd), seconds(v.Userspace)))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func seconds(ms int64) float64 { return float64(ms) / 1000 }

// noteMemory asks both hosts when all is done.
func (j *Journey) noteMemory(ctx context.Context) error {
	limits := map[string]int{"worker-0": 60, "controller-0": 150}
	if j.worker == nil {
		delete(limits, "worker-0")
	}
	for name, limit := range limits {
		h, err := j.awaitHost(ctx, time.Minute, name, serving)
		if err != nil {
			return err
		}
		j.noteVitals(h, limit)
	}
	return nil
}

// named is the machine that became the host.
func (j *Journey) named(host string) *lab.Machine {
	if host == "controller-0" {
		return j.controller
	}
	return j.worker
}

// lastFall follows a console until ctx ends, and returns when the machine last fell: by a panic, or by the restart that a
// failed gate leads to.
func lastFall(ctx context.Context, m *lab.Machine) time.Time {
	var at time.Time
	seen := -1
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if n, err := falls(m.ConsoleLog()); err == nil {
			if seen >= 0 && n > seen {
				at = time.Now()
			}
			seen = n
		}
		select {
		case <-ctx.Done():
			return at
		case <-tick.C:
		}
	}
}

func falls(console string) (int, error) {
	b, err := os.ReadFile(console)
	if err != nil {
		return 0, err
	}
	// A panic restarts the machine with a line of its own, not with the second of these.
	return bytes.Count(b, []byte("Kernel panic - not syncing")) + bytes.Count(b, []byte("reboot: Restarting system")), nil
}
