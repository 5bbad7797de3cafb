package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"roost/test/lab"
)

func TestMain(m *testing.M) {
	if status, done := lab.Helper(os.Args); done {
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// TestContained walks what containers can show of the main job, with the real command, root image and systemd at native
// speed.
func TestContained(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" {
		t.Skip("builds a release and boots machines: set ROOST_TEST_VM=1")
	}
	dir := t.TempDir()
	j := &Journey{Roost: filepath.Join(dir, "roost"), Recipes: "testdata", Dir: filepath.Join(dir, "journey"), Out: testWriter{t}, Lab: "tcontain", Contained: true}
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
