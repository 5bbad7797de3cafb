package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestClaims brings Kubernetes and Ceph up in a container of the lab and has claims answered with images in Ceph: the shipped
// release at native speed, kubectl and rbd as judges. No pod uses a volume there: for that the kernel needs Ceph's block devices.
func TestClaims(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" || os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("builds a release with Kubernetes and Ceph, which takes 20 minutes the first time, and runs it: set ROOST_TEST_VM=1 and ROOST_TEST_SOAK=1")
	}
	dir := t.TempDir()
	j := &Journey{Roost: filepath.Join(dir, "roost"), Recipes: "testdata", Dir: filepath.Join(dir, "journey"), Out: testWriter{t}, Lab: "tclaim", Volumes: true}
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
