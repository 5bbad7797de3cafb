package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/test/lab"
)

// healthLimit is how soon Ceph must be healthy on one host at native speed on an idle computer: from the first start of the
// daemon, three OSDs made. The test takes twice the time: it may share the computer with other tests.
const healthLimit = 40 * time.Second

// cephPhases bring Ceph up on one host, from its site document alone, and judge it with its own clients.
func (j *Journey) cephPhases() []phase {
	const size = 10 << 30 // sparse
	return []phase{
		{"build the release ceph", j.buildShipped("ceph")},
		{"make a site that gives Ceph three disks, and a lab of one container that has four",
			j.makeSingle(lab.Spec{Disks: []int64{size, size, size, size}}, "--ceph", j.disk(1), "--ceph", j.disk(2), "--ceph", j.disk(3))},
		{"discover and install the controller", j.bringUp(5*time.Minute, "ceph")},
		{"measure it", j.measureCeph},
		{"write and read as the operator", j.useCeph},
		{"a file system and a gateway are asked for", j.addCephServices},
		{"a stock client mounts the file system", j.useFiles},
		{"a stock client of S3 puts and gets objects", j.useObjects},
		{"all is back after its power went", j.restartCeph},
		{"a disk with somebody's data is left alone", j.refuseCephDisk},
		{"it is wiped when the document says so, while the daemon is killed again and again", j.addCephDisk},
		{"a disk that is gone leaves", j.loseCephDisk},
	}
}

func (j *Journey) measureCeph(ctx context.Context) error {
	took, err := j.sinceStart(ctx, "ceph")
	if err != nil {
		return err
	}
	j.note("  roostd start to HEALTH_OK with three OSDs", took.String())
	if took > 2*healthLimit {
		return fmt.Errorf("cannot be content: Ceph was healthy after %s, want at most %s on an idle computer", took, healthLimit)
	}
	used, err := j.hostMemory(ctx)
	if err != nil {
		return err
	}
	j.note("  memory of the host with Ceph, proportional", fmt.Sprintf("%d MiB", used))
	return j.healthyCeph(ctx)
}

// healthyCeph asks the stock client, and ceph-volume for the disks.
func (j *Journey) healthyCeph(ctx context.Context) error {
	health, err := j.inside(ctx, j.controller, "ceph health")
	if err != nil || health != "HEALTH_OK" {
		return fmt.Errorf("ceph says %q: %w", health, err)
	}
	list, err := j.inside(ctx, j.controller, "ceph-volume raw list")
	if err == nil && strings.Count(list, `"osd_id"`) < 3 {
		err = fmt.Errorf("ceph-volume sees %s", list)
	}
	return err
}

// useCeph gives the container the operator's access, and nothing else, and writes and reads with it.
func (j *Journey) useCeph(ctx context.Context) error {
	if err := j.roost(ctx, "ceph", "access", "--dir", j.path("access")); err != nil {
		return err
	}
	for _, name := range []string{"ceph.conf", "ceph.client.admin.keyring"} {
		text, err := os.ReadFile(j.path("access", name))
		if err != nil {
			return err
		}
		if err := j.giveJudge(ctx, name, string(text)); err != nil {
			return err
		}
	}
	out, err := j.inside(ctx, j.controller, cephArgs+`
rados $A bench 5 write --pool volumes | awk '/^Bandwidth/ {print int($3)}'
head -c 67108864 /dev/urandom >/var/tmp/image
rbd $A import /var/tmp/image volumes/judge >/dev/null 2>&1
rbd $A export volumes/judge - 2>/dev/null | cmp - /var/tmp/image`)
	if err != nil {
		return err
	}
	j.note("  rados bench, three copies on one disk of the computer", out+" MB/s written")
	return nil
}

const cephArgs = `A="--conf /run/judge/ceph.conf --keyring /run/judge/ceph.client.admin.keyring"`

// restartCeph pulls the plug and demands cluster and data back.
func (j *Journey) restartCeph(ctx context.Context) error {
	if err := j.controller.PowerOff(); err != nil {
		return err
	}
	start, err := j.comeBack(ctx, 5*time.Minute, "ceph")
	if err != nil {
		return err
	}
	j.note("  power on to HEALTH_OK again", since(start))
	_, err = j.inside(ctx, j.controller, "rbd export volumes/judge - 2>/dev/null | cmp - /var/tmp/image")
	return errors.Join(err, j.checkFiles(ctx), j.checkObjects(ctx), j.healthyCeph(ctx))
}

