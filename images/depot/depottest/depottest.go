// Package depottest puts small releases into depots for tests.
package depottest

import (
	"context"
	"crypto/ecdsa"
	"os"
	"path/filepath"
	"testing"

	"roost/images"
	"roost/images/depot"
	"roost/images/release/releasetest"
)

// SBOM and Provenance are the papers of every release made here.
const (
	SBOM       = `{"spdxVersion":"SPDX-2.3"}`
	Provenance = `{"_type":"https://in-toto.io/Statement/v1"}`
)

// Publication returns what it takes to publish r, whose parts must be those of imagestest. A nil key leaves it unsigned.
func Publication(t testing.TB, r *images.Release, key *ecdsa.PrivateKey) depot.Publication {
	t.Helper()
	p := depot.Publication{
		Document: r,
		Parts:    map[images.Kind]string{},
		Papers:   map[string][]byte{images.MediaTypeSBOM: []byte(SBOM), images.MediaTypeInToto: []byte(Provenance)},
	}
	if key != nil {
		p.Signer = key
	}
	dir := t.TempDir()
	for _, kind := range images.Kinds() {
		p.Parts[kind] = filepath.Join(dir, string(kind))
		if err := os.WriteFile(p.Parts[kind], releasetest.Blob(t, r, kind), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// Publish puts r, signed by key, into the depot that ref names, and returns it as found there.
func Publish(t testing.TB, ref string, r *images.Release, key *ecdsa.PrivateKey) *depot.Release {
	t.Helper()
	d := Open(t, ref)
	published, err := d.Publish(context.Background(), Publication(t, r, key))
	if err != nil {
		t.Fatal(err)
	}
	return published
}

// Open opens the depot that ref names until the end of the test. A layout is made if missing.
func Open(t testing.TB, ref string) *depot.Depot {
	t.Helper()
	d, err := depot.Open(context.Background(), ref, depot.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}
