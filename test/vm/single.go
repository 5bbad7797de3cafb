package vm

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/test/lab"
)

// buildShipped builds a recipe as it is shipped, with its lock, to be release 1.
func (j *Journey) buildShipped(recipe string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := j.prepareBuild(ctx); err != nil {
			return err
		}
		return j.buildLocked(ctx, "roost:"+recipe+".yaml", "1")
	}
}

// makeSingle makes a lab of one machine for release 1, and a site whose document holds that machine alone. Wishes are
// arguments of roost site init.
func (j *Journey) makeSingle(spec lab.Spec, wishes ...string) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		spec.Name, spec.Kind = "c1", lab.Container
		if j.machine {
			spec.Kind = lab.VirtualMachine
			err = j.makeLab(ctx)
		} else {
			j.lab, err = lab.Up(ctx, lab.Config{Name: j.Lab, Dir: j.path("lab")})
		}
		if err != nil {
			return err
		}
		if spec.Root, err = j.unpack(ctx, "1"); err != nil {
			return err
		}
		if j.machine {
			if err := j.openTree(spec.Root.Image); err != nil {
				return err
			}
		}
		if j.controller, err = j.lab.Add(spec); err != nil {
			return err
		}
		return j.initSite(ctx, wishes...)
	}
}

// disk is the lasting name of the n-th further disk of the one host. There need not be a lab yet.
func (j *Journey) disk(n int) string {
	if j.machine {
		return fmt.Sprintf("/dev/disk/by-id/virtio-c1-disk%d", n)
	}
	return fmt.Sprintf("/dev/disk/by-id/roost-%s-c1-disk%d", j.Lab, n)
}

// bringUp starts the one host from nothing and waits until components are ready.
func (j *Journey) bringUp(limit time.Duration, components ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := j.startSeed(ctx); err != nil {
			return err
		}
		defer j.stopSeed()
		_, err := j.comeBack(ctx, limit, components...)
		return err
	}
}

// patience is how long something may take that has a time at native speed: a machine may be emulated.
func (j *Journey) patience(native time.Duration) time.Duration {
	if j.machine {
		return 10 * native
	}
	return native
}

// comeBack gives the one host power and waits until components are ready in this run of it.
func (j *Journey) comeBack(ctx context.Context, limit time.Duration, components ...string) (start time.Time, err error) {
	start = time.Now()
	if err := j.controller.PowerOn(ctx); err != nil {
		return start, err
	}
	_, err = j.awaitHost(ctx, limit, "controller-0", ready(start, components...))
	return start, err
}

// ready demands a host that serves with all of some components ready, and since a time.
func ready(since time.Time, components ...string) func(*api.Host) error {
	return func(h *api.Host) error {
		for _, name := range components {
			c := h.Component(name)
			if c == nil {
				return errors.New("it says nothing of " + name)
			}
			if c.State != api.Ready {
				return fmt.Errorf("its %s is %s, step %d of %d, %s: %s", name, c.State, c.Done+1, c.Steps, c.Step, c.Reason)
			}
			if c.Since.Before(since) {
				return fmt.Errorf("its %s is ready since %s, which is too early", name, c.Since)
			}
		}
		return serving(h)
	}
}

// sinceStart is the time from the start of the daemon until a component was ready.
func (j *Journey) sinceStart(ctx context.Context, component string) (time.Duration, error) {
	begin, err := j.number(ctx, `date +%s%3N -d "$(systemctl show --value -p ExecMainStartTimestamp roostd.service)"`)
	if err != nil {
		return 0, err
	}
	h, err := j.awaitHost(ctx, time.Minute, "controller-0", ready(time.Time{}, component))
	if err != nil {
		return 0, err
	}
	return h.Component(component).Since.Sub(time.UnixMilli(int64(begin))).Round(100 * time.Millisecond), nil
}

// hostMemory is what all programs of the one host use, shared pages in proportion, in MiB.
func (j *Journey) hostMemory(ctx context.Context) (int, error) {
	return j.number(ctx, `for p in /proc/[0-9]*; do
		sed -n 's/^Pss: *\([0-9]*\).*/\1/p' $p/smaps_rollup 2>/dev/null || true
	done | awk '{t += $1} END {print int(t/1024)}'`)
}

// number runs a shell command in the one host, a container, and reads the number that it prints.
func (j *Journey) number(ctx context.Context, script string) (int, error) {
	out, err := j.inside(ctx, j.controller, script)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}

// judge is where the one host, a container, has what the operator gives it for the stock clients, until its power goes.
const judge = "/run/judge"

func (j *Journey) giveJudge(ctx context.Context, name, text string) error {
	cmd, err := j.controller.Command(ctx, "sh", "-ec", "umask 077; mkdir -p "+judge+"; cat >"+judge+"/"+name)
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot give %s: %w: %s", name, err, out)
	}
	return nil
}
