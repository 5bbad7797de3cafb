package depot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"roost/images"
	"roost/images/release"
)

// CopyOptions steer Copy and Export.
type CopyOptions struct {
	Progress func(Progress) // called often, from the goroutine that copies; nil: no report
	Replace  bool           // let the version name this release where it names another one
}

// Progress tells how far a copy is.
type Progress struct {
	What  string // the part under way
	Done  int64  // bytes of all parts that are in the destination
	Total int64  // bytes of all parts
}

// Copy puts r, with all that is attached to it, into the depot to. Blobs that are there already are not sent again, and a
// blob that an earlier attempt left half done is continued where the destination can. The manifest keeps its digest.
func Copy(ctx context.Context, r *Release, to *Depot, o CopyOptions) (*Release, error) {
	copied, err := copyTo(ctx, r, to, o)
	if err != nil {
		return nil, fmt.Errorf("cannot copy release %s %s from %s to %s: %w", r.Document.Name, r.Document.Version, r.depot, to, err)
	}
	return copied, nil
}

func copyTo(ctx context.Context, r *Release, to *Depot, o CopyOptions) (*Release, error) {
	w, ok := to.shelf.(writer)
	if !ok {
		return nil, ErrReadOnly
	}
	repository, err := to.repositoryFor(r.Document.Name)
	if err != nil {
		return nil, err
	}
	if err := to.vacant(ctx, repository, r, o); err != nil {
		return nil, err
	}
	c := copying{from: r, w: w, to: to, repository: repository}
	if err := c.run(ctx, o); err != nil {
		return nil, err
	}
	copied := &Release{Bundle: r.Bundle, Manifest: r.Manifest, Document: r.Document, depot: to, repository: repository}
	copied.Bundle.Signatures, err = to.signatures(ctx, copied)
	return copied, err
}

// vacant refuses to give a version that names another release already: machines that run that one would never take the new
// one, as it is not newer.
func (d *Depot) vacant(ctx context.Context, repository string, r *Release, o CopyOptions) error {
	there, err := d.shelf.manifest(ctx, repository, Tag(r.Document.Version))
	if errors.Is(err, ErrNotFound) || o.Replace {
		return nil
	}
	if err != nil {
		return err
	}
	if digest := images.DigestOf(there); digest != r.Manifest.Digest {
		return fmt.Errorf("%w: version %s is %s there", ErrExists, r.Document.Version, digest)
	}
	return nil
}

// copying is one release on its way to another shelf.
type copying struct {
	from       *Release
	w          writer
	to         *Depot // nil for a shelf that is written from scratch and cannot be asked what it holds
	repository string
}

// run writes in the order of Publish.
func (c *copying) run(ctx context.Context, o CopyOptions) error {
	r, w, repository := c.from, c.w, c.repository
	if err := c.parts(ctx, o); err != nil {
		return err
	}
	if err := w.putBlob(ctx, repository, r.Manifest.Config, openBytes(r.Bundle.Document)); err != nil {
		return fmt.Errorf("cannot store release document: %w", err)
	}
	if err := w.putManifest(ctx, repository, string(r.Manifest.Digest), release.MediaTypeManifest, r.Bundle.Manifest); err != nil {
		return fmt.Errorf("cannot store manifest: %w", err)
	}
	if err := c.referrers(ctx); err != nil {
		return fmt.Errorf("cannot copy papers: %w", err)
	}
	if err := c.signatures(ctx); err != nil {
		return fmt.Errorf("cannot copy signatures: %w", err)
	}
	if err := w.putManifest(ctx, repository, Tag(r.Document.Version), release.MediaTypeManifest, r.Bundle.Manifest); err != nil {
		return fmt.Errorf("cannot tag release: %w", err)
	}
	return nil
}

