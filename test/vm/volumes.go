package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"roost/test/lab"
)

// volumesPhases bring up Kubernetes and Ceph on one host, and demand volumes of them as far as a container can show it: claims
// are answered with images in Ceph. The kernel of this computer may have no block devices of Ceph, so no pod uses one.
func (j *Journey) volumesPhases() []phase {
	const size = 5 << 30 // of each disk; sparse
	host := lab.Spec{Disks: []int64{size, size, size}, Memory: 6 << 30}
	list := []phase{{"build the release kubernetes-ceph", j.buildShipped("kubernetes-ceph")}}
	if j.machine {
		list = append(list, phase{"build release 2 of it, with another kernel", j.buildSecond("volumes-2")})
	}
	list = append(list, []phase{
		{"make a site that wants Kubernetes and Ceph, and a lab of one machine with three disks",
			j.makeSingle(host, "--kubernetes", "--ceph", j.disk(1), "--ceph", j.disk(2), "--ceph", j.disk(3))},
		{"discover and install the controller", j.bringUp(j.patience(5*time.Minute), "ceph", "kubernetes")},
	}...)
	if j.machine {
		return append(list, j.machinePhases()...)
	}
	return append(list, []phase{
		{"csi-sanity judges the driver's part in Ceph", j.judgeDriver},
		{"a claim is answered with an image in Ceph", j.claimVolume},
		{"the image grows with its claim", j.growVolume},
		{"the image goes with its claim", j.dropVolume},
	}...)
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
