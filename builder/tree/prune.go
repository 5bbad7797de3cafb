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
	Files          int
	Bytes          int64
	Oldest, Newest time.Time // earliest and latest last use of a tree; zero without trees
}

func (u *Usage) add(info fs.FileInfo) {
	u.Files++
	u.Bytes += info.Size()
}

func (u *Usage) addTree(info fs.FileInfo) {
	u.add(info)
	used := info.ModTime()
	if u.Oldest.IsZero() || used.Before(u.Oldest) {
		u.Oldest = used
	}
	if used.After(u.Newest) {
		u.Newest = used
	}
}

// Usage says what the store holds.
func (s *Store) Usage() (Usage, error) {
	var u Usage
	err := s.walk("trees", func(_ string, info fs.FileInfo) error {
		u.addTree(info)
		return nil
	})
	for _, section := range []string{"blobs", "tmp"} {
		err = errors.Join(err, s.walk(section, func(_ string, info fs.FileInfo) error {
			u.add(info)
			return nil
		}))
	}
	return u, err
}

// Prune removes trees that nobody loaded or saved since before, then every content that no remaining tree names, and work
// that was left behind. It returns what it removed. Nobody may use the store meanwhile.
//
// A dry run removes nothing and tells what it would remove.
func (s *Store) Prune(ctx context.Context, before time.Time, dryRun bool) (Usage, error) {
	var removed Usage
	remove := os.Remove
	if dryRun {
		remove = func(string) error { return nil }
	}
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
		removed.addTree(info)
		return remove(name)
	})
	if err == nil {
		err = s.walk("blobs", func(name string, info fs.FileInfo) error {
			if named[name] {
				return ctx.Err()
			}
			removed.add(info)
			return errors.Join(ctx.Err(), remove(name))
		})
	}
	if err == nil {
		err = s.clearWork(&removed, dryRun)
	}
	if err != nil {
		return removed, fmt.Errorf("cannot prune the tree store: %w", err)
	}
	return removed, nil
}

// clearWork removes what builds that were killed left in tmp.
func (s *Store) clearWork(removed *Usage, dryRun bool) error {
	dir := filepath.Join(s.dir, "tmp")
	if err := s.walk("tmp", func(_ string, info fs.FileInfo) error {
		removed.add(info)
		return nil
	}); err != nil || dryRun {
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
