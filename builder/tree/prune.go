package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"roost/images"
)

// Usage counts files of a store.
type Usage struct {
	Files int
	Bytes int64
}

func (u *Usage) add(size int64) {
	u.Files++
	u.Bytes += size
}

// Usage says what the store holds.
func (s *Store) Usage() (Usage, error) {
	var u Usage
	err := s.walk("", func(_ string, info fs.FileInfo) error {
		u.add(info.Size())
		return nil
	})
	return u, err
}

// Prune removes trees that nobody loaded or saved since before, then every content that no remaining tree names, and work
// that was left behind. It returns what it removed. Nobody may use the store meanwhile.
func (s *Store) Prune(ctx context.Context, before time.Time) (Usage, error) {
	var removed Usage
	named := map[string]bool{}
	err := s.walk("trees", func(name string, info fs.FileInfo) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		digits := filepath.Base(filepath.Dir(name)) + filepath.Base(name)
		if t, ok := s.peek(name); ok && !info.ModTime().Before(before) {
			for _, e := range t.entries {
				if e.Type == File {
					named[s.Path(e.Blob)] = true
				}
			}
			return nil
		}
		if _, err := images.ParseDigest("sha256:" + digits); err != nil {
			return nil // not ours
		}
		removed.add(info.Size())
		return os.Remove(name)
	})
	if err == nil {
		err = s.walk("blobs", func(name string, info fs.FileInfo) error {
			if named[name] {
				return ctx.Err()
			}
			removed.add(info.Size())
			return errors.Join(ctx.Err(), os.Remove(name))
		})
	}
	if err == nil {
		err = s.clearWork(&removed)
	}
	if err != nil {
		return removed, fmt.Errorf("cannot prune the tree store: %w", err)
	}
	return removed, nil
}

// clearWork removes what builds that were killed left in tmp.
func (s *Store) clearWork(removed *Usage) error {
	dir := filepath.Join(s.dir, "tmp")
	if err := s.walk("tmp", func(_ string, info fs.FileInfo) error {
		removed.add(info.Size())
		return nil
	}); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755))
}

// walk visits the regular files of a section.
func (s *Store) walk(section string, visit func(name string, info fs.FileInfo) error) error {
	return filepath.WalkDir(filepath.Join(s.dir, section), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return visit(name, info)
	})
}
