package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestCeph brings Ceph up in a container of the lab: the shipped release, systemd and Ceph at native speed on four loop
// devices, the stock clients as judges. The kernel is the computer's; encrypted disks are not shown, for it may lack dm-crypt.
func TestCeph(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" || os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("builds a release with Ceph and runs it: set ROOST_TEST_VM=1 and ROOST_TEST_SOAK=1")
	}
	dir := t.TempDir()
	j := &Journey{Roost: filepath.Join(dir, "roost"), Recipes: "testdata", Dir: filepath.Join(dir, "journey"), Out: testWriter{t}, Lab: "tceph", Ceph: true}
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
