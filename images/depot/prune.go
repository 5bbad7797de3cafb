package depot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"roost/images"
	"roost/images/durable"
	"roost/images/release"
)

// remover is a shelf from which things can be taken.
type remover interface {
	removeManifest(ctx context.Context, repository, reference string) error
}

// Remove takes a release off the shelf: its tags, its signatures and its papers. The blobs stay until Prune finds that
// nothing names them.
func (d *Depot) Remove(ctx context.Context, r *Release) error {
	if err := d.remove(ctx, r); err != nil {
		return fmt.Errorf("cannot remove release %s %s from %s: %w", r.Document.Name, r.Document.Version, d, err)
	}
	return nil
}

func (d *Depot) remove(ctx context.Context, r *Release) error {
	s, ok := d.shelf.(remover)
	if !ok {
		return ErrReadOnly
	}
	signatures, referrers := release.SignatureTag(r.Manifest.Digest), release.ReferrersTag(r.Manifest.Digest)
	// The release itself goes first: what is named must be whole. Tags go with their manifests in most registries; some
	// want to be told, others have no way to.
	references := []string{Tag(r.Document.Version), string(r.Manifest.Digest), signatures, referrers}
	if p, err := d.shelf.manifest(ctx, r.repository, references[0]); err != nil || images.DigestOf(p) != r.Manifest.Digest {
		references = references[1:] // the tag names another release by now
	}
	attached, err := d.referrers(ctx, r.repository, r.Manifest.Digest)
	if err != nil {
		return err
	}
	for _, a := range attached {
		references = append(references, string(a.Digest))
	}
	for _, tag := range []string{signatures, referrers} {
		if data, err := d.shelf.manifest(ctx, r.repository, tag); err == nil {
			references = append(references, string(images.DigestOf(data)))
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	for _, reference := range references {
		err := s.removeManifest(ctx, r.repository, reference)
		if errors.Is(err, ErrNotFound) || (validTag(reference) && errors.Is(err, ErrReadOnly)) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) removeManifest(_ context.Context, repository, reference string) error {
	found := false
	err := l.changeIndex(func(x *release.Index) {
		x.Manifests = slices.DeleteFunc(x.Manifests, func(m release.Descriptor) bool {
			gone := string(m.Digest) == reference || placeOf(m.Annotations[annotationRefName]) == place{repository, reference}
			found = found || gone
			return gone
		})
	})
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

func (s *remote) removeManifest(ctx context.Context, repository, reference string) error {
	resp, err := s.do(ctx, request{
		method: http.MethodDelete, repository: repository, path: repository + "/manifests/" + reference,
		want: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent},
	})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Prune deletes from a layout directory the blobs that no manifest in its index names, and what never finished arriving.
// Whatever was written less than age ago stays: it may belong to a publication under way, whose manifest comes last. It
// returns how many bytes came free.
func Prune(path string, age time.Duration) (int64, error) {
	l, err := openLayout(path, false)
	if err != nil {
		return 0, fmt.Errorf("cannot prune: %w", err)
	}
	var freed int64
	err = l.locked(func(*durable.Dir) error {
		named, err := l.named()
		if err != nil {
			return err
		}
		before := time.Now().Add(-age)
		for _, directory := range []string{blobDirectory, partialDirectory} {
			n, err := removeOld(l.at(directory), before, func(name string) bool { return directory == blobDirectory && named[name] })
			freed += n
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return freed, fmt.Errorf("cannot prune %s: %w", path, err)
	}
	return freed, nil
}

// named returns the hexadecimal digests of all manifests in the index and of all that they name. An index that cannot be
// read whole is an error: nothing is deleted on half the truth.
func (l *layout) named() (map[string]bool, error) {
	x, err := l.index()
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	for _, m := range x.Manifests {
		named[m.Digest.Hex()] = true
		if m.MediaType != release.MediaTypeManifest {
			continue
		}
		data, err := l.manifest(context.Background(), "", string(m.Digest))
		if err != nil {
			return nil, err
		}
		blobs, err := release.Blobs(data)
		if err != nil {
			return nil, err
		}
		for _, b := range blobs {
			named[b.Digest.Hex()] = true
		}
	}
	return named, nil
}

func removeOld(directory string, before time.Time, keep func(name string) bool) (freed int64, err error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return freed, err
		}
		if keep(entry.Name()) || !info.Mode().IsRegular() || info.ModTime().After(before) {
			continue
		}
		if err := os.Remove(filepath.Join(directory, entry.Name())); err != nil {
			return freed, err
		}
		freed += info.Size()
	}
	return freed, nil
}
