package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// testWriter shows the journey's progress in the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// TestJourney walks the main job with the real command, firmware, kernel and systemd.
func TestJourney(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" {
		t.Skip("boots virtual machines: set ROOST_TEST_VM=1")
	}
	dir := t.TempDir()
	roost := filepath.Join(dir, "roost")
	build := exec.Command("go", "build", "-o", roost, "roost")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build roost: %v\n%s", err, out)
	}
	j := &Journey{Roost: roost, Recipes: "testdata", Dir: filepath.Join(dir, "journey"), Out: testWriter{t}, Lab: "tjourney", Short: true, Cuts: 5}
	if os.Getenv("ROOST_TEST_SOAK") != "" {
		j.Short, j.Cuts = false, 200
	}
	if err := os.Mkdir(j.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
