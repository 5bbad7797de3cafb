package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/errgroup"

	"roost/images"
	"roost/images/release"
)

// What a caller may act on.
var (
	ErrNotFound   = errors.New("not in the depot")
	ErrCorrupt    = errors.New("content does not match its digest")
	ErrIncomplete = errors.New("the depot is not whole")
	ErrStalled    = errors.New("the other side stopped sending")
	ErrDenied     = errors.New("the registry refuses access")
	ErrReadOnly   = errors.New("the depot is read-only")
	ErrNoSpace    = errors.New("no space left in the depot")
	ErrExists     = errors.New("another release has this version")
)

// Options says how to reach a depot. The zero value is useful.
type Options struct {
	Transport http.RoundTripper // to a registry; nil: http.DefaultTransport. Client certificates and CA pins go in here
	Keychain  authn.Keychain    // credentials for registries; nil: none
	PlainHTTP bool              // speak HTTP without TLS to a registry that is not on this machine
	Create    bool              // make a layout directory that does not exist yet
	Stall     time.Duration     // how long a connection may deliver nothing before it counts as broken; 0: 30 s
	Retries   int               // connections in a row that bring next to nothing before giving up; 0: 5
	Pause     time.Duration     // wait before the first retry, doubled for each further one up to 30 s; 0: 1 s
}

// Depot is an open depot. It is safe for concurrent use.
type Depot struct {
	reference Reference
	shelf     shelf
	patience  patience
}

// shelf is what the three kinds of depot have in common. A reference is a tag or a digest.
type shelf interface {
	tags(ctx context.Context) ([]place, error)
	manifest(ctx context.Context, repository, reference string) ([]byte, error)
	blob(ctx context.Context, repository string, d release.Descriptor, offset int64) (io.ReadCloser, error)
}

// writer is a shelf that things can be put on.
type writer interface {
	hasBlob(ctx context.Context, repository string, d release.Descriptor) (bool, error)
	putBlob(ctx context.Context, repository string, d release.Descriptor, open opener) error
	putManifest(ctx context.Context, repository, reference, mediaType string, data []byte) error
}

// place is a tag in a repository.
type place struct{ repository, tag string }

// Open opens the depot that ref names; see Reference for the forms.
func Open(ctx context.Context, ref string, o Options) (*Depot, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if r.Kind == kindPath {
		r.Kind = KindLayout
		if info, err := os.Stat(r.Path); err == nil && info.Mode().IsRegular() {
			r.Kind = KindArchive
		}
	}
	d := &Depot{reference: r, patience: newPatience(o)}
	switch r.Kind {
	case KindLayout:
		d.shelf, err = openLayout(r.Path, o.Create)
	case KindArchive:
		d.shelf, err = openArchive(r.Path)
	case KindRegistry:
		d.shelf, err = openRemote(r, o)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open depot %s: %w", ref, err)
	}
	return d, nil
}

