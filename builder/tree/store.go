package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"roost/images"
)

// Store is a directory of file contents by digest and of trees by key: the cache behind every stage that makes trees. Any
// number of processes may use one at a time; whatever is half written when power fails is found out and made again.
type Store struct {
	dir   string
	heads sync.Pool // of *[smallBlob]byte
}

// OpenStore makes the directory if it is not there.
func OpenStore(dir string) (*Store, error) {
	for _, section := range []string{"blobs", "trees", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, section), 0o755); err != nil {
			return nil, fmt.Errorf("cannot open tree store: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

// FileTime is the modification time of every file of the store in Unix seconds, 1 January 2025: a file that is linked or
// copied from it cannot tell when a cache was filled.
const FileTime = 1735689600

// Path returns where the content d is, or would be, as a plain file. Nobody may write to it.
func (s *Store) Path(d images.Digest) string {
	digits := d.Hex()
	return filepath.Join(s.dir, "blobs", digits[:2], digits[2:])
}

// smallBlob is what is digested in memory before the store looks whether it has it.
const smallBlob = 1 << 20

// Put stores what r gives and returns its digest and size in bytes. Large contents are streamed.
func (s *Store) Put(r io.Reader) (images.Digest, int64, error) {
	buffer, ok := s.heads.Get().(*[smallBlob]byte)
	if !ok {
		buffer = new([smallBlob]byte)
	}
	defer s.heads.Put(buffer)
	n, err := io.ReadFull(r, buffer[:])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", 0, err
	}
	head := buffer[:n]
	if n < smallBlob {
		d := images.DigestOf(head)
		return d, int64(len(head)), s.putSmall(d, head)
	}
	return s.putStream(io.MultiReader(bytes.NewReader(head), r))
}

// PutBytes stores b.
func (s *Store) PutBytes(b []byte) (images.Digest, error) {
	d := images.DigestOf(b)
	return d, s.putSmall(d, b)
}

func (s *Store) putSmall(d images.Digest, b []byte) error {
	if s.Has(d, int64(len(b))) {
		return nil
	}
	return s.publish(s.Path(d), func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

func (s *Store) putStream(r io.Reader) (d images.Digest, size int64, err error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "blob-")
	if err != nil {
		return "", 0, fmt.Errorf("cannot store content: %w", err)
	}
	defer os.Remove(f.Name()) // fails harmlessly once renamed
	sum := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, sum), r)
	if err = errors.Join(err, finish(f)); err != nil {
		return "", 0, fmt.Errorf("cannot store content: %w", err)
	}
	d = images.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	if s.Has(d, size) {
		return d, size, nil
	}
	return d, size, s.moveIn(f.Name(), s.Path(d))
}

// publish writes a file under a temporary name and renames it to name.
func (s *Store) publish(name string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "new-")
	if err != nil {
		return fmt.Errorf("cannot store content: %w", err)
	}
	defer os.Remove(f.Name()) // fails harmlessly once renamed
	if err := errors.Join(write(f), finish(f)); err != nil {
		return fmt.Errorf("cannot store content: %w", err)
	}
	return s.moveIn(f.Name(), name)
}

// finish closes f with the mode and the time that all files of the store have.
func finish(f *os.File) error {
	when := time.Unix(FileTime, 0)
	return errors.Join(f.Chmod(0o644), os.Chtimes(f.Name(), when, when), f.Close())
}

func (s *Store) moveIn(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
			err = os.Rename(from, to)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot store content: %w", err)
	}
	return nil
}

// Has tells whether the content d of size bytes is there.
func (s *Store) Has(d images.Digest, size int64) bool {
	info, err := os.Stat(s.Path(d))
	return err == nil && info.Size() == size
}

// Open returns a reader of the content d. It checks what it reads: a content that is not what d says ends in an error and
// leaves the store, so that the next build makes it again.
func (s *Store) Open(d images.Digest) (io.ReadCloser, error) {
	f, err := os.Open(s.Path(d))
	if err != nil {
		return nil, fmt.Errorf("cannot open content %s: %w", d, err)
	}
	return &checkedReader{store: s, file: f, want: d, sum: sha256.New()}, nil
}

// ReadFile returns the content d whole, checked; for small files.
func (s *Store) ReadFile(d images.Digest) ([]byte, error) {
	b, err := os.ReadFile(s.Path(d))
	if err != nil {
		return nil, fmt.Errorf("cannot open content %s: %w", d, err)
	}
	if images.DigestOf(b) != d {
		return nil, s.drop(d)
	}
	return b, nil
}

// drop removes a content that is not what its name says.
func (s *Store) drop(d images.Digest) error {
	os.Remove(s.Path(d))
	return fmt.Errorf("cannot read content %s: it was damaged and is removed from the cache; build again", d)
}

// checkedReader digests what it passes on and judges at the end.
type checkedReader struct {
	store *Store
	file  *os.File
	want  images.Digest
	sum   hash.Hash
}

func (r *checkedReader) Read(p []byte) (int, error) {
	n, err := r.file.Read(p)
	r.sum.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(r.sum.Sum(nil)) != r.want.Hex() {
		return n, r.store.drop(r.want)
	}
	return n, err
}

func (r *checkedReader) Close() error { return r.file.Close() }

// SaveTree keeps t under key, which names what t was made of.
func (s *Store) SaveTree(key images.Digest, t Tree) error {
	b := t.Encode()
	if err := s.publish(s.treePath(key), func(f *os.File) error {
		sum := sha256.Sum256(b)
		if _, err := f.Write(sum[:]); err != nil {
			return err
		}
		_, err := f.Write(b)
		return err
	}); err != nil {
		return err
	}
	now := time.Now()
	return os.Chtimes(s.treePath(key), now, now)
}

// LoadTree returns the tree kept under key. It is found only if every content it names is there too; a damaged record
// counts as not found.
func (s *Store) LoadTree(ctx context.Context, key images.Digest) (Tree, bool, error) {
	t, ok := s.peek(s.treePath(key))
	if !ok {
		return Tree{}, false, ctx.Err()
	}
	if now := time.Now(); os.Chtimes(s.treePath(key), now, now) != nil { // Prune reads when a tree was last used
		return Tree{}, false, nil
	}
	for _, e := range t.entries {
		if e.Type == File && !s.Has(e.Blob, e.Size) {
			return Tree{}, false, ctx.Err()
		}
	}
	return t, true, ctx.Err()
}

// peek reads a tree's record; one that is missing, damaged or of an older form is not there.
func (s *Store) peek(name string) (Tree, bool) {
	b, err := os.ReadFile(name)
	if err != nil || len(b) < sha256.Size || sha256.Sum256(b[sha256.Size:]) != [sha256.Size]byte(b[:sha256.Size]) {
		return Tree{}, false
	}
	t, err := Decode(b[sha256.Size:])
	return t, err == nil
}

func (s *Store) treePath(key images.Digest) string {
	digits := key.Hex()
	return filepath.Join(s.dir, "trees", digits[:2], digits[2:])
}

// Scratch makes an empty directory in the store's file system, for work that ends with removing it.
func (s *Store) Scratch(prefix string) (string, error) {
	dir, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), prefix)
	if err != nil {
		return "", fmt.Errorf("cannot make a working directory: %w", err)
	}
	return dir, nil
}
