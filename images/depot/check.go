package depot

import (
	"context"
	"errors"
	"fmt"

	"roost/images"
	"roost/images/release"
)

// Problem is one manifest of a layout that is not whole.
type Problem struct {
	Manifest images.Digest
	Tag      string // its ref.name, "" if it has none
	Err      error
}

// Check looks for what power cuts and failing disks leave in a layout directory: manifests and blobs that are missing or
// of another size and, with deep set, of another digest, for which it reads every byte.
func Check(path string, deep bool) ([]Problem, error) {
	l, err := openLayout(path, false)
	if err != nil {
		return nil, fmt.Errorf("cannot check layout: %w", err)
	}
	problems, err := l.check(deep)
	if err != nil {
		return nil, fmt.Errorf("cannot check layout %s: %w", path, err)
	}
	return problems, nil
}

func (l *layout) check(deep bool) ([]Problem, error) {
	x, err := l.index()
	if err != nil {
		return nil, err
	}
	var problems []Problem
	for _, m := range x.Manifests {
		if err := l.checkManifest(m, deep); err != nil {
			problems = append(problems, Problem{m.Digest, m.Annotations[annotationRefName], err})
		}
	}
	return problems, nil
}

func (l *layout) checkManifest(m release.Descriptor, deep bool) error {
	data, err := l.manifest(context.Background(), "", string(m.Digest))
	if err != nil {
		return err
	}
	if m.MediaType != release.MediaTypeManifest {
		return nil
	}
	blobs, err := release.Blobs(data)
	if err != nil {
		return err
	}
	var wrong []error
	for _, b := range blobs {
		body, err := l.blob(context.Background(), "", b, 0)
		if err == nil {
			err = body.Close()
		}
		if err == nil && deep {
			var got images.Digest
			if got, _, err = digestFile(l.blobPath(b.Digest)); err == nil && got != b.Digest {
				err = fmt.Errorf("blob %s is %s: %w", b.Digest, got, ErrCorrupt)
			}
		}
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}
