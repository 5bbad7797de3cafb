package depot_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release"
	"roost/images/release/releasetest"
)

// TestPushOfDamagedPart: a blob that is not what its depot says is refused after one attempt, and leaves nothing behind.
func TestPushOfDamagedPart(t *testing.T) {
	from, dir := tempDir(t), tempDir(t)
	r := depottest.Publish(t, "oci:"+from, imagestest.Release("edge", "1"), releasetest.Key(t))
	path := filepath.Join(from, "blobs", "sha256", r.Manifest.Parts[images.KindUKI].Digest.Hex())
	data := mustRead(t, path)
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := depot.NewRegistry(dir, depot.RegistryConfig{Allow: allowAll})
	if err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			sent.Add(1)
		}
		g.ServeHTTP(w, r)
	}))
	defer server.Close()
	to, err := depot.Open(context.Background(), "docker://"+strings.TrimPrefix(server.URL, "http://"), depot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := depot.Copy(context.Background(), r, to, depot.CopyOptions{}); !errors.Is(err, depot.ErrCorrupt) || !strings.Contains(err.Error(), "part uki") {
		t.Errorf("got %v", err)
	}
	if n := sent.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if entries, err := to.List(context.Background()); err != nil || len(entries) != 0 {
		t.Errorf("listed: %v, %v", entries, err)
	}
}

// TestRegistryAdmits: a release gets a name only if the registry's judge agrees, by the signatures that came before the name.
func TestRegistryAdmits(t *testing.T) {
	key := releasetest.Key(t)
	g, err := depot.NewRegistry(tempDir(t), depot.RegistryConfig{Allow: allowAll, Admit: func(b release.Bundle) error {
		_, err := release.Verify(b, release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}})
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	defer server.Close()
	to, err := depot.Open(context.Background(), "docker://"+strings.TrimPrefix(server.URL, "http://"), depot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for version, test := range map[images.Version]struct {
		change func(*depot.Publication)
		want   string
	}{
		"1": {func(*depot.Publication) {}, ""},
		"2": {func(p *depot.Publication) { p.Signer = nil }, "release is not signed"},
		"3": {func(p *depot.Publication) { p.Signer = releasetest.Key(t) }, "a key that is not trusted"},
	} {
		p := depottest.Publication(t, imagestest.Release("edge", version), key)
		test.change(&p)
		_, err := to.Publish(context.Background(), p)
		if (err == nil) != (test.want == "") || err != nil && (!errors.Is(err, depot.ErrDenied) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("version %s: got %v, want %q", version, err, test.want)
		}
	}
	if entries, err := to.List(context.Background()); err != nil || len(entries) != 1 || entries[0].Version != "1" {
		t.Errorf("listed: %v, %v", entries, err)
	}
}
