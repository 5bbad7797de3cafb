package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"roost/images"
	"roost/images/durable"
)

// Sections of the cache that this package fills. Later stages add their own under other names.
const (
	SectionBlobs    = "blobs"    // content by SHA-256: packages, indexes, release files
	SectionReleases = "releases" // the newest verified InRelease of each suite and mirror, for work without network
	SectionParsed   = "parsed"   // parsed indexes by the digest of the index
	SectionPartial  = "partial"  // transfers not finished and files being written
)

// touchEvery limits how often a use is recorded: finer is of no use to pruning and would write on every read.
const touchEvery = time.Hour

// Cache is a directory of files by section and key. It is safe for concurrent use, also by several processes.
// While it is open no other process can prune it.
type Cache struct {
	dir  string
	lock *os.File
}

// DefaultDir returns ROOST_CACHE, or roost below XDG_CACHE_HOME, or ~/.cache/roost. getenv is os.Getenv outside tests.
func DefaultDir(getenv func(string) string) (string, error) {
	if dir := getenv("ROOST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) { // the XDG specification says to ignore relative ones
		return filepath.Join(dir, "roost"), nil
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache", "roost"), nil
	}
	return "", errors.New("cannot find cache directory: set ROOST_CACHE, XDG_CACHE_HOME or HOME")
}

// OpenCache opens the cache at dir and makes it if missing. It waits for no one: while another process prunes it fails.
func OpenCache(dir string) (*Cache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open cache: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot open cache %s: %w", dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open cache %s: %w", dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("cannot open cache %s: another process is pruning it (%w)", dir, err)
	}
	return &Cache{dir: dir, lock: lock}, nil
}

// Close lets others prune the cache.
func (c *Cache) Close() error { return c.lock.Close() }

// Dir returns the absolute path of the cache.
func (c *Cache) Dir() string { return c.dir }

// Blob returns the path of the content with digest d, which the caller must not change. When the cache does not have it
// the error is fs.ErrNotExist.
func (c *Cache) Blob(d images.Digest) (string, error) {
	if _, err := images.ParseDigest(string(d)); err != nil {
		return "", err
	}
	return c.Entry(SectionBlobs, d.Hex())
}

// AddBlob stores the content of r, which must have digest d.
func (c *Cache) AddBlob(d images.Digest, r io.Reader) error {
	if _, err := images.ParseDigest(string(d)); err != nil {
		return err
	}
	return c.put(SectionBlobs, d.Hex(), func(f *os.File) error {
		if _, err := io.Copy(f, r); err != nil {
			return err
		}
		return checkDigest(f, d)
	})
}

// Entry returns the path of the file under key in section, and records its use. A missing one is fs.ErrNotExist.
func (c *Cache) Entry(section, key string) (string, error) {
	path, err := c.path(section, key)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot find %s in cache: %w", key, err)
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchEvery {
		// A cache on a read-only disk is of use too; then there is nothing to prune by.
		_ = os.Chtimes(path, now, now)
	}
	return path, nil
}

// keys lists the keys of a section.
func (c *Cache) keys(section string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, section))
	if err != nil && !isMissing(err) {
		return nil, fmt.Errorf("cannot list cache: %w", err)
	}
	var keys []string
	for _, entry := range entries {
		keys = append(keys, entry.Name())
	}
	return keys, nil
}

// PutEntry stores what write writes under key in section, replacing what was there as a whole. When write fails nothing
// changes. The key should be the digest of all inputs: entries are never out of date, only unused.
func (c *Cache) PutEntry(section, key string, write func(w io.Writer) error) error {
	return c.put(section, key, func(f *os.File) error { return write(f) })
}

func (c *Cache) put(section, key string, write func(f *os.File) error) error {
	path, err := c.path(section, key)
	if err != nil {
		return err
	}
	if err := c.makeSections(section); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(c.dir, SectionPartial), "new-*")
	if err != nil {
		return fmt.Errorf("cannot store %s in cache: %w", key, err)
	}
	defer os.Remove(f.Name())
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = durable.Move(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("cannot store %s in cache: %w", key, explainFull(err, c.dir))
	}
	return nil
}

func (c *Cache) makeSections(section string) error {
	for _, name := range []string{SectionPartial, section} {
		if err := os.MkdirAll(filepath.Join(c.dir, name), 0o755); err != nil {
			return fmt.Errorf("cannot make cache section %s: %w", name, err)
		}
	}
	return nil
}

func (c *Cache) path(section, key string) (string, error) {
	if !isKey(section) || !isKey(key) {
		return "", fmt.Errorf("cannot use %q in section %q of the cache: only letters, digits and ._@+- are allowed", key, section)
	}
	return filepath.Join(c.dir, section, key), nil
}

// isKey accepts what is a plain file name everywhere. It must not start with a dot or a hyphen.
func isKey(s string) bool {
	if s == "" || len(s) > 200 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z') && !strings.ContainsRune("._@+-", r)
	})
}

// checkDigest reads f from its start and compares.
func checkDigest(f *os.File, want images.Digest) error {
	got, err := fileDigest(f)
	if err != nil {
		return err
	}
	if got != want {
		return &DigestError{Want: want, Got: got}
	}
	return nil
}

// DigestError says that content is not what its digest promised.
type DigestError struct{ Want, Got images.Digest }

func (e *DigestError) Error() string {
	return fmt.Sprintf("the content has digest %s, want %s", e.Got, e.Want)
}

// explainFull adds to a disk-full error what helps.
func explainFull(err error, dir string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("the disk of %s is full; free some space or run roost cache prune: %w", dir, err)
	}
	return err
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
