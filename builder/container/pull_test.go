package container

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	registries "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	ggcr "github.com/google/go-containerregistry/pkg/v1/types"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/images"
)

// makeImage makes an image of two layers, and an index that has it for amd64 beside another for arm64.
func makeImage(t *testing.T) (gcr.Image, gcr.ImageIndex) {
	t.Helper()
	one, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	one = mutate.ConfigMediaType(mutate.MediaType(one, ggcr.OCIManifestSchema1), ggcr.OCIConfigJSON)
	other, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	platform := func(architecture string) gcr.Descriptor {
		return gcr.Descriptor{Platform: &gcr.Platform{OS: "linux", Architecture: architecture}}
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, ggcr.OCIImageIndex),
		mutate.IndexAddendum{Add: other, Descriptor: platform("arm64")}, mutate.IndexAddendum{Add: one, Descriptor: platform("amd64")})
	return one, index
}

func newRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func push(t *testing.T, name string, index gcr.ImageIndex) registries.Reference {
	t.Helper()
	ref, err := registries.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	return ref
}

// writeLayout writes a layout directory and an archive of it, with the index under a tag.
func writeLayout(t *testing.T, index gcr.ImageIndex) (dir, file string) {
	t.Helper()
	dir, file = filepath.Join(t.TempDir(), "layout"), filepath.Join(t.TempDir(), "image.tar")
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := at.AppendIndex(index, layout.WithAnnotations(map[string]string{v1.AnnotationRefName: "v1"})); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteHeader(&tar.Header{Name: "../outside", Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

// TestPull copies one image from every kind of place: the pins agree, and so do the archives.
func TestPull(t *testing.T) {
	want, index := makeImage(t)
	digest, err := want.Digest()
	if err != nil {
		t.Fatal(err)
	}
	host := newRegistry(t)
	push(t, host+"/vendor/app:1", index)
	dir, file := writeLayout(t, index)
	p := Puller{Base: filepath.Dir(dir), Architecture: "amd64"}
	var first []byte
	for _, from := range []string{"docker://" + host + "/vendor/app:1", "oci:layout:v1", "oci:" + dir, "oci-archive:" + file + ":v1"} {
		c := recipe.Container{Name: "r.org/app:1", From: from}
		pin, err := p.Pin(t.Context(), c)
		if err != nil || string(pin.Digest) != digest.String() || pin.Size <= 2000 {
			t.Errorf("%s: pinned %+v, %v", from, pin, err)
			continue
		}
		cache := openCache(t)
		archive, err := p.Fetch(t.Context(), cache, c, pin, false)
		if err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		text, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = text
		}
		if !bytes.Equal(text, first) {
			t.Errorf("%s: another archive", from)
		}
		var index v1.Index
		var m v1.Manifest
		files := readTar(t, text)
		if err := json.Unmarshal([]byte(files["index.json"]), &index); err != nil {
			t.Fatal(err)
		}
		decode(t, files, index.Manifests[0], &m)
		for _, d := range append(m.Layers, m.Config) {
			decode(t, files, d, nil)
		}
		if again, err := p.Fetch(t.Context(), cache, recipe.Container{Name: c.Name, From: "docker://none.invalid/x"}, pin, true); err != nil || again != archive {
			t.Errorf("%s: what the cache has is fetched again: %v", from, err)
		}
	}
}

// TestPullWrong holds that what is not what the lock or the recipe says is refused.
func TestPullWrong(t *testing.T) {
	_, index := makeImage(t)
	host := newRegistry(t)
	push(t, host+"/vendor/app:1", index)
	dir, file := writeLayout(t, index)
	p := Puller{Architecture: "amd64"}
	for _, test := range []struct{ from, want string }{
		{"docker://" + host + "/vendor/app:2", "2"},
		{"oci:" + dir + ":v2", "0 images"},
		{"oci:" + file, "not a directory"},
		{"oci-archive:" + dir, "is a directory"},
	} {
		if _, err := p.Pin(t.Context(), recipe.Container{Name: "r.org/app:1", From: test.from}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.from, err, test.want)
		}
	}
	if _, err := (Puller{Architecture: "riscv64"}).Pin(t.Context(), recipe.Container{Name: "r.org/app:1", From: "oci:" + dir}); err == nil {
		t.Error("an image for another architecture was pinned")
	}
	c := recipe.Container{Name: "r.org/app:1", From: "oci:" + dir}
	other := lock.Container{Name: c.Name, Digest: images.DigestOf([]byte("other")), Size: 1}
	if _, err := p.Fetch(t.Context(), openCache(t), c, other, false); err == nil || !strings.Contains(err.Error(), "the lock pins") {
		t.Errorf("another image than the lock's was taken: %v", err)
	}
	c.From = "docker://" + host + "/vendor/app:1"
	if _, err := p.Fetch(t.Context(), openCache(t), c, other, true); err == nil || !strings.Contains(err.Error(), "offline") {
		t.Errorf("offline: %v", err)
	}
}

// TestDamagedBlob flips a byte of a layer in a layout.
func TestDamagedBlob(t *testing.T) {
	want, index := makeImage(t)
	dir, _ := writeLayout(t, index)
	layers, err := want.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "blobs/sha256", digest.Hex)
	text, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(blob, text, 0o644); err != nil {
		t.Fatal(err)
	}
	p, c := Puller{Architecture: "amd64"}, recipe.Container{Name: "r.org/app:1", From: "oci:" + dir}
	pin, err := p.Pin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fetch(t.Context(), openCache(t), c, pin, false); err == nil || !strings.Contains(err.Error(), "its content is") {
		t.Errorf("a damaged layer was taken: %v", err)
	}
}

// sign attaches a cosign signature to an image: simple signing, in the tag that its digest names.
func sign(t *testing.T, ref registries.Reference, digest gcr.Hash, identity string, key *ecdsa.PrivateKey) {
	t.Helper()
	payload, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"type": "cosign container image signature", "image": map[string]string{"docker-manifest-digest": digest.String()},
			"identity": map[string]string{"docker-reference": identity},
		}, "optional": nil,
	})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(payload)
	raw, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, ggcr.OCIManifestSchema1), ggcr.OCIConfigJSON)
	signed, err := mutate.Append(base, mutate.Addendum{
		Layer:       static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(raw)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Tag("sha256-"+digest.Hex+".sig"), signed); err != nil {
		t.Fatal(err)
	}
}

// TestSignature holds what the recipe's signedBy promises: the right key, on this image, under its own name.
func TestSignature(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	_, index := makeImage(t)
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		sign func(ref registries.Reference)
		good bool
	}{
		{"signed", func(ref registries.Reference) { sign(t, ref, digest, ref.Context().Name(), key) }, true},
		{"unsigned", func(registries.Reference) {}, false},
		{"stranger", func(ref registries.Reference) { sign(t, ref, digest, ref.Context().Name(), stranger) }, false},
		{"other", func(ref registries.Reference) { sign(t, ref, digest, ref.Context().Name()+"-other", key) }, false},
	} {
		host := newRegistry(t)
		ref := push(t, host+"/vendor/"+test.name+":1", index)
		test.sign(ref)
		c := recipe.Container{Name: "r.org/app:1", From: "docker://" + host + "/vendor/" + test.name + ":1", SignedBy: public}
		_, err := Puller{Architecture: "amd64"}.Pin(t.Context(), c)
		if (err == nil) != test.good || !test.good && !strings.Contains(err.Error(), "not signed as the recipe wants") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
