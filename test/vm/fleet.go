package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/appliance/api"
	"roost/test/lab"
)

// What a machine of a fleet costs this computer, and what the computer keeps for itself, in bytes.
const (
	fleetMemory = 2 << 30   // what a discovery boot must live in
	fleetShell  = 256 << 20 // QEMU around it: firmware, emulation, devices
	fleetSpare  = 4 << 30
)

// fleetPhases boot many blank machines at once, whose only boot server is the site's controller. That is a container, so that
// the machines have the computer to themselves.
func (j *Journey) fleetPhases() []phase {
	return []phase{
		{"build the release edge", j.buildFleet},
		{"make a site and a lab of a container and blank machines", j.makeFleet},
		{"discover and install the controller", j.installController},
		{fmt.Sprintf("boot %d blank machines at once from the network, and discover them", j.blanks), j.discoverFleet},
	}
}

// fleetThatFits is how many machines fit in the memory that this computer has available.
func fleetThatFits() (int, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemAvailable:" {
			continue
		}
		kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
		return int((kilobytes<<10 - fleetSpare) / (fleetMemory + fleetShell)), err
	}
	return 0, errors.New("cannot find MemAvailable in /proc/meminfo")
}

func (j *Journey) buildFleet(ctx context.Context) error {
	if err := j.prepareBuild(ctx); err != nil {
		return err
	}
	return j.release(ctx, "1")
}

func (j *Journey) makeFleet(ctx context.Context) error {
	if err := j.makeLab(ctx); err != nil {
		return err
	}
	root, err := j.unpack(ctx, "1")
	if err != nil {
		return err
	}
	if j.controller, err = j.lab.Add(lab.Spec{Name: "c1", Kind: lab.Container, Root: root}); err != nil {
		return err
	}
	for n := range j.blanks {
		m, err := j.lab.Add(lab.Spec{Name: fmt.Sprintf("m%d", n+1), Memory: fleetMemory, CPUs: 1})
		if err != nil {
			return err
		}
		j.fleet = append(j.fleet, m)
	}
	return j.initSite(ctx)
}

// discoverFleet powers all machines on and waits until the site knows each, as itself.
func (j *Journey) discoverFleet(ctx context.Context) error {
	before, err := j.received()
	if err != nil {
		return err
	}
	start := time.Now()
	group, booting := errgroup.WithContext(ctx)
	for _, m := range j.fleet {
		group.Go(func() error { return m.PowerOn(booting) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	seen := map[string]time.Duration{}                             // power-on to check-in, by MAC address
	limit := 5*time.Minute + time.Duration(j.blanks)*5*time.Minute // emulated, on a computer that may have other work
	for len(seen) < len(j.fleet) {
		if time.Since(start) > limit {
			return fmt.Errorf("after %s the site knows %d of %d machines: %v", limit, len(seen), len(j.fleet), seen)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Second):
		}
		var hosts []api.Host
		if err := j.query(ctx, &hosts, "host", "list"); err != nil {
			return err
		}
		for _, h := range hosts {
			if _, known := seen[h.BootMAC]; !known && h.Phase == api.Discovered {
				seen[h.BootMAC] = time.Since(start)
				fmt.Fprintf(j.Out, "      %s %s is known after %s, as machine %d\n", h.Name, h.BootMAC, since(start), len(seen))
			}
		}
	}
	after, err := j.received()
	if err != nil {
		return err
	}
	j.noteFleet(seen, after-before)
	return j.checkFleet(ctx)
}

func (j *Journey) noteFleet(seen map[string]time.Duration, bytes int64) {
	var took []time.Duration
	for _, d := range seen {
		took = append(took, d)
	}
	slices.Sort(took)
	round := func(d time.Duration) string { return d.Round(time.Second).String() }
	j.note(fmt.Sprintf("  power-on to check-in of %d machines at once: first, half of them, last", len(took)),
		round(took[0])+", "+round(took[(len(took)-1)/2])+", "+round(took[len(took)-1]))
	j.note("  sent to them by the one boot server, and for each", fmt.Sprintf("%s, %s", megabytes(bytes), megabytes(bytes/int64(len(took)))))
}

// checkFleet demands that each machine is in the list once, under its own addresses, and booted as it should.
func (j *Journey) checkFleet(ctx context.Context) error {
	if err := j.roost(ctx, "host", "list"); err != nil {
		return err
	}
	var hosts []api.Host
	if err := j.query(ctx, &hosts, "host", "list"); err != nil {
		return err
	}
	if len(hosts) != len(j.fleet)+1 {
		return fmt.Errorf("the site knows %d hosts, want %d", len(hosts), len(j.fleet)+1)
	}
	distinct := map[string]bool{}
	peak := int64(0)
	for _, m := range j.fleet {
		i := slices.IndexFunc(hosts, func(h api.Host) bool { return h.BootMAC == m.MAC() })
		if i < 0 {
			return fmt.Errorf("%s with address %s is not known", m.Name, m.MAC())
		}
		h := &hosts[i]
		if h.UUID != m.UUID() || !slices.Equal(h.MACs, []string{m.MAC()}) || len(h.Rivals) > 0 || h.Origin != "network" || h.SecureBoot != "enabled" {
			text, _ := json.Marshal(h)
			return fmt.Errorf("%s, whose UUID is %s, is known as %s", m.Name, m.UUID(), text)
		}
		for _, fact := range append([]string{h.ID, h.Name, string(h.Fingerprint), h.UUID, h.BootID}, h.Addresses...) {
			if fact == "" || distinct[fact] {
				return fmt.Errorf("two machines have %q, one of them %s", fact, h.Name)
			}
			distinct[fact] = true
		}
		if h.Vitals != nil {
			peak = max(peak, h.Vitals.Peak)
		}
	}
	j.note("  memory in use in discovery, the most of any (each has 2048 MiB)", megabytes(peak))
	return nil
}

// received is how much the controller has sent: what came in on its port of the lab's bridge, in bytes.
func (j *Journey) received() (bytes int64, err error) {
	err = j.lab.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			name, counters, _ := strings.Cut(line, ":")
			if fields := strings.Fields(counters); strings.TrimSpace(name) == "veth-"+j.controller.Name && len(fields) > 0 {
				bytes, err = strconv.ParseInt(fields[0], 10, 64)
				return err
			}
		}
		return fmt.Errorf("no port of %s is known", j.controller.Name)
	})
	return bytes, err
}
