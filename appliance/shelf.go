package appliance

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"sync"

	"roost/appliance/api"
	"roost/images"
	"roost/images/depot"
	"roost/images/release"
)

// shelf shows the site's depot to the managers. What a digest names never changes, so each release is read once.
type shelf struct {
	depot *depot.Depot
	dir   string             // of the layout
	keys  []*ecdsa.PublicKey // that releases must be signed by; nil: whoever uses the shelf judges

	mu    sync.Mutex // guards known
	known map[images.Digest]*depot.Release
}

func newShelf(d *depot.Depot, dir string, keys []*ecdsa.PublicKey) *shelf {
	return &shelf{depot: d, dir: dir, keys: keys, known: map[images.Digest]*depot.Release{}}
}

// trusted judges whether hosts of this site could take a release. Each host judges again by the keys of its own image.
func (s *shelf) trusted(b release.Bundle) error {
	if s.keys == nil {
		return nil
	}
	if _, err := release.Verify(b, release.Policy{Keys: s.keys}); err != nil {
		return fmt.Errorf("no host of this site would take it: %w", err)
	}
	return nil
}

func (s *shelf) get(ctx context.Context, digest images.Digest) (*depot.Release, error) {
	s.mu.Lock()
	r := s.known[digest]
	s.mu.Unlock()
	if r != nil {
		return r, nil
	}
	r, err := s.depot.Get(ctx, string(digest))
	if errors.Is(err, depot.ErrNotFound) {
		return nil, &api.Problem{Kind: api.NotFound, Detail: fmt.Sprintf("cannot find release %s on the site's shelf", digest), Hint: "push it with roost release push"}
	}
	if err != nil {
		return nil, err
	}
	if err := s.trusted(r.Bundle); err != nil { // not remembered: it may be signed later
		return nil, &api.Problem{Kind: api.Invalid, Detail: fmt.Sprintf("cannot use release %s %s: %v", r.Document.Name, r.Document.Version, err),
			Hint: "build it with the release key of this site's images and push it again"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[digest] = r
	return r, nil
}

// Release finds a release by manifest digest.
func (s *shelf) Release(ctx context.Context, digest images.Digest) (*api.Release, *images.Needs, error) {
	r, err := s.get(ctx, digest)
	if err != nil {
		return nil, nil, err
	}
	needs := r.Document.Needs
	return describe(r), &needs, nil
}

// Releases lists the shelf. A release that cannot be read or is not to be trusted is left out; the registry tells of it.
func (s *shelf) Releases(ctx context.Context) ([]api.Release, error) {
	entries, err := s.depot.List(ctx)
	if err != nil {
		return nil, err
	}
	out := []api.Release{}
	for _, entry := range entries {
		if entry.Err != nil {
			continue
		}
		r, err := s.get(ctx, entry.Digest)
		if api.Invalid.In(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, *describe(r))
	}
	return out, nil
}

func describe(r *depot.Release) *api.Release {
	d := r.Document
	out := &api.Release{Digest: r.Manifest.Digest, Name: d.Name, Version: d.Version, Architecture: d.Architecture, Kernel: d.Kernel,
		RootHash: d.RootHash, Created: d.Created}
	for _, part := range r.Manifest.Parts {
		out.Size += part.Size
	}
	return out
}
