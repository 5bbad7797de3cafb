package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestClaims brings Kubernetes and Ceph up in a container of the lab and has claims answered with images in Ceph: the shipped
// release at native speed, csi-sanity, kubectl and rbd as judges. No pod uses a volume there: for that the kernel needs Ceph's block devices.
func TestClaims(t *testing.T) { walkVolumes(t, &Journey{Lab: "tclaim", Volumes: true}) }

// TestVolumes installs the release in a virtual machine, whose kernel is the release's own, and has a pod use a volume: it
// grows, and its data is there after the machine went down in order, and after its power went.
func TestVolumes(t *testing.T) {
	walkVolumes(t, &Journey{Lab: "tvolume", Volumes: true, Machine: true})
}

func walkVolumes(t *testing.T, j *Journey) {
	if os.Getenv("ROOST_TEST_VM") == "" || os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("builds a release with Kubernetes and Ceph, which takes 20 minutes the first time, and runs it: set ROOST_TEST_VM=1 and ROOST_TEST_SOAK=1")
	}
	dir := t.TempDir()
	j.Roost, j.Recipes, j.Dir, j.Out = filepath.Join(dir, "roost"), "testdata", filepath.Join(dir, "journey"), testWriter{t}
	build := exec.Command("go", "build", "-o", j.Roost, "roost")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build roost: %v\n%s", err, out)
	}
	if err := os.Mkdir(j.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
