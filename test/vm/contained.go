package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/images/depot"
	"roost/test/lab"
)

// containedPhases are the part of the main job that containers can show, at native speed.
func (j *Journey) containedPhases() []phase {
	return []phase{
		{"build a release with containerd in it", j.buildContained},
		{"make the site and a lab of containers", j.makeContainedSite},
		{"discover and install the first controller", j.installController},
		{"discover the worker", j.discoverWorker},
		{"approve and install the worker", j.installWorker},
		{"look into both machines", j.lookInside},
		{"refuse an update, which needs slots", j.refuseUpdate},
		{"run a container in a container", j.runNested},
		{"pull the plug, and come back", j.pullPlug},
	}
}

func (j *Journey) buildContained(ctx context.Context) error {
	if err := j.prepareBuild(ctx); err != nil {
		return err
	}
	err := j.release(ctx, "c")
	j.releases["1"] = j.releases["c"]
	return err
}

func (j *Journey) makeContainedSite(ctx context.Context) error {
	l, err := lab.Up(ctx, lab.Config{Name: j.Lab, Dir: j.path("lab")})
	if err != nil {
		return err
	}
	j.lab = l
	root, err := j.unpack(ctx, "c")
	if err != nil {
		return err
	}
	for name, m := range map[string]**lab.Machine{"c1": &j.controller, "c2": &j.worker} {
		if *m, err = l.Add(lab.Spec{Name: name, Kind: lab.Container, Root: root, Disks: []int64{1 << 30}}); err != nil {
			return err
		}
	}
	j.begun = time.Now()
	return j.initSite(ctx)
}

// unpack makes the root of containers from release n.
func (j *Journey) unpack(ctx context.Context, n string) (root lab.Root, err error) {
	d, err := depot.Open(ctx, j.path("depot"), depot.Options{})
	if err != nil {
		return root, err
	}
	defer d.Close()
	r, err := d.Get(ctx, j.releases[n])
	if err != nil {
		return root, err
	}
	return j.lab.Unpack(ctx, r)
}

// inside runs a shell command in a container and returns what it printed.
func (j *Journey) inside(ctx context.Context, m *lab.Machine, script string) (string, error) {
	cmd, err := m.Command(ctx, "sh", "-ec", script)
	if err != nil {
		return "", err
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("in %s: %s: %w: %s", m.Name, script, err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// lookInside demands a system that is up with no failed unit, and a daemon within its budget of memory.
func (j *Journey) lookInside(ctx context.Context) error {
	for m, limit := range map[*lab.Machine]int{j.controller: 150, j.worker: 60} {
		state, err := j.inside(ctx, m, "systemctl is-system-running --wait || true; systemctl list-units --failed --plain --no-legend")
		if err != nil {
			return err
		}
		if state != "running" {
			return fmt.Errorf("%s is %s", m.Name, state)
		}
		memory, err := j.inside(ctx, m, "sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/$(systemctl show --value -p MainPID roostd.service)/status")
		if err != nil {
			return err
		}
		kilobytes, err := strconv.Atoi(memory)
		if err != nil {
			return err
		}
		j.note("  memory of roostd on "+m.Name, fmt.Sprintf("%d MB", kilobytes/1000))
		if kilobytes > limit*1000 {
			return fmt.Errorf("roostd uses %d kB on %s, more than %d MB", kilobytes, m.Name, limit)
		}
		disk := fmt.Sprintf("/dev/disk/by-id/roost-%s-%s-disk1", j.lab.Name(), m.Name)
		if size, err := j.inside(ctx, m, "blockdev --getsize64 "+disk); err != nil || size != "1073741824" {
			return fmt.Errorf("%s has a disk of %q bytes: %w", m.Name, size, err)
		}
	}
	j.note("  from a lab that is down to a site of two machines", since(j.begun))
	return nil
}

// refuseUpdate offers a container another release.
func (j *Journey) refuseUpdate(ctx context.Context) error {
	const want = "this machine is a container of the lab: it has no slots"
	if err := j.publish(ctx, "2"); err != nil {
		return err
	}
	if err := j.roost(ctx, "update", "start", j.releases["2"], "--only", "worker-0", "--wait"); err == nil {
		return errors.New("the update succeeds")
	}
	h, err := j.awaitHost(ctx, time.Minute, "worker-0", serving)
	if err != nil {
		return err
	}
	if !strings.Contains(h.Software.Error, want) {
		return fmt.Errorf("worker-0 says %q, want %q", h.Software.Error, want)
	}
	return j.roost(ctx, "update", "abort")
}

// nested makes a root of one static program on an overlay in /var, and runs it by runc and by containerd. The program is
// roostd with a verb that does not exist: it says so and exits with status 2.
const nested = `
mkdir -p /var/nested/lower/bin /var/nested/upper /var/nested/work /var/nested/bundle/rootfs
cp /usr/bin/roostd /var/nested/lower/bin/hello
mount -t overlay overlay -o lowerdir=/var/nested/lower,upperdir=/var/nested/upper,workdir=/var/nested/work /var/nested/bundle/rootfs
cd /var/nested/bundle
runc spec
sed -i 's,"sh","/bin/hello"\, "greet",; s,"terminal": true,"terminal": false,; /oomScoreAdj/d; /"rlimits": \[/,/\],/d' config.json
runc run first 2>&1 || echo "runc: $?"
systemctl start containerd.service
ctr plugins ls | awk '$2 == "overlayfs" {print "overlayfs " $NF}'
ctr run --rm --cpu-shares 0 --rootfs /var/nested/bundle/rootfs second /bin/hello greet 2>&1 || echo "ctr: $?"
`

// runNested runs containers in a machine that is one.
func (j *Journey) runNested(ctx context.Context) error {
	out, err := j.inside(ctx, j.worker, nested)
	if err != nil {
		return err
	}
	const said = `roostd: no verb "greet"`
	if strings.Count(out, said) != 2 || !strings.Contains(out, "runc: 2") || !strings.Contains(out, "ctr: ") || !strings.Contains(out, "overlayfs ok") {
		return fmt.Errorf("the nested containers say %q", out)
	}
	return nil
}

// pullPlug takes the power from both machines at once and demands the site back.
func (j *Journey) pullPlug(ctx context.Context) error {
	start := time.Now()
	for _, m := range []*lab.Machine{j.controller, j.worker} {
		if err := m.PowerOff(); err != nil {
			return err
		}
		if _, err := m.Command(ctx, "true"); err == nil {
			return errors.New("a machine without power runs commands")
		}
	}
	for _, m := range []*lab.Machine{j.controller, j.worker} {
		if err := m.PowerOn(ctx); err != nil {
			return err
		}
	}
	for _, name := range []string{"controller-0", "worker-0"} {
		if _, err := j.awaitHost(ctx, time.Minute, name, func(h *api.Host) error {
			if h.LastSeen.Before(start) {
				return fmt.Errorf("it was last seen at %s", h.LastSeen)
			}
			return serving(h)
		}); err != nil {
			return err
		}
	}
	return nil
}
