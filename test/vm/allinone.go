package vm

import (
	"context"
	"errors"
	"fmt"

	"roost/test/lab"
)

// allInOnePhases bring the whole cloud up on one host, and use it as its people would: pods with volumes, a virtual machine with
// one, before and after the power goes.
func (j *Journey) allInOnePhases() []phase {
	const disk = 10 << 30 // sparse
	return []phase{
		{"build the release all-in-one", j.buildShipped("all-in-one")},
		{"make a site that wants all of it, and a lab of one container with three disks", j.makeSingle(lab.Spec{Disks: []int64{disk, disk, disk}},
			"--personality", "all-in-one", "--kubernetes", "--openstack", "--ceph", j.disk(1), "--ceph", j.disk(2), "--ceph", j.disk(3))},
		{"discover and install the controller", j.bringUp(openstackPatient, wholeCloud()...)},
		{"measure it", j.measureAll},
		{"a service answers by its name", j.callService},
		{"a network policy lets one client in", j.callPoliced},
		{"a claim is answered with an image in Ceph", j.claimVolume},
		{"a virtual machine starts from a volume in Ceph", j.startGuest("stored", "--boot-from-volume", "1")},
		{"it has an address and its name, and is reached", j.reachGuest("stored", 1)},
		{"its volume is in Ceph", j.seeVolume},
		{"pods and the virtual machine are back after the power went", j.restartAll},
	}
}

func wholeCloud() []string { return append(cloudComponents(), "ceph", "kubernetes") }

func (j *Journey) measureAll(ctx context.Context) error {
	for _, name := range wholeCloud() {
		took, err := j.sinceStart(ctx, name)
		if err != nil {
			return err
		}
		j.note("  roostd start to "+name+" ready, all four at once", took.String())
	}
	used, err := j.hostMemory(ctx)
	if err != nil {
		return err
	}
	j.note("  memory of the host, proportional", fmt.Sprintf("%d MiB", used))
	return j.healthyCeph(ctx)
}

// restartAll pulls the plug and demands all as it was: the virtual machine's volume counts its starts.
func (j *Journey) restartAll(ctx context.Context) error {
	if err := j.controller.PowerOff(); err != nil {
		return err
	}
	start, err := j.comeBack(ctx, openstackPatient, wholeCloud()...)
	if err != nil {
		return err
	}
	j.note("  power on to all of it ready again", since(start))
	if err := j.forgetCloud(); err != nil {
		return err
	}
	out, err := j.kubectl(ctx, "", "get", "pvc", "-o", "jsonpath={.items[*].status.phase}")
	if err == nil && out != "Bound Bound" {
		err = fmt.Errorf("claims are %q", out)
	}
	return errors.Join(err, j.callAgain(ctx), j.reachGuest("stored", 2)(ctx))
}
