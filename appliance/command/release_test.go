package command_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"roost/appliance/command"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
)

// TestReleaseCopy carries a release from a layout over a file into a registry and back, as an operator would to a site
// without a network.
func TestReleaseCopy(t *testing.T) {
	g, err := depot.NewRegistry(filepath.Join(t.TempDir(), "registry"), depot.RegistryConfig{Allow: func(*http.Request, bool, string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	defer server.Close()
	dir := t.TempDir()
	layout, file, back := "oci:"+filepath.Join(dir, "layout"), "archive:"+filepath.Join(dir, "edge.roost"), filepath.Join(dir, "back")
	registry := "docker://" + strings.TrimPrefix(server.URL, "http://") + "/os/edge"
	key := releasetest.Key(t)
	depottest.Publish(t, layout, imagestest.Release("edge", "1"), key)
	want := depottest.Publish(t, layout, imagestest.Release("edge", "2"), key)
	for _, args := range [][]string{
		{"copy", layout, file}, {"copy", file, registry}, {"copy", file, registry}, {"copy", registry + ":2", back}, {"copy", "--release", "1", layout, back},
	} {
		if out, err := runRelease(t, args...); err != nil || !strings.Contains(out, "is in "+args[len(args)-1]) {
			t.Errorf("release %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for _, ref := range []string{file, registry, back} {
		r, err := depottest.Open(t, ref).Get(context.Background(), "")
		if err != nil || r.Manifest.Digest != want.Manifest.Digest || len(r.Bundle.Signatures) != 1 {
			t.Errorf("release in %s: %v", ref, err)
		}
	}
	if entries, err := depottest.Open(t, back).List(context.Background()); err != nil || len(entries) != 2 {
		t.Errorf("copied back: %v, %v", entries, err)
	}
	for _, args := range [][]string{
		{"copy", layout}, {"copy", layout, "Not/A:Depot:x:y"}, {"copy", "oci:" + filepath.Join(dir, "missing"), file}, {"copy", "--release", "9", layout, file},
	} {
		if out, err := runRelease(t, args...); err == nil {
			t.Errorf("release %s: accepted\n%s", strings.Join(args, " "), out)
		}
	}
}

func runRelease(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := command.Release()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	c.SilenceUsage, c.SilenceErrors = true, true
	err := c.ExecuteContext(context.Background())
	return out.String(), err
}