func (c *copying) parts(ctx context.Context, o CopyOptions) error {
	r := c.from
	p := Progress{}
	for _, x := range r.Manifest.Parts {
		p.Total += x.Size
	}
	report := func() {
		if o.Progress != nil {
			o.Progress(p)
		}
	}
	for _, kind := range images.Kinds() {
		x := r.Manifest.Parts[kind]
		p.What = string(kind)
		report()
		start := p.Done
		err := c.w.putBlob(ctx, c.repository, x, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			body, err := r.depot.streamFrom(ctx, r.repository, x, offset)
			if err != nil {
				return nil, err
			}
			p.Done = start + offset
			return &countingReader{ReadCloser: body, count: func(n int) {
				p.Done += int64(n)
				report()
			}}, nil
		})
		if err != nil {
			return fmt.Errorf("cannot copy part %s: %w", kind, err)
		}
		p.Done = start + x.Size
		report()
	}
	return nil
}

type countingReader struct {
	io.ReadCloser
	count func(n int)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.count(n)
	return n, err
}

// streamFrom is stream from an offset. Without the first bytes only the destination can judge the digest; it does.
func (d *Depot) streamFrom(ctx context.Context, repository string, x release.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset == 0 {
		return d.stream(ctx, repository, x), nil
	}
	return resume(ctx, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return d.shelf.blob(ctx, repository, x, offset)
	}, offset, x.Size, d.patience), nil
}

// referrers copies every manifest that refers to r, then lists them.
func (c *copying) referrers(ctx context.Context) error {
	r := c.from
	list, err := r.depot.referrers(ctx, r.repository, r.Manifest.Digest)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, x := range list {
		data, err := r.depot.shelf.manifest(ctx, r.repository, string(x.Digest))
		if err != nil {
			return fmt.Errorf("cannot read attachment %s: %w", x.Digest, err)
		}
		if err := c.manifest(ctx, string(x.Digest), data); err != nil {
			return err
		}
	}
	if c.to != nil {
		return c.to.listReferrers(ctx, c.w, c.repository, r.Manifest.Digest, list)
	}
	data, err := release.Index{Manifests: list}.Encode()
	if err != nil {
		return err
	}
	return c.w.putManifest(ctx, c.repository, release.ReferrersTag(r.Manifest.Digest), release.MediaTypeIndex, data)
}

// manifest copies an attachment with its blobs.
func (c *copying) manifest(ctx context.Context, reference string, data []byte) error {
	blobs, err := release.Blobs(data)
	if err != nil {
		return err
	}
	for _, x := range blobs {
		err := c.w.putBlob(ctx, c.repository, x, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			return c.from.depot.streamFrom(ctx, c.from.repository, x, offset)
		})
		if err != nil {
			return fmt.Errorf("cannot copy blob %s: %w", x.Digest, err)
		}
	}
	return c.w.putManifest(ctx, c.repository, reference, release.MediaTypeManifest, data)
}

// signatures copies the attachment as it is, or adds its signatures to those that the destination has.
func (c *copying) signatures(ctx context.Context) error {
	r := c.from
	tag := release.SignatureTag(r.Manifest.Digest)
	data, err := r.depot.shelf.manifest(ctx, r.repository, tag)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var have []release.Signature
	if c.to != nil {
		if have, err = c.to.signatures(ctx, &Release{Manifest: r.Manifest, repository: c.repository}); err != nil {
			return err
		}
	}
	if len(have) == 0 {
		return c.manifest(ctx, tag, data)
	}
	all := slices.Clone(have)
	for _, s := range r.Bundle.Signatures {
		if !slices.ContainsFunc(have, func(h release.Signature) bool {
			return bytes.Equal(h.Payload, s.Payload) && bytes.Equal(h.Bytes, s.Bytes)
		}) {
			all = append(all, s)
		}
	}
	if len(all) == len(have) {
		return nil
	}
	a, err := release.BuildSignatures(all)
	if err != nil {
		return err
	}
	return putAttachment(ctx, c.w, c.repository, tag, a)
}