// changeCeph changes the host's configuration as an operator does.
func (j *Journey) changeCeph(ctx context.Context, change func(*api.Ceph)) error {
	return j.changeConfig(ctx, func(c *api.Config) { change(c.Ceph) })
}

func (j *Journey) refuseCephDisk(ctx context.Context) error {
	if _, err := j.inside(ctx, j.controller, "echo somebody | dd of="+j.disk(4)+" bs=4096 seek=100 conv=notrunc,sync 2>/dev/null"); err != nil {
		return err
	}
	err := j.changeCeph(ctx, func(c *api.Ceph) { c.Disks = append(c.Disks, api.CephDisk{Path: j.disk(4)}) })
	if err != nil {
		return err
	}
	want := j.disk(4) + " holds data of an unknown kind: it is left alone"
	_, err = j.awaitHost(ctx, 2*time.Minute, "controller-0", func(h *api.Host) error {
		if c := h.Component("ceph"); c == nil || c.State != api.Failed || !strings.Contains(c.Reason, want) {
			return fmt.Errorf("its Ceph is %+v", c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	word, err := j.inside(ctx, j.controller, "dd if="+j.disk(4)+" bs=4096 skip=100 count=1 2>/dev/null | head -c 8")
	if err == nil && word != "somebody" {
		err = fmt.Errorf("the disk now holds %q", word)
	}
	return errors.Join(err, j.healthyCeph(ctx))
}

// addCephDisk has the fourth disk become an OSD, and kills the daemon every few seconds until it has.
func (j *Journey) addCephDisk(ctx context.Context) error {
	if err := j.changeCeph(ctx, func(c *api.Ceph) { c.Disks[3].Wipe = true }); err != nil {
		return err
	}
	const kill = "systemctl kill --signal=KILL roostd.service; for i in 1 2 3 4 5; do sleep 1; ceph osd dump | grep -c '^osd.* up ' && break; done | tail -1"
	for range 4 {
		if _, err := j.inside(ctx, j.controller, kill); err != nil {
			return err
		}
	}
	// It is healthy for a moment, then not while copies move to the disk, then for good.
	_, err := j.awaitHost(ctx, 5*time.Minute, "controller-0", func(h *api.Host) error {
		if n, err := j.number(ctx, "ceph osd dump | grep -c '^osd.* up '"); err != nil || n != 4 {
			return fmt.Errorf("%d OSDs are up: %w", n, err)
		}
		return errors.Join(ready(time.Time{}, "ceph")(h), j.settledCeph(ctx))
	})
	return err
}

// settledCeph demands a healthy cluster that has every copy where it belongs.
func (j *Journey) settledCeph(ctx context.Context) error {
	stray, err := j.inside(ctx, j.controller, "ceph pg stat | grep -E 'remapped|degraded|undersized|peering|creating|unknown|backfill|recover' || true")
	if err == nil && stray != "" {
		err = fmt.Errorf("copies are not yet where they belong: %s", stray)
	}
	return errors.Join(err, j.healthyCeph(ctx))
}

// loseCephDisk takes a disk away and has its OSD leave. Copies of what it held are made elsewhere.
func (j *Journey) loseCephDisk(ctx context.Context) error {
	if _, err := j.inside(ctx, j.controller, "rm "+j.disk(2)); err != nil {
		return err
	}
	if err := j.changeCeph(ctx, func(c *api.Ceph) { c.Disks[1].Gone = true }); err != nil {
		return err
	}
	start := time.Now()
	_, err := j.awaitHost(ctx, 5*time.Minute, "controller-0", func(h *api.Host) error {
		if n, err := j.number(ctx, "ceph osd ls | wc -l"); err != nil || n != 3 {
			return fmt.Errorf("%d OSDs are left: %w", n, err)
		}
		return errors.Join(ready(time.Time{}, "ceph")(h), j.settledCeph(ctx))
	})
	if err != nil {
		return err
	}
	j.note("  a lost disk's OSD purged and HEALTH_OK again", since(start))
	_, err = j.inside(ctx, j.controller, "rbd export volumes/judge - 2>/dev/null | cmp - /var/tmp/image")
	return errors.Join(err, j.healthyCeph(ctx))
}
