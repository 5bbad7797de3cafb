package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestRealtime installs a machine with the real-time kernel whose processors and memory the site file shares out, and has it
// measure its latency. The division is the kernel's own; the latency is that of an emulated machine where there is no KVM.
func TestRealtime(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" || os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("builds a release and boots it: set ROOST_TEST_VM=1 and ROOST_TEST_SOAK=1")
	}
	dir := t.TempDir()
	j := &Journey{Roost: filepath.Join(dir, "roost"), Recipes: "testdata", Dir: filepath.Join(dir, "journey"), Out: testWriter{t}, Lab: "trt"}
	j.walk = j.realtimePhases
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
