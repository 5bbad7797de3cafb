package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/images/depot"
	"roost/test/lab"
)

// volumesPhases bring up Kubernetes and Ceph on one host, and demand volumes of them as far as a container can show it: claims
// are answered with images in Ceph. The kernel of this computer may have no block devices of Ceph, so no pod uses one.
func (j *Journey) volumesPhases() []phase {
	if j.machine {
		return j.machinePhases()
	}
	return []phase{
		{"build the release kubernetes-ceph", j.buildVolumes},
		{"make a site that wants Kubernetes and Ceph, and a lab of one container with three disks", j.makeVolumesSite},
		{"discover and install the controller", j.installVolumes},
		{"csi-sanity judges the driver's part in Ceph", j.judgeDriver},
		{"a claim is answered with an image in Ceph", j.claimVolume},
		{"the image grows with its claim", j.growVolume},
		{"the image goes with its claim", j.dropVolume},
	}
}

func (j *Journey) buildVolumes(ctx context.Context) error {
	if err := j.prepareBuild(ctx); err != nil {
		return err
	}
	var built struct {
		Digest string `json:"digest"`
	}
	if err := j.query(ctx, &built, "build", "roost:kubernetes-ceph.yaml", "--keys", j.path("keys"), "--depot", j.path("depot")); err != nil {
		return err
	}
	j.releases["1"] = built.Digest
	return nil
}

func (j *Journey) makeVolumesSite(ctx context.Context) error {
	l, err := lab.Up(ctx, lab.Config{Name: j.Lab, Dir: j.path("lab")})
	if err != nil {
		return err
	}
	j.lab = l
	d, err := depot.Open(ctx, j.path("depot"), depot.Options{})
	if err != nil {
		return err
	}
	defer d.Close()
	r, err := d.Get(ctx, j.releases["1"])
	if err != nil {
		return err
	}
	root, err := l.Unpack(ctx, r)
	if err != nil {
		return err
	}
	const disk = 5 << 30
	spec, disks := lab.Spec{Name: "c1", Kind: lab.Container, Root: root, Disks: []int64{disk, disk, disk}}, "/dev/disk/by-id/roost-"+j.Lab+"-c1-disk%d"
	if j.machine {
		spec.Kind, spec.Memory, disks = lab.VirtualMachine, 6<<30, "/dev/disk/by-id/virtio-c1-disk%d"
		if err := j.openTree(root.Image); err != nil {
			return err
		}
	}
	if j.controller, err = l.Add(spec); err != nil {
		return err
	}
	args := []string{"site", "init", j.path("site"), "--name", "journey", "--address", controllerAddress, "--mac", j.controller.MAC(),
		"--pxe", "dhcp", "--range", addressRange, "--kubernetes"}
	for n := 1; n <= 3; n++ {
		args = append(args, "--ceph", fmt.Sprintf(disks, n))
	}
	return j.roost(ctx, args...)
}

func (j *Journey) installVolumes(ctx context.Context) error {
	if err := j.startSeed(ctx); err != nil {
		return err
	}
	defer j.stopSeed()
	if err := j.controller.PowerOn(ctx); err != nil {
		return err
	}
	_, err := j.awaitHost(ctx, 40*time.Minute, "controller-0", hasBoth(time.Time{}))
	return err
}

// hasBoth demands a host that serves with Kubernetes and Ceph ready, both since a time.
func hasBoth(since time.Time) func(*api.Host) error {
	return func(h *api.Host) error {
		for _, name := range []string{"ceph", "kubernetes"} {
			c := h.Component(name)
			if c == nil || c.Since.Before(since) {
				return fmt.Errorf("it says nothing of %s", name)
			}
			if c.State != api.Ready {
				return fmt.Errorf("its %s is %s, step %d of %d, %s: %s", name, c.State, c.Done+1, c.Steps, c.Step, c.Reason)
			}
		}
		return serving(h)
	}
}

// judgeDriver runs the suite of the Container Storage Interface inside the container, less what needs block devices.
func (j *Journey) judgeDriver(ctx context.Context) error {
	program := j.path("csi-sanity")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity")
	build.Dir = filepath.Join("..", "tools", "sanity")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build csi-sanity: %w: %s", err, out)
	}
	f, err := os.Open(program)
	if err != nil {
		return err
	}
	defer f.Close()
	const script = `cat >/run/csi-sanity; chmod +x /run/csi-sanity
		exec /run/csi-sanity -csi.endpoint=unix:/var/lib/kubelet/plugins/rbd.roost.local/csi.sock -csi.testvolumesize=16777216 -csi.testvolumeexpandsize=33554432 \
			-ginkgo.no-color '-ginkgo.focus=Controller|Identity' '-ginkgo.skip=Node Service'`
	cmd, err := j.controller.Command(ctx, "sh", "-ec", script)
	if err != nil {
		return err
	}
	cmd.Stdin = f
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("csi-sanity: %w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Ran ") || strings.HasPrefix(line, "SUCCESS") {
			fmt.Fprintf(j.Out, "      %s", line)
		}
	}
	return nil
}

func (j *Journey) claimVolume(ctx context.Context) error {
	if err := j.apply(ctx, "claim.yaml"); err != nil {
		return err
	}
	if _, err := j.kubectl(ctx, "", "wait", "--for=jsonpath={.status.phase}=Bound", "pvc", "--all", "--timeout=120s"); err != nil {
		return err
	}
	sizes, err := j.imageSizes(ctx)
	if err != nil {
		return err
	}
	if strings.Join(sizes, " ") != "67108864 67108864" {
		return fmt.Errorf("images of %q bytes, want two of 67108864", sizes)
	}
	return nil
}

// imageSizes asks Ceph itself, as Kubernetes' user there, for the images of its pool.
func (j *Journey) imageSizes(ctx context.Context) ([]string, error) {
	const script = `rbd --conf /var/lib/roost/kubernetes/ceph.conf --id kubernetes --keyring /var/lib/roost/kubernetes/ceph.keyring ls --long --format json kubernetes |
		tr ',' '\n' | sed -n 's/.*"size":\([0-9]*\).*/\1/p' | sort -n`
	out, err := j.inside(ctx, j.controller, script)
	return strings.Fields(out), err
}

func (j *Journey) growVolume(ctx context.Context) error {
	const larger = `{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}`
	if _, err := j.kubectl(ctx, "", "patch", "pvc", "files", "--patch", larger); err != nil {
		return err
	}
	// Its file system would grow when a pod uses it; the image does at once.
	if _, err := j.kubectl(ctx, "", "wait", "--for=condition=FileSystemResizePending", "pvc/files", "--timeout=120s"); err != nil {
		return err
	}
	sizes, err := j.imageSizes(ctx)
	if err != nil {
		return err
	}
	if strings.Join(sizes, " ") != "67108864 134217728" {
		return fmt.Errorf("images of %q bytes, want one of 134217728", sizes)
	}
	return nil
}

func (j *Journey) dropVolume(ctx context.Context) error {
	if _, err := j.kubectl(ctx, "", "delete", "pvc", "--all", "--timeout=60s"); err != nil {
		return err
	}
	if _, err := j.kubectl(ctx, "", "wait", "--for=delete", "pv", "--all", "--timeout=120s"); err != nil {
		return err
	}
	sizes, err := j.imageSizes(ctx)
	if err == nil && len(sizes) > 0 {
		err = fmt.Errorf("images of %q bytes are left", sizes)
	}
	return err
}
