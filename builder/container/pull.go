package container

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	registries "github.com/google/go-containerregistry/pkg/name"
	registry "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"roost/builder/archive"
	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/images"
)

// Puller copies images from registries, directories and archives.
type Puller struct {
	Base         string // directory that paths of directories and archives are relative to
	Architecture string
	Keychain     authn.Keychain // credentials for registries; nil: none
}

// Pin finds the image that c names now, checks who signed it where the recipe says who must have, and names it by digest.
func (p Puller) Pin(ctx context.Context, c recipe.Container) (lock.Container, error) {
	image, done, err := p.open(ctx, c, "")
	if err != nil {
		return lock.Container{}, fmt.Errorf("cannot find image %s: %w", c.Name, err)
	}
	defer done()
	digest, err := image.Digest()
	if err != nil {
		return lock.Container{}, fmt.Errorf("cannot find image %s: %w", c.Name, err)
	}
	m, err := image.Manifest()
	if err != nil {
		return lock.Container{}, fmt.Errorf("cannot find image %s: %w", c.Name, err)
	}
	size := m.Config.Size
	for _, l := range m.Layers {
		size += l.Size
	}
	return lock.Container{Name: c.Name, Digest: images.Digest(digest.String()), Size: size}, nil
}

// Fetch returns the archive, in the cache, of the image that the lock pins.
func (p Puller) Fetch(ctx context.Context, cache *archive.Cache, c recipe.Container, pin lock.Container, offline bool) (string, error) {
	key := images.DigestOf([]byte("fetched 1\n" + c.Name + "\n" + string(pin.Digest))).Hex()
	file, err := cache.Entry(Section, key)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if offline && strings.HasPrefix(c.From, "docker:") {
		return "", fmt.Errorf("cannot fetch image %s: the cache lacks it, and the build is offline", c.Name)
	}
	image, done, err := p.open(ctx, c, pin.Digest)
	if err != nil {
		return "", fmt.Errorf("cannot fetch image %s: %w", c.Name, err)
	}
	defer done()
	if err := cache.PutEntry(Section, key, func(w io.Writer) error { return copyImage(w, c.Name, image, pin.Digest) }); err != nil {
		return "", fmt.Errorf("cannot fetch image %s: %w", c.Name, err)
	}
	return cache.Entry(Section, key)
}

// copyImage writes an image as an archive. Every blob is held against its digest.
func copyImage(w io.Writer, name string, image registry.Image, want images.Digest) error {
	text, err := image.RawManifest()
	if err != nil {
		return err
	}
	if got := images.DigestOf(text); got != want {
		return fmt.Errorf("its manifest is %s, and the lock pins %s", got, want)
	}
	var m v1.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return fmt.Errorf("cannot read its manifest: %w", err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	if got := images.DigestOf(config); string(got) != string(m.Config.Digest) {
		return fmt.Errorf("its configuration is %s, and its manifest says %s", got, m.Config.Digest)
	}
	l := layoutFiles{name: name}
	manifest := l.add(m.MediaType, text)
	if manifest.MediaType == "" {
		manifest.MediaType = v1.MediaTypeImageManifest
	}
	l.add(m.Config.MediaType, config)
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	if len(layers) != len(m.Layers) {
		return fmt.Errorf("it has %d layers, and its manifest says %d", len(layers), len(m.Layers))
	}
	for i, d := range m.Layers {
		l.blobs = append(l.blobs, file{name: "blobs/sha256/" + d.Digest.Encoded(), size: d.Size, open: layers[i].Compressed, mode: 0o644})
	}
	return l.write(w, manifest)
}

// open finds the image at c's place; with a digest, that very one. done gives back what reading it took.
func (p Puller) open(ctx context.Context, c recipe.Container, digest images.Digest) (image registry.Image, done func(), err error) {
	kind, place, _ := strings.Cut(c.From, ":")
	if kind == "docker" {
		image, err := p.remote(ctx, c, strings.TrimPrefix(place, "//"), digest)
		return image, func() {}, err
	}
	dir, tag, _ := strings.Cut(place, ":")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(p.Base, dir)
	}
	done = func() {}
	if kind == "oci-archive" {
		scratch, err := os.MkdirTemp("", "roost-image-")
		if err != nil {
			return nil, nil, err
		}
		done = func() { os.RemoveAll(scratch) }
		if err := unpackLayout(dir, scratch); err != nil {
			done()
			return nil, nil, err
		}
		dir = scratch
	}
	if image, err = p.fromLayout(dir, tag); err != nil {
		done()
		return nil, nil, err
	}
	return image, done, nil
}

// remote finds an image in a registry. Who must have signed it has signed what the tag points to, which may be an index of
// several architectures.
func (p Puller) remote(ctx context.Context, c recipe.Container, place string, digest images.Digest) (registry.Image, error) {
	ref, err := registries.ParseReference(place, registries.StrictValidation)
	if err != nil {
		return nil, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithPlatform(registry.Platform{OS: "linux", Architecture: p.Architecture})}
	if p.Keychain != nil {
		options = append(options, remote.WithAuthFromKeychain(p.Keychain))
	}
	if digest != "" {
		return remote.Image(ref.Context().Digest(string(digest)), options...)
	}
	found, err := remote.Get(ref, options...)
	if err != nil {
		return nil, err
	}
	if len(c.SignedBy) > 0 {
		if err := checkSignature(ctx, ref.Context(), found.Digest.String(), c.SignedBy, p.Keychain); err != nil {
			return nil, err
		}
	}
	return found.Image()
}

// fromLayout finds an image in a layout directory by its tag, or the only one.
func (p Puller) fromLayout(dir, tag string) (registry.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []registry.Descriptor
	for _, d := range m.Manifests {
		if tag == "" || d.Annotations[v1.AnnotationRefName] == tag {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s has %d images called %q, want one", dir, len(found), tag)
	}
	if !found[0].MediaType.IsIndex() {
		return index.Image(found[0].Digest)
	}
	inner, err := index.ImageIndex(found[0].Digest)
	if err != nil {
		return nil, err
	}
	if m, err = inner.IndexManifest(); err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == p.Architecture {
			return inner.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("%s has no image for linux on %s", dir, p.Architecture)
}

// layoutName is what a layout's files may be called.
var layoutName = regexp.MustCompile(`^(\./)?(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// unpackLayout unpacks the files of a layout out of an archive, and nothing else.
func unpackLayout(from, dir string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", from, err)
		}
		if h.Typeflag != tar.TypeReg || !layoutName.MatchString(h.Name) {
			continue
		}
		out, err := os.OpenFile(filepath.Join(dir, h.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		if err := errors.Join(err, out.Close()); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", h.Name, err)
		}
	}
}
