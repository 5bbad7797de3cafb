// Package releasetest makes signed releases in memory for tests.
package releasetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/klauspost/compress/zstd"

	"roost/images"
	"roost/images/imagestest"
	"roost/images/release"
)

// Key returns a new release key.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// PEM returns a public key as trust files hold it.
func PEM(t testing.TB, key *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// Blob returns part kind of r as it is transported, made from imagestest.Content.
func Blob(t testing.TB, r *images.Release, kind images.Kind) []byte {
	t.Helper()
	content := imagestest.Content(r, kind)
	if !kind.Compressed() {
		return content
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(content, nil)
}

// Bundle returns r, whose parts are those of imagestest, as a signed bundle. Without keys it is unsigned.
func Bundle(t testing.TB, r *images.Release, keys ...*ecdsa.PrivateKey) release.Bundle {
	t.Helper()
	document, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[images.Kind]release.Descriptor{}
	for _, kind := range images.Kinds() {
		blob := Blob(t, r, kind)
		blobs[kind] = release.Descriptor{Digest: images.DigestOf(blob), Size: int64(len(blob))}
	}
	manifest, err := release.BuildManifest(document, blobs)
	if err != nil {
		t.Fatal(err)
	}
	b := release.Bundle{Manifest: manifest, Document: document}
	for _, key := range keys {
		s, err := release.Sign(key, r.Name, images.DigestOf(manifest))
		if err != nil {
			t.Fatal(err)
		}
		b.Signatures = append(b.Signatures, s)
	}
	return b
}
