package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestManyMachines boots as many blank machines at once from one boot server as fit in this computer's memory, with firmware
// that enforces Secure Boot, until the site knows each. ROOST_TEST_MACHINES says how many instead.
func TestManyMachines(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" || os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("fills this computer with virtual machines: set ROOST_TEST_VM=1 and ROOST_TEST_SOAK=1")
	}
	count, err := FleetThatFits()
	if text := os.Getenv("ROOST_TEST_MACHINES"); text != "" {
		count, err = strconv.Atoi(text)
	}
	if err != nil || count < 2 {
		t.Fatalf("cannot boot %d machines at once here: want memory for two: %v", count, err)
	}
	dir := t.TempDir()
	j := &Journey{Roost: filepath.Join(dir, "roost"), Recipes: "testdata", Dir: filepath.Join(dir, "journey"), Out: testWriter{t}, Lab: "tfleet", Fleet: count}
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
