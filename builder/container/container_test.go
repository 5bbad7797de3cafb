package container

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"roost/builder/archive"
	"roost/builder/recipe"
	"roost/images"
)

func openCache(t *testing.T) *archive.Cache {
	t.Helper()
	c, err := archive.OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// readTar returns the files of a tar.
func readTar(t *testing.T, text []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s has owner %d:%d and time %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		files[h.Name] = string(b)
	}
}

// decode reads a blob of a layout and checks it against its descriptor.
func decode(t *testing.T, files map[string]string, d v1.Descriptor, into any) {
	t.Helper()
	text := files["blobs/sha256/"+d.Digest.Encoded()]
	if got := images.DigestOf([]byte(text)); string(got) != string(d.Digest) || int64(len(text)) != d.Size {
		t.Fatalf("blob %s has %d bytes with digest %s, its descriptor says %d", d.Digest, len(text), got, d.Size)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

// TestOf reads the archive of a program as a runtime does, blob by blob.
func TestOf(t *testing.T) {
	program := filepath.Join(t.TempDir(), "built")
	if err := os.WriteFile(program, []byte("\x7fELF program"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := recipe.Container{Name: "roost.local/kube/pause:1.0", Program: "pause", Arguments: []string{"-v"}, User: "65535:65535"}
	make := func(c recipe.Container) []byte {
		t.Helper()
		file, err := Of(t.Context(), openCache(t), c, program, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	text := make(c)
	files := readTar(t, text)
	if !strings.Contains(files[v1.ImageLayoutFile], v1.ImageLayoutVersion) {
		t.Errorf("no layout: %q", files[v1.ImageLayoutFile])
	}
	var index v1.Index
	if err := json.Unmarshal([]byte(files[v1.ImageIndexFile]), &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("index %+v: %v", index, err)
	}
	if got := index.Manifests[0].Annotations; got["io.containerd.image.name"] != c.Name || got[v1.AnnotationRefName] != "1.0" {
		t.Errorf("the image is called %v", got)
	}
	var m v1.Manifest
	decode(t, files, index.Manifests[0], &m)
	var config v1.Image
	decode(t, files, m.Config, &config)
	if config.Architecture != "amd64" || config.OS != "linux" || config.Config.User != c.User || strings.Join(append(config.Config.Entrypoint, config.Config.Cmd...), " ") != "/pause -v" {
		t.Errorf("config %+v", config)
	}
	if len(m.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0] != m.Layers[0].Digest {
		t.Fatalf("layers %+v, %v", m.Layers, config.RootFS)
	}
	decode(t, files, m.Layers[0], nil)
	layer := readTar(t, []byte(files["blobs/sha256/"+m.Layers[0].Digest.Encoded()]))
	if len(layer) != 1 || layer["pause"] != "\x7fELF program" {
		t.Errorf("the layer holds %v", layer)
	}
	if !bytes.Equal(make(c), text) {
		t.Error("the same program gives another archive")
	}
	c.User = "0:0"
	if bytes.Equal(make(c), text) {
		t.Error("another user gives the same archive")
	}
}

func TestOfMissing(t *testing.T) {
	_, err := Of(t.Context(), openCache(t), recipe.Container{Name: "roost.local/x:1", Program: "x"}, filepath.Join(t.TempDir(), "none"), "amd64")
	if err == nil || !strings.HasPrefix(err.Error(), "cannot make image roost.local/x:1: ") {
		t.Errorf("made of nothing: %v", err)
	}
}
