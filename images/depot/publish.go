package depot

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"roost/images"
	"roost/images/release"
)

// Publication is a release that is about to be put on a shelf.
type Publication struct {
	Document *images.Release
	Parts    map[images.Kind]string // files as they are transported: root and verity compressed with zstd
	Papers   map[string][]byte      // SBOM and provenance by media type
	Signer   crypto.Signer          // nil leaves the release unsigned
}

// Publish puts a release into the depot: blobs, then the manifest, its papers, its signature, and the tag last, so that
// a name never stands for something incomplete. Publishing the same again changes nothing. It returns the release as found.
func (d *Depot) Publish(ctx context.Context, p Publication) (*Release, error) {
	r, err := d.publish(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("cannot publish to %s: %w", d, err)
	}
	return r, nil
}

func (d *Depot) publish(ctx context.Context, p Publication) (*Release, error) {
	w, ok := d.shelf.(writer)
	if !ok {
		return nil, ErrReadOnly
	}
	document, err := p.Document.Encode()
	if err != nil {
		return nil, err
	}
	repository, err := d.repositoryFor(p.Document.Name)
	if err != nil {
		return nil, err
	}
	blobs, err := p.digests()
	if err != nil {
		return nil, err
	}
	manifest, err := release.BuildManifest(document, blobs)
	if err != nil {
		return nil, err
	}
	m, err := release.ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	for _, kind := range images.Kinds() {
		if err := w.putBlob(ctx, repository, m.Parts[kind], openFile(p.Parts[kind])); err != nil {
			return nil, fmt.Errorf("cannot store part %s: %w", kind, err)
		}
	}
	if err := w.putBlob(ctx, repository, m.Config, openBytes(document)); err != nil {
		return nil, fmt.Errorf("cannot store release document: %w", err)
	}
	if err := w.putManifest(ctx, repository, string(m.Digest), release.MediaTypeManifest, manifest); err != nil {
		return nil, fmt.Errorf("cannot store manifest: %w", err)
	}
	if err := d.attachPapers(ctx, w, repository, m, p.Papers); err != nil {
		return nil, fmt.Errorf("cannot attach papers: %w", err)
	}
	if err := d.attachSignature(ctx, w, repository, p, m.Digest); err != nil {
		return nil, fmt.Errorf("cannot attach signature: %w", err)
	}
	if err := w.putManifest(ctx, repository, Tag(p.Document.Version), release.MediaTypeManifest, manifest); err != nil {
		return nil, fmt.Errorf("cannot tag release: %w", err)
	}
	r, err := d.load(ctx, repository, manifest)
	if err == nil {
		r.Bundle.Signatures, err = d.signatures(ctx, r)
	}
	return r, err
}

// repositoryFor returns where releases called name go.
func (d *Depot) repositoryFor(name string) (string, error) {
	r := d.reference
	if r.Name != "" && r.Name != name {
		return "", fmt.Errorf("release is called %s, the depot was opened for %s", name, r.Name)
	}
	if r.Repository != "" {
		return r.Repository, nil
	}
	return name, nil
}

// digests hashes the files of the parts.
func (p Publication) digests() (map[images.Kind]release.Descriptor, error) {
	blobs := map[images.Kind]release.Descriptor{}
	for _, kind := range images.Kinds() {
		file, ok := p.Parts[kind]
		if !ok {
			return nil, fmt.Errorf("part %s is missing", kind)
		}
		digest, size, err := digestFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot hash part %s: %w", kind, err)
		}
		blobs[kind] = release.Descriptor{Digest: digest, Size: size}
	}
	return blobs, nil
}

func digestFile(name string) (images.Digest, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return images.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), n, err
}

func openFile(name string) opener {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
}

// attachPapers stores each paper as a referrer and lists it in the index under the fallback tag.
func (d *Depot) attachPapers(ctx context.Context, w writer, repository string, m *release.Manifest, papers map[string][]byte) error {
	var list []release.Descriptor
	for _, mediaType := range slices.Sorted(maps.Keys(papers)) {
		a, err := release.BuildReferrer(m.Descriptor(), mediaType, papers[mediaType])
		if err != nil {
			return err
		}
		if err := putAttachment(ctx, w, repository, string(images.DigestOf(a.Manifest)), a); err != nil {
			return err
		}
		list = append(list, release.Descriptor{
			MediaType: release.MediaTypeManifest, Digest: images.DigestOf(a.Manifest), Size: int64(len(a.Manifest)), ArtifactType: mediaType,
		})
	}
	return d.listReferrers(ctx, w, repository, m.Digest, list)
}

// listReferrers adds to the index under the fallback tag what is not on it.
func (d *Depot) listReferrers(ctx context.Context, w writer, repository string, subject images.Digest, list []release.Descriptor) error {
	if len(list) == 0 {
		return nil
	}
	var index release.Index
	tag := release.ReferrersTag(subject)
	data, err := d.shelf.manifest(ctx, repository, tag)
	if err == nil {
		index, err = release.ParseIndex(data)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	before := len(index.Manifests)
	for _, x := range list {
		if !slices.ContainsFunc(index.Manifests, func(y release.Descriptor) bool { return x.Digest == y.Digest }) {
			index.Manifests = append(index.Manifests, x)
		}
	}
	if len(index.Manifests) == before {
		return nil
	}
	if data, err = index.Encode(); err != nil {
		return err
	}
	return w.putManifest(ctx, repository, tag, release.MediaTypeIndex, data)
}

// putAttachment stores the blobs of a, then its manifest.
func putAttachment(ctx context.Context, w writer, repository, reference string, a *release.Attachment) error {
	for _, digest := range slices.Sorted(maps.Keys(a.Blobs)) {
		data := a.Blobs[digest]
		d := release.Descriptor{Digest: digest, Size: int64(len(data))}
		if err := w.putBlob(ctx, repository, d, openBytes(data)); err != nil {
			return err
		}
	}
	return w.putManifest(ctx, repository, reference, release.MediaTypeManifest, a.Manifest)
}

func (d *Depot) attachSignature(ctx context.Context, w writer, repository string, p Publication, manifest images.Digest) error {
	if p.Signer == nil {
		return nil
	}
	have, err := d.signatures(ctx, &Release{Manifest: &release.Manifest{Digest: manifest}, repository: repository})
	if err != nil {
		return err
	}
	s, err := release.Sign(p.Signer, p.Document.Name, manifest)
	if err != nil {
		return err
	}
	// ECDSA signatures differ each time; the same key need not sign the same payload twice.
	if key, ok := p.Signer.Public().(*ecdsa.PublicKey); ok && slices.ContainsFunc(have, func(h release.Signature) bool {
		sum := sha256.Sum256(h.Payload)
		return string(h.Payload) == string(s.Payload) && ecdsa.VerifyASN1(key, sum[:], h.Bytes)
	}) {
		return nil
	}
	a, err := release.BuildSignatures(append(have, s))
	if err != nil {
		return err
	}
	return putAttachment(ctx, w, repository, release.SignatureTag(manifest), a)
}
