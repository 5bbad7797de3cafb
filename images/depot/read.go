package depot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"roost/images"
	"roost/images/release"
)

// maxWindow bounds the memory that a zstd frame may ask for, in bytes.
const maxWindow = 64 << 20

// Release is a release in a depot: its papers read, its parts to be streamed.
type Release struct {
	Bundle   release.Bundle
	Manifest *release.Manifest
	Document *images.Release

	depot      *Depot
	repository string
}

// Reference returns where exactly the release is, by digest.
func (r *Release) Reference() Reference {
	ref := r.depot.reference
	ref.Version, ref.Digest = "", r.Manifest.Digest
	if ref.Kind == KindRegistry {
		ref.Repository = r.repository
	}
	return ref
}

var errOtherArtifact = errors.New("not a release")

// isRelease tells a release from any other OCI artifact without asking for more than that.
func isRelease(manifest []byte) error {
	var m struct {
		ArtifactType string `json:"artifactType"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil || m.ArtifactType != images.MediaTypeRelease {
		return errOtherArtifact
	}
	return nil
}

// load reads the document of a manifest.
func (d *Depot) load(ctx context.Context, repository string, manifest []byte) (*Release, error) {
	m, err := release.ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	document, err := d.readSmall(ctx, repository, m.Config, images.MaxDocument)
	if err != nil {
		return nil, fmt.Errorf("cannot read release document: %w", err)
	}
	r := &Release{Manifest: m, depot: d, repository: repository}
	r.Bundle.Manifest, r.Bundle.Document = manifest, document
	if r.Document, err = images.DecodeRelease(document); err != nil {
		return nil, err
	}
	return r, nil
}

// signatures reads what is attached under the signature tag; no attachment is no signature.
func (d *Depot) signatures(ctx context.Context, r *Release) ([]release.Signature, error) {
	attachment, err := d.shelf.manifest(ctx, r.repository, release.SignatureTag(r.Manifest.Digest))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return release.ParseSignatures(attachment, func(x release.Descriptor) ([]byte, error) {
		return d.readSmall(ctx, r.repository, x, images.MaxDocument)
	})
}

// readSmall reads a whole blob of at most limit bytes.
func (d *Depot) readSmall(ctx context.Context, repository string, x release.Descriptor, limit int64) ([]byte, error) {
	if x.Size > limit {
		return nil, fmt.Errorf("blob %s has %d bytes, limit %d", x.Digest, x.Size, limit)
	}
	body := d.stream(ctx, repository, x)
	data, err := io.ReadAll(body)
	return data, errors.Join(err, body.Close())
}

// stream returns a verifying, resuming reader of a blob.
func (d *Depot) stream(ctx context.Context, repository string, x release.Descriptor) *verifier {
	open := func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return d.shelf.blob(ctx, repository, x, offset)
	}
	body := resume(ctx, open, 0, x.Size, d.patience)
	return &verifier{r: body, close: body.Close, digest: x.Digest, size: x.Size, hash: sha256.New()}
}

// Part streams one part as it is transported. The reader returns io.EOF only if all bytes came and matched the
// descriptor's digest; else its error wraps ErrCorrupt, ErrStalled or the cause. Nothing is read before the first Read.
func (r *Release) Part(ctx context.Context, kind images.Kind) (io.ReadCloser, release.Descriptor, error) {
	x, ok := r.Manifest.Parts[kind]
	if !ok {
		return nil, x, r.lacks(kind)
	}
	return r.depot.stream(ctx, r.repository, x), x, nil
}

func (r *Release) lacks(kind images.Kind) error {
	return fmt.Errorf("cannot read part %q of release %s: %w", kind, r.Document.Version, ErrNotFound)
}

// Content streams one part as it is used, that is decompressed. The reader returns io.EOF only if content matched the
// digest and size that the release document states, and never yields more bytes than that.
func (r *Release) Content(ctx context.Context, kind images.Kind) (io.ReadCloser, images.Part, error) {
	part := r.Document.Part(kind)
	x, ok := r.Manifest.Parts[kind]
	if !ok {
		return nil, part, r.lacks(kind)
	}
	body := r.depot.stream(ctx, r.repository, x)
	if !kind.Compressed() {
		return body, part, nil
	}
	decoder, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, part, errors.Join(fmt.Errorf("cannot decompress %s: %w", kind, err), body.Close())
	}
	v := &verifier{r: &decompressor{decoder, body}, digest: part.Digest, size: part.Size, hash: sha256.New()}
	v.close = func() error {
		decoder.Close()
		return body.Close()
	}
	return v, part, nil
}

// decompressor tells content that is damaged from a transfer that failed.
type decompressor struct {
	*zstd.Decoder
	body *verifier
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.Decoder.Read(p)
	if err != nil && err != io.EOF && (d.body.err == nil || d.body.err == io.EOF) {
		err = fmt.Errorf("cannot decompress %s: %w: %w", d.body.digest, ErrCorrupt, err)
	}
	return n, err
}

// Papers returns the SBOM, the provenance and whatever else is attached to the release, by media type; each at most 64 MiB.
func (r *Release) Papers(ctx context.Context) (map[string][]byte, error) {
	const limit = 64 << 20
	papers := map[string][]byte{}
	attachments, err := r.depot.referrers(ctx, r.repository, r.Manifest.Digest)
	if err != nil {
		return nil, fmt.Errorf("cannot list papers of release %s: %w", r.Document.Version, err)
	}
	for _, a := range attachments {
		data, err := r.depot.shelf.manifest(ctx, r.repository, string(a.Digest))
		if err != nil {
			return nil, fmt.Errorf("cannot read attachment %s: %w", a.Digest, err)
		}
		subject, paper, err := release.ParseReferrer(data)
		if err != nil || subject.Digest != r.Manifest.Digest {
			continue // another tool's attachment, or a list that is wrong
		}
		if papers[paper.MediaType], err = r.depot.readSmall(ctx, r.repository, paper, limit); err != nil {
			return nil, fmt.Errorf("cannot read paper %s: %w", paper.MediaType, err)
		}
	}
	return papers, nil
}

// referrer is a shelf with a referrers API of its own; the others have the index under the fallback tag.
type referrer interface {
	referrers(ctx context.Context, repository string, subject images.Digest) ([]release.Descriptor, error)
}

func (d *Depot) referrers(ctx context.Context, repository string, subject images.Digest) ([]release.Descriptor, error) {
	if s, ok := d.shelf.(referrer); ok {
		list, err := s.referrers(ctx, repository, subject)
		if !errors.Is(err, ErrNotFound) {
			return list, err
		}
	}
	data, err := d.shelf.manifest(ctx, repository, release.ReferrersTag(subject))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	index, err := release.ParseIndex(data)
	return index.Manifests, err
}

// verifier passes bytes on and withholds io.EOF until they have proved to be the right ones.
type verifier struct {
	r      io.Reader
	close  func() error
	digest images.Digest
	size   int64
	hash   hash.Hash
	n      int64
	err    error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	if left := v.size - v.n; left == 0 {
		v.err = v.finish()
		return 0, v.err
	} else if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	switch {
	case err == io.EOF && v.n < v.size:
		v.err = fmt.Errorf("%s ended after %d of %d bytes: %w", v.digest, v.n, v.size, ErrCorrupt)
	case err != nil && err != io.EOF:
		v.err = fmt.Errorf("cannot read %s: %w", v.digest, err)
	}
	return n, v.err
}

// finish judges the content once size bytes have passed.
func (v *verifier) finish() error {
	var extra [1]byte
	n, err := io.ReadFull(v.r, extra[:])
	if n > 0 {
		return fmt.Errorf("%s has more than its %d bytes: %w", v.digest, v.size, ErrCorrupt)
	}
	if err != io.EOF {
		return fmt.Errorf("cannot read end of %s: %w", v.digest, err)
	}
	if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.digest.Hex() {
		return fmt.Errorf("got sha256:%s instead of %s: %w", got, v.digest, ErrCorrupt)
	}
	return io.EOF
}

func (v *verifier) Close() error { return v.close() }
