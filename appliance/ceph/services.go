package ceph

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"roost/appliance/service"
)

// startAs is the step that a service runs which is a user of Ceph: before it starts, the cluster is told of that
// user, who may be newer than the monitor.
func (b *bringUp) startAs(u unit, name string, limit time.Duration, user string) service.Step {
	step := b.start(u, name, limit)
	start := step.Make
	step.Make = func(ctx context.Context) error {
		keys, err := b.keys()
		if err != nil {
			return err
		}
		text := keyring(user, keys[user], rights(user, nil))
		if _, err := b.ceph(ctx, []byte(text), "auth", "import", "--in-file", "-"); err != nil {
			return err
		}
		return start(ctx)
	}
	return step
}

// startManager is the step that the manager runs, and tells its figures on the site's address alone. It does not know its
// modules before it first starts, so the monitor is made to take their setting unseen.
func (b *bringUp) startManager() service.Step {
	step := b.start(b.runManager(), "manager", time.Minute)
	start := step.Make
	step.Make = func(ctx context.Context) error {
		if _, err := b.ceph(ctx, nil, "config", "set", "mgr", "mgr/prometheus/server_addr", b.monitor.String(), "--force"); err != nil {
			return err
		}
		return start(ctx)
	}
	return step
}

// services are the rows of steps for what the document asks for beside block devices.
func (b *bringUp) services() (lanes [][]service.Step) {
	if b.wish.Files {
		lanes = append(lanes, b.bringFiles())
	}
	if b.wish.Objects {
		lanes = append(lanes, b.bringObjects())
	}
	return lanes
}

// more lists the units of services that the document does not ask for any more.
func (b *bringUp) more() []string {
	return slices.DeleteFunc(b.units(), func(name string) bool {
		return b.control && (b.wish.Files && name == b.runMetadata().name || b.wish.Objects && name == b.runGateway().name) ||
			!strings.HasPrefix(name, "ceph-mds@") && !strings.HasPrefix(name, "ceph-radosgw@")
	})
}

func (b *bringUp) hasNoMore(context.Context) error {
	if list := b.more(); len(list) > 0 {
		return fmt.Errorf("%s still there", strings.Join(list, ", "))
	}
	return nil
}

// dropMore stops them. What they served stays in the cluster; a file system without a server is an error of its health, until
// somebody removes it there.
func (b *bringUp) dropMore(ctx context.Context) error {
	b.changed()
	for _, name := range b.more() {
		if err := b.drop(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
