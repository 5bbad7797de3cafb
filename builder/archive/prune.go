package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"roost/images"
)

// Usage says what one section of the cache holds.
type Usage struct {
	Section string    `json:"section"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`           // as allocated on disk
	Oldest  time.Time `json:"oldest,omitzero"` // earliest last use
	Newest  time.Time `json:"newest,omitzero"` // latest last use
}

// cached is one file of the cache.
type cached struct {
	section string
	path    string
	bytes   int64
	used    time.Time
}

// Usage lists the sections by name.
func (c *Cache) Usage() ([]Usage, error) {
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	var all []Usage
	for _, f := range files {
		if len(all) == 0 || all[len(all)-1].Section != f.section {
			all = append(all, Usage{Section: f.section, Oldest: f.used})
		}
		u := &all[len(all)-1]
		u.Files++
		u.Bytes += f.bytes
		if f.used.Before(u.Oldest) {
			u.Oldest = f.used
		}
		if f.used.After(u.Newest) {
			u.Newest = f.used
		}
	}
	return all, nil
}

// files lists all files, by section. What vanishes meanwhile is left out.
func (c *Cache) files() ([]cached, error) {
	sections, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list cache: %w", err)
	}
	var all []cached
	for _, section := range sections {
		if !section.IsDir() || !isKey(section.Name()) {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(c.dir, section.Name()))
		if err != nil {
			return nil, fmt.Errorf("cannot list cache: %w", err)
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if isMissing(err) || (err == nil && !info.Mode().IsRegular()) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("cannot list cache: %w", err)
			}
			f := cached{section.Name(), filepath.Join(c.dir, section.Name(), entry.Name()), info.Size(), info.ModTime()}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				f.bytes = st.Blocks * 512 // a sparse layer takes less than its size
			}
			all = append(all, f)
		}
	}
	return all, nil
}

// Prune says what to remove. The zero value removes nothing but leftovers of interrupted work older than a day.
type Prune struct {
	UnusedFor time.Duration // remove what was not used for so long; zero: no limit of age
	MaxBytes  int64         // then remove the least recently used until the rest fits; negative: everything; zero: no limit of size
	Section   string        // look at this section only; empty: at all
	DryRun    bool
}

// leftoverAge is how long an unfinished transfer is kept for another try.
const leftoverAge = 24 * time.Hour

// Prune removes files and returns what it removed, by section. It fails when another process has the cache open, since
// that one may be about to read what would be removed.
func (c *Cache) Prune(p Prune, now time.Time) (removed []Usage, err error) {
	err = c.Alone(func() error {
		removed, err = c.prune(p, now)
		return err
	})
	return removed, err
}

// Alone calls do while no other process has the cache open, for those who prune what they keep beside its sections.
func (c *Cache) Alone(do func() error) error {
	// The kernel gives up the shared lock before it tries for the exclusive one, so it has to be taken back in any case.
	defer unix.Flock(int(c.lock.Fd()), unix.LOCK_SH)
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("cannot prune cache %s: another process is using it (%w)", c.dir, err)
	}
	return do()
}

func (c *Cache) prune(p Prune, now time.Time) ([]Usage, error) {
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	removed := map[string]*Usage{}
	for _, f := range p.choose(files, now) {
		if !p.DryRun {
			if err := os.Remove(f.path); err != nil && !isMissing(err) {
				return nil, fmt.Errorf("cannot prune cache: %w", err)
			}
		}
		u := removed[f.section]
		if u == nil {
			u = &Usage{Section: f.section}
			removed[f.section] = u
		}
		u.Files++
		u.Bytes += f.bytes
	}
	var all []Usage
	for _, u := range removed {
		all = append(all, *u)
	}
	slices.SortFunc(all, func(a, b Usage) int { return strings.Compare(a.Section, b.Section) })
	return all, nil
}

// choose picks the files to remove: first what is too old, then the least recently used of the rest.
func (p Prune) choose(files []cached, now time.Time) []cached {
	var chosen, rest []cached
	var total int64
	for _, f := range files {
		if p.Section != "" && f.section != p.Section {
			continue
		}
		age := now.Sub(f.used)
		if (p.UnusedFor > 0 && age > p.UnusedFor) || (f.section == SectionPartial && age > leftoverAge) {
			chosen = append(chosen, f)
			continue
		}
		rest = append(rest, f)
		total += f.bytes
	}
	slices.SortStableFunc(rest, func(a, b cached) int { return a.used.Compare(b.used) })
	for _, f := range rest {
		if p.MaxBytes == 0 || (p.MaxBytes > 0 && total <= p.MaxBytes) {
			break
		}
		chosen = append(chosen, f)
		total -= f.bytes
	}
	return chosen
}

// Verify reads every blob, removes those whose content no longer has their digest, and returns their digests. A removed
// blob is fetched again when next needed.
func (c *Cache) Verify(ctx context.Context) (damaged []images.Digest, err error) {
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if file.section != SectionBlobs {
			continue
		}
		if err := ctx.Err(); err != nil {
			return damaged, err
		}
		want := images.Digest("sha256:" + filepath.Base(file.path))
		err := verifyBlob(file.path, want)
		var other *DigestError
		switch {
		case err == nil || isMissing(err):
			continue
		case !errors.As(err, &other):
			return damaged, fmt.Errorf("cannot verify cache: %w", err)
		}
		if err := os.Remove(file.path); err != nil && !isMissing(err) {
			return damaged, fmt.Errorf("cannot remove damaged blob: %w", err)
		}
		damaged = append(damaged, want)
	}
	return damaged, nil
}

func verifyBlob(path string, want images.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkDigest(f, want)
}

// fileDigest reads f from its start.
func fileDigest(f *os.File) (images.Digest, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return "", err
	}
	return images.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), nil
}
