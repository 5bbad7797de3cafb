package appliance

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"roost/appliance/api"
	"roost/images"
	"roost/images/depot"
)

// shelf shows the site's depot to the managers. What a digest names never changes, so each release is read once.
type shelf struct {
	depot *depot.Depot
	dir   string // of the layout

	mu    sync.Mutex // guards known
	known map[images.Digest]*depot.Release
}

func newShelf(d *depot.Depot, dir string) *shelf {
	return &shelf{depot: d, dir: dir, known: map[images.Digest]*depot.Release{}}
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

// Releases lists the shelf. A release that cannot be read is left out; the registry tells of it.
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
