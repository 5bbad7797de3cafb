// Package container makes the OCI images that a machine's container runtime has without pulling them.
//
// An image lies in the root image as one OCI archive (a tar of an OCI image layout), which the runtime imports at boot; so
// a pod needs no registry, and what it runs was signed with the release. [Of] wraps one program of the recipe: one layer
// that holds it and nothing else. The same program gives the same archive, byte for byte. Layers are not compressed: the
// root image is, as a whole, when it travels. A [Puller] copies images from registries, layout directories and archives; the
// lock pins them by digest, and whoever must have signed one in a registry is asked for when it is locked.
//
// Rejected: unpacked images in the root image, mounted as they are (no runtime of Debian 13 takes them), and the content
// store of containerd, filled at build time (its database is state, and its format a version's private matter).
package container

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"roost/builder/archive"
	"roost/builder/recipe"
	"roost/images"
)

// Section is the part of the cache that holds archives.
const Section = "containers"

// Of returns the archive, in the cache, of an image that holds one program.
func Of(ctx context.Context, cache *archive.Cache, c recipe.Container, program, architecture string) (string, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("cannot make image %s: %w", c.Name, err)
	}
	about, err := json.Marshal([]any{"program 1", c, architecture, images.DigestOf(text)})
	if err != nil {
		return "", err
	}
	key := images.DigestOf(about).Hex()
	file, err := cache.Entry(Section, key)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := cache.PutEntry(Section, key, func(w io.Writer) error { return writeProgram(w, c, text, architecture) }); err != nil {
		return "", fmt.Errorf("cannot make image %s: %w", c.Name, err)
	}
	return cache.Entry(Section, key)
}

func writeProgram(w io.Writer, c recipe.Container, program []byte, architecture string) error {
	var layer bytes.Buffer
	if err := writeTar(&layer, textFile(c.Program, program, 0o755)); err != nil {
		return err
	}
	config := v1.Image{
		Platform: v1.Platform{Architecture: architecture, OS: "linux"},
		Config:   v1.ImageConfig{User: c.User, Entrypoint: []string{"/" + c.Program}, Cmd: c.Arguments},
		RootFS:   v1.RootFS{Type: "layers"},
	}
	l := layoutFiles{name: c.Name}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Layers = []v1.Descriptor{l.add(v1.MediaTypeImageLayer, layer.Bytes())}
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, m.Layers[0].Digest)
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	m.Config = l.add(v1.MediaTypeImageConfig, text)
	if text, err = json.Marshal(m); err != nil {
		return err
	}
	return l.write(w, l.add(v1.MediaTypeImageManifest, text))
}

// layoutFiles are the files of an OCI image layout.
type layoutFiles struct {
	name  string
	blobs []file
}

// file is an entry of a tar.
type file struct {
	name string
	size int64
	open func() (io.ReadCloser, error)
	mode int64
}

func textFile(name string, text []byte, mode int64) file {
	return file{name, int64(len(text)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }, mode}
}

// add stores a blob and describes it.
func (l *layoutFiles) add(mediaType string, text []byte) v1.Descriptor {
	d := images.DigestOf(text)
	l.blobs = append(l.blobs, textFile("blobs/sha256/"+d.Hex(), text, 0o644))
	return v1.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: int64(len(text))}
}

// write writes the archive of the image whose manifest is given.
func (l *layoutFiles) write(w io.Writer, manifest v1.Descriptor) error {
	_, tag, _ := strings.Cut(path.Base(l.name), ":")
	manifest.Annotations = map[string]string{
		"io.containerd.image.name": l.name, // what containerd calls it
		v1.AnnotationRefName:       tag,
	}
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{manifest}})
	if err != nil {
		return err
	}
	files := []file{textFile(v1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644), textFile(v1.ImageIndexFile, index, 0o644)}
	return writeTar(w, append(files, l.blobs...)...)
}

// writeTar writes files of root without a time. A blob that is not what its name says is an error.
func writeTar(w io.Writer, files ...file) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: f.size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if err := copyFile(t, f); err != nil {
			return fmt.Errorf("cannot copy %s: %w", f.name, err)
		}
	}
	return t.Close()
}

func copyFile(w io.Writer, f file) error {
	r, err := f.open()
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, h), r); err != nil {
		return err
	}
	if want, blob := strings.CutPrefix(f.name, "blobs/sha256/"); blob && want != hex.EncodeToString(h.Sum(nil)) {
		return fmt.Errorf("its content is sha256:%x", h.Sum(nil))
	}
	return nil
}
