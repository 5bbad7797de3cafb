package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"roost/appliance/api"
	"roost/test/lab"
)

// kernelsPhases take a virtual machine with Kubernetes to a release with another kernel and back. Its workload answers on
// both.
func (j *Journey) kernelsPhases() []phase {
	return []phase{
		{"build the release kubernetes", j.buildShipped("kubernetes")},
		{"build release 2 of it, with another kernel", j.buildSecond("kubernetes-2")},
		{"make a site that wants Kubernetes, and a lab of one machine", j.makeSingle(lab.Spec{Memory: 4 << 30}, "--kubernetes")},
		{"discover and install the controller", j.bringUp(machineLimit, "kubernetes")},
		{"a service answers by its name", j.callService},
		{"a network policy lets one client in", j.callPoliced},
		{"all of it comes back on release 2, which has another kernel", j.updateKernel("", "kubernetes")},
		{"all of it comes back on release 1, and the state that release 2 restores", j.rollbackKernel("", "kubernetes")},
	}
}

// buildSecond builds release 2 before there is a machine, which would slow it down.
func (j *Journey) buildSecond(recipe string) func(context.Context) error {
	return func(ctx context.Context) error { return j.releaseOf(ctx, j.path("recipes", recipe+".yaml"), "2") }
}

// friend runs a shell command in the workload's client that has a directory of the host.
func (j *Journey) friend(ctx context.Context, script string) (string, error) {
	return j.kubectl(ctx, "", "exec", "friend", "--", "/usr/bin/bash", "-ec", script)
}

// updateKernel takes release 2, by network and trial boot, and demands components, the workload, and the lines that a pod
// wrote to its volume, if it has one.
func (j *Journey) updateKernel(lines string, components ...string) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		if j.kernel, err = j.friend(ctx, "echo release 1 >/judge/log; sync; uname -r"); err != nil {
			return err
		}
		if err := j.roost(ctx, "release", "push", j.path("depot"), "--release", j.releases["2"]); err != nil {
			return err
		}
		start := time.Now()
		if err := j.roost(ctx, "update", "start", j.releases["2"], "--wait"); err != nil {
			return err
		}
		if err := j.backOn(ctx, "2", start, lines, components); err != nil {
			return err
		}
		kernel, err := j.friend(ctx, "echo release 2 >>/judge/log; sync; uname -r")
		if err == nil && kernel == j.kernel {
			err = fmt.Errorf("both releases have the kernel %s: this proves nothing", kernel)
		}
		j.note("  kernels of releases 1 and 2", j.kernel+", "+kernel)
		return err
	}
}

// rollbackKernel returns to release 1 and demands the same, and the directory that release 2 declared as it was before.
func (j *Journey) rollbackKernel(lines string, components ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		log, err := j.friend(ctx, "cat /judge/log")
		if err == nil && log != "release 1\nrelease 2" {
			err = fmt.Errorf("release 2 has %q", log)
		}
		if err != nil {
			return err
		}
		start := time.Now()
		if err := j.roost(ctx, "host", "rollback", "controller-0"); err != nil {
			return err
		}
		if err := j.backOn(ctx, "1", start, lines, components); err != nil {
			return err
		}
		log, err = j.friend(ctx, "cat /judge/log; uname -r")
		if want := "release 1\n" + j.kernel; err == nil && log != want {
			err = fmt.Errorf("release 1 has %q, want %q", log, want)
		}
		return err
	}
}

// backOn demands that the machine runs release n, with components ready since a time and pods that answer as before.
func (j *Journey) backOn(ctx context.Context, n string, start time.Time, lines string, components []string) error {
	_, err := j.awaitHost(ctx, machineLimit, "controller-0", func(h *api.Host) error {
		return errors.Join(j.runs(n)(h), ready(start, components...)(h))
	})
	if err != nil {
		return err
	}
	j.note("  from the order to components ready on release "+n, since(start))
	if lines != "" {
		if err := j.holdsVolume(ctx, start, lines); err != nil {
			return err
		}
	}
	return j.callAgain(ctx)
}
