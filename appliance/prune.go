package appliance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"roost/images"
	"roost/images/depot"
)

// ownShelf is the shelf of an installed controller, which may tidy it. The seed serves an operator's depot, which it must not
// touch.
type ownShelf struct{ *shelf }

// Arrived returns when the release's manifest was written, which is the last part of it to come.
func (s ownShelf) Arrived(_ context.Context, digest images.Digest) (time.Time, error) {
	info, err := os.Stat(filepath.Join(s.dir, "blobs", "sha256", digest.Hex()))
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot tell the age of release %s: %w", digest, err)
	}
	return info.ModTime(), nil
}

// Remove takes the release, its signatures and papers from the index.
func (s ownShelf) Remove(ctx context.Context, digest images.Digest) error {
	r, err := s.get(ctx, digest)
	if err != nil {
		return err
	}
	if err := s.depot.Remove(ctx, r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, digest)
	return nil
}

// Sweep frees what nothing names any more.
func (s ownShelf) Sweep(_ context.Context, age time.Duration) (int64, error) {
	return depot.Prune(s.dir, age)
}