// Close gives back what the depot holds open. Readers of its parts stop working.
func (d *Depot) Close() error {
	if c, ok := d.shelf.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Reference returns where the depot is.
func (d *Depot) Reference() Reference { return d.reference }

func (d *Depot) String() string { return d.reference.String() }

// Entry is one release on the list of a depot. When Err is set only Repository and Tag are known.
type Entry struct {
	Repository   string         `json:"repository"`
	Tag          string         `json:"tag"`
	Name         string         `json:"name"`
	Version      images.Version `json:"version"`
	Digest       images.Digest  `json:"digest"` // of the manifest
	Created      time.Time      `json:"created"`
	Architecture string         `json:"architecture"`
	Err          error          `json:"-"` // why the release cannot be read
}

// List returns the releases in the depot by name and version, oldest first. What is no release is left out; a release that
// cannot be read is listed with its error.
func (d *Depot) List(ctx context.Context) ([]Entry, error) {
	places, err := d.places(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list depot %s: %w", d, err)
	}
	entries := make([]Entry, len(places))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, p := range places {
		g.Go(func() error {
			entries[i] = d.entry(gctx, p)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("cannot list depot %s: %w", d, err)
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return errors.Is(e.Err, errOtherArtifact) })
	slices.SortFunc(entries, func(a, b Entry) int {
		if c := strings.Compare(a.Repository+"\x00"+a.Name, b.Repository+"\x00"+b.Name); c != 0 {
			return c
		}
		return a.Version.Compare(b.Version)
	})
	return entries, nil
}

// places returns the tags that may be releases.
func (d *Depot) places(ctx context.Context) ([]place, error) {
	places, err := d.shelf.tags(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(places, func(p place) bool {
		return internalTag(p.tag) || (d.reference.Name != "" && p.repository != d.reference.Name)
	}), nil
}

func (d *Depot) entry(ctx context.Context, p place) Entry {
	e := Entry{Repository: p.repository, Tag: p.tag}
	data, err := d.shelf.manifest(ctx, p.repository, p.tag)
	if err == nil {
		err = isRelease(data)
	}
	var r *Release
	if err == nil {
		r, err = d.load(ctx, p.repository, data)
	}
	if err != nil {
		e.Err = err
		return e
	}
	e.Name, e.Version, e.Architecture, e.Created = r.Document.Name, r.Document.Version, r.Document.Architecture, r.Document.Created
	e.Digest = r.Manifest.Digest
	return e
}

// Get returns a release by digest, by version, by NAME:VERSION, or, with an empty reference, the one that Open was
// given, else the newest of the depot's only name.
func (d *Depot) Get(ctx context.Context, reference string) (*Release, error) {
	p, err := d.find(ctx, reference)
	if err != nil {
		what := fmt.Sprintf("release %q", reference)
		if reference == "" {
			what = "the newest release"
		}
		return nil, fmt.Errorf("cannot find %s in %s: %w", what, d, err)
	}
	data, err := d.shelf.manifest(ctx, p.repository, p.tag)
	if err != nil {
		return nil, fmt.Errorf("cannot read release %s in %s: %w", p.tag, d, err)
	}
	r, err := d.load(ctx, p.repository, data)
	if err != nil {
		return nil, fmt.Errorf("cannot read release %s in %s: %w", p.tag, d, err)
	}
	if r.repository == "" {
		r.repository = r.Document.Name // found by digest; what is attached lies under its name
	}
	if r.Bundle.Signatures, err = d.signatures(ctx, r); err != nil {
		return nil, fmt.Errorf("cannot read signatures of release %s in %s: %w", p.tag, d, err)
	}
	return r, nil
}

// find turns a reference into a place; its tag may be a digest.
func (d *Depot) find(ctx context.Context, reference string) (place, error) {
	if reference == "" {
		reference = string(d.reference.Digest)
	}
	if reference == "" {
		reference = d.reference.Version
	}
	repository := d.reference.Repository
	if d.reference.Kind != KindRegistry {
		repository = d.reference.Name
	}
	if digest, err := images.ParseDigest(reference); err == nil {
		return d.findDigest(ctx, repository, digest)
	}
	if name, version, ok := strings.Cut(reference, ":"); ok {
		if repository != "" && d.reference.Kind != KindRegistry && name != repository {
			return place{}, ErrNotFound
		}
		if repository == "" {
			repository = name
		}
		reference = version
	}
	if reference != "" && repository != "" {
		return place{repository, tagOf(reference)}, nil
	}
	return d.findNewest(ctx, reference)
}

// findDigest finds the repository of a digest where it matters: a registry has no blobs outside a repository.
func (d *Depot) findDigest(ctx context.Context, repository string, digest images.Digest) (place, error) {
	if repository != "" || d.reference.Kind != KindRegistry {
		return place{repository, string(digest)}, nil
	}
	entries, err := d.List(ctx)
	if err != nil {
		return place{}, err
	}
	for _, e := range entries {
		if e.Digest == digest {
			return place{e.Repository, string(digest)}, nil
		}
	}
	return place{}, ErrNotFound
}

// findNewest finds a version whatever its name, or the newest version, provided that one name only is in question. A release
// that cannot be read and may be the one is an error: another must not silently take its place.
func (d *Depot) findNewest(ctx context.Context, version string) (place, error) {
	entries, err := d.List(ctx)
	if err != nil {
		return place{}, err
	}
	var newest *Entry
	var damaged []Entry
	for i, e := range entries {
		switch {
		case version != "" && e.Tag != tagOf(version):
		case e.Err != nil:
			damaged = append(damaged, e)
		case newest != nil && newest.Name != e.Name:
			return place{}, fmt.Errorf("the depot holds several names (%s, %s): say which as NAME:VERSION", newest.Name, e.Name)
		default:
			newest = &entries[i]
		}
	}
	for _, e := range damaged {
		tagged, err := images.ParseVersion(e.Tag)
		if newest == nil || err != nil || newest.Repository == e.Repository && newest.Version.Compare(tagged) < 0 {
			return place{}, fmt.Errorf("%s cannot be read: %w", place{e.Repository, e.Tag}.refName(), e.Err)
		}
	}
	if newest == nil {
		return place{}, ErrNotFound
	}
	return place{newest.Repository, newest.Tag}, nil
}
