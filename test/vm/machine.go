package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// machineLimit is what an emulated machine may take from power to everything ready.
const machineLimit = 40 * time.Minute

// machinePhases demand of a virtual machine what only a kernel with block devices of Ceph can show: a pod keeps what it wrote
// to its volume while the volume grows, while the machine goes down in order, when its power goes, and while releases with
// other kernels come and go.
func (j *Journey) machinePhases() []phase {
	return []phase{
		{"a service answers by its name", j.callService},
		{"a network policy lets one client in", j.callPoliced},
		{"a pod writes to its volume", j.writeVolume},
		{"the volume grows while the pod has it", j.growInUse},
		{"what was written last, and not yet flushed, is there after the machine went down and up", j.cycleVolume},
		{"what was flushed is there after its power went", j.cutVolume},
		{"all of it comes back on release 2, which has another kernel", j.updateKernel("first second third", "ceph", "kubernetes")},
		{"all of it comes back on release 1, and the state that release 2 restores", j.rollbackKernel("first second third", "ceph", "kubernetes")},
	}
}

// openTree mounts the release's root, whose kubectl runs on this computer too.
func (j *Journey) openTree(image string) error {
	j.tree = j.path("root")
	if err := os.MkdirAll(j.tree, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, j.tree).CombinedOutput(); err != nil {
		j.tree = ""
		return fmt.Errorf("cannot look into the release: %w: %s", err, out)
	}
	return nil
}

func (j *Journey) closeTree() error {
	if j.tree == "" {
		return nil
	}
	return exec.Command("umount", j.tree).Run()
}

// remote runs kubectl of the release on this computer, inside the lab's network.
func (j *Journey) remote(ctx context.Context, input string, args ...string) (string, error) {
	config, err := j.kubeconfig(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(j.tree, "usr/bin/kubectl"), append([]string{"--kubeconfig", config, "--request-timeout=60s"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err = j.lab.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// keeper runs a shell command in the pod that has the volume.
func (j *Journey) keeper(ctx context.Context, script string) (string, error) {
	return j.remote(ctx, "", "exec", "keeper", "--", "/usr/bin/bash", "-ec", script)
}

func (j *Journey) writeVolume(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(j.Recipes, "keeper.yaml"))
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := j.remote(ctx, string(text), "apply", "-f", "-"); err != nil {
		return err
	}
	if _, err := j.remote(ctx, "", "wait", "--for=condition=Ready", "pod/keeper", "--timeout=20m"); err != nil {
		return err
	}
	j.note("  claim to pod with its volume ready", since(start))
	out, err := j.keeper(ctx, "echo first >/data/file; sync; grep ' /data ' /proc/mounts")
	if err == nil && !strings.HasPrefix(out, "/dev/rbd") {
		err = fmt.Errorf("the pod has %q for a volume", out)
	}
	return err
}

func (j *Journey) growInUse(ctx context.Context) error {
	const larger = `{"spec":{"resources":{"requests":{"storage":"512Mi"}}}}`
	if _, err := j.remote(ctx, "", "patch", "pvc", "keeper", "--patch", larger); err != nil {
		return err
	}
	if _, err := j.remote(ctx, "", "wait", "--for=jsonpath={.status.capacity.storage}=512Mi", "pvc/keeper", "--timeout=20m"); err != nil {
		return err
	}
	out, err := j.keeper(ctx, "df --output=size --block-size=M /data | tail -1")
	if err != nil {
		return err
	}
	size := 0
	if _, err := fmt.Sscanf(out, "%dM", &size); err != nil || size < 400 {
		return fmt.Errorf("the file system has %s: %w", out, err)
	}
	return nil
}

// cycleVolume shuts the machine down in order, without a flush before, and starts it again.
func (j *Journey) cycleVolume(ctx context.Context) error {
	if _, err := j.keeper(ctx, "dd if=/dev/zero of=/data/large bs=1M count=64 status=none; echo second >>/data/file"); err != nil {
		return err
	}
	start := time.Now()
	if err := j.controller.Shutdown(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for j.controller.Running() {
		select {
		case <-limited.Done():
			return errors.New("the machine does not go down")
		case <-time.After(time.Second):
		}
	}
	j.note("  power button to off, with a volume in use", since(start))
	return j.cycled(ctx, "first second")
}

// cutVolume takes the power away a moment after a flush.
func (j *Journey) cutVolume(ctx context.Context) error {
	if _, err := j.keeper(ctx, "echo third >>/data/file; sync"); err != nil {
		return err
	}
	if err := j.controller.PowerOff(); err != nil {
		return err
	}
	return j.cycled(ctx, "first second third")
}

// cycled starts the machine and demands the pod with its volume.
func (j *Journey) cycled(ctx context.Context, lines string) error {
	start, err := j.comeBack(ctx, machineLimit, "ceph", "kubernetes")
	if err != nil {
		return err
	}
	j.note("  power on to Kubernetes and Ceph ready again", since(start))
	return j.holdsVolume(ctx, start, lines)
}

// holdsVolume demands lines in the pod's volume, and what else was written there.
func (j *Journey) holdsVolume(ctx context.Context, start time.Time, lines string) error {
	var got string
	var err error
	limit := time.Now().Add(j.patience(3 * time.Minute))
	for time.Now().Before(limit) && ctx.Err() == nil { // the record of the pod is of before, so it is called until it answers
		if got, err = j.keeper(ctx, "echo $(cat /data/file; stat -c %s /data/large)"); err == nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
	if want := lines + " 67108864"; err == nil && got != want {
		err = fmt.Errorf("the volume holds %q, want %q", got, want)
	}
	j.note("  from then to the pod with its volume", since(start))
	return err
}
