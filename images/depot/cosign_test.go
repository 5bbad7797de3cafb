package depot_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
)

// TestCosignVerifies has the cosign program itself verify a release in our registry, with a key and no service.
func TestCosignVerifies(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") != "1" {
		t.Skip("builds cosign, which takes minutes; set ROOST_TEST_VM=1")
	}
	cosign := buildCosign(t)
	host, _ := newRegistry(t)
	key, other := releasetest.Key(t), releasetest.Key(t)
	signed := depottest.Publish(t, "docker://"+host, imagestest.Release("edge", "1"), key)
	depottest.Publish(t, "docker://"+host, imagestest.Release("edge", "2"), nil)
	dir := t.TempDir()
	trusted, foreign := filepath.Join(dir, "trusted.pub"), filepath.Join(dir, "foreign.pub")
	for file, pem := range map[string][]byte{trusted: releasetest.PEM(t, &key.PublicKey), foreign: releasetest.PEM(t, &other.PublicKey)} {
		if err := os.WriteFile(file, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ image, key, want string }{
		{host + "/edge:1", trusted, `"docker-reference":"roost.local/edge"`},
		{host + "/edge@" + string(signed.Manifest.Digest), trusted, string(signed.Manifest.Digest)},
		{host + "/edge:1", foreign, "invalid signature"},
		{host + "/edge:2", trusted, "no signatures found"},
	} {
		cmd := exec.CommandContext(context.Background(), cosign, "verify", "--key", c.key, "--insecure-ignore-tlog", "--private-infrastructure", "--allow-http-registry", c.image)
		cmd.Env = append(os.Environ(), "HOME="+dir, "TUF_ROOT="+dir)
		out, err := cmd.CombinedOutput()
		good := strings.Contains(c.want, `"`) || strings.HasPrefix(c.want, "sha256:")
		if (err == nil) != good || !strings.Contains(string(out), c.want) {
			t.Errorf("cosign verify --key %s %s: %v, want %q\n%s", filepath.Base(c.key), c.image, err, c.want, out)
		}
	}
}

// buildCosign builds the version that test/tools pins.
func buildCosign(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "cosign")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/sigstore/cosign/v2/cmd/cosign")
	cmd.Dir = filepath.Join("..", "..", "test", "tools")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build cosign: %v\n%s", err, out)
	}
	return binary
}
