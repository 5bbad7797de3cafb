package volume

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSanity has the suite of the Container Storage Interface itself judge the driver, with file systems and with raw devices.
func TestSanity(t *testing.T) {
	if os.Getenv("ROOST_TEST_NET") == "" {
		t.Skip("builds csi-sanity, whose modules may have to be fetched: set ROOST_TEST_NET=1")
	}
	needDevices(t)
	program := filepath.Join(t.TempDir(), "csi-sanity")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity")
	build.Dir = filepath.Join("..", "..", "test", "tools", "sanity")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build csi-sanity: %v\n%s", err, out)
	}
	for _, kind := range []string{"mount", "block"} {
		t.Run(kind, func(t *testing.T) {
			d := driver(t)
			dir := t.TempDir()
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			socket := filepath.Join(dir, "csi.sock")
			go func() { ended <- d.Serve(ctx, socket, "") }()
			judge := exec.CommandContext(ctx, program, "-csi.endpoint=unix:"+socket, "-csi.testvolumeaccesstype="+kind, "-csi.mountdir="+filepath.Join(dir, "pod"),
				"-csi.stagingdir="+filepath.Join(dir, "staging"), "-csi.testvolumesize=16777216", "-csi.testvolumeexpandsize=33554432", "-ginkgo.no-color")
			out, err := judge.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			} else {
				t.Logf("%s", out[max(0, len(out)-300):])
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if err := (Released{Cluster: d.Cluster, Log: d.Log}).Release(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}
