package depot_test

import (
	"context"
	"crypto/ecdsa"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	peer "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release"
	"roost/images/release/releasetest"
)

// TestForeignRegistry runs the contract against a registry that others wrote. It has no referrers API unless asked, so this
// also proves the fallback tag.
func TestForeignRegistry(t *testing.T) {
	for kind, options := range map[string][]peer.Option{"plain": nil, "referrers": {peer.WithReferrersSupport(true)}} {
		for test, run := range contract {
			t.Run(kind+"/"+test, func(t *testing.T) {
				server := httptest.NewServer(peer.New(options...))
				defer server.Close()
				run(t, "docker://"+strings.TrimPrefix(server.URL, "http://"))
			})
		}
	}
}

// TestForeignClient has others' code read a release from our registry and push it back under another name.
func TestForeignClient(t *testing.T) {
	host, _ := newRegistry(t)
	key := releasetest.Key(t)
	r := depottest.Publish(t, "docker://"+host, imagestest.Release("edge", "1"), key)
	from, err := name.ParseReference(host + "/edge:1")
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(from)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 4 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	for _, layer := range layers {
		body, err := layer.Compressed() // verifies the digest
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Error(err)
		}
	}
	referrers, err := remote.Referrers(from.Context().Digest(string(r.Manifest.Digest)))
	if err != nil {
		t.Fatal(err)
	}
	if index, err := referrers.IndexManifest(); err != nil || len(index.Manifests) != 2 {
		t.Errorf("referrers: %+v, %v", index, err)
	}
	to, err := name.ParseReference(host + "/copy/edge:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, image); err != nil {
		t.Fatal(err)
	}
	copied, err := depottest.Open(t, "docker://"+host+"/copy/edge").Get(context.Background(), "1")
	if err != nil || copied.Manifest.Digest != r.Manifest.Digest {
		t.Errorf("pushed back: %v", err)
	}
	repositories, err := remote.Catalog(context.Background(), from.Context().Registry)
	if err != nil || strings.Join(repositories, " ") != "copy/edge edge" {
		t.Errorf("catalog: %v, %v", repositories, err)
	}
}

// TestForeignLayout reads our layout with others' code, and theirs with ours.
func TestForeignLayout(t *testing.T) {
	dir := filepath.Join(tempDir(t), "layout")
	key := releasetest.Key(t)
	r := depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "1"), key)
	theirs, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := theirs.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	copyDir := filepath.Join(tempDir(t), "copy")
	written, err := layout.Write(copyDir, index)
	if err != nil {
		t.Fatalf("%d manifests: %v", len(list.Manifests), err)
	}
	if _, err := written.ImageIndex(); err != nil {
		t.Fatal(err)
	}
	again, err := depottest.Open(t, "oci:"+copyDir).Get(context.Background(), "edge:1")
	if err != nil {
		t.Fatal(err)
	}
	v, err := release.Verify(again.Bundle, release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Name: "edge"})
	if err != nil || v.Manifest.Digest != r.Manifest.Digest {
		t.Errorf("their copy of our layout: %v", err)
	}
	if problems, err := depot.Check(copyDir, true); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}
