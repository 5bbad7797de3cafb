package depot

import (
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
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"roost/images"
	"roost/images/durable"
	"roost/images/release"
)

// Names and limits of an OCI layout directory (image-spec 1.1, image-layout.md).
const (
	layoutFile        = "oci-layout"
	layoutContent     = `{"imageLayoutVersion":"1.0.0"}`
	indexFile         = "index.json"
	blobDirectory     = "blobs/sha256"
	partialDirectory  = "partial" // ours: what is still arriving
	annotationRefName = "org.opencontainers.image.ref.name"
	maxManifest       = images.MaxDocument
)

// layout is an OCI layout directory. Many processes may read and write it: files appear whole, and index.json is changed
// under a lock on the directory.
type layout struct {
	path string
	mu   sync.Mutex // one change of the index at a time in this process, in addition to the lock
}

func openLayout(path string, create bool) (*layout, error) {
	l := &layout{path: path}
	data, err := os.ReadFile(l.at(layoutFile))
	if errors.Is(err, fs.ErrNotExist) && create {
		return l, l.make()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no OCI layout directory (it has no file %s)", path, layoutFile)
	}
	if err != nil {
		return nil, err
	}
	if err := checkLayout(data); err != nil {
		return nil, err
	}
	return l, nil
}

func checkLayout(data []byte) error {
	var v struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := images.DecodeJSON(data, &v); err != nil {
		return fmt.Errorf("cannot read %s: %w", layoutFile, err)
	}
	if !strings.HasPrefix(v.Version, "1.") {
		return fmt.Errorf("cannot read %s: layout version %q, this program knows 1.x", layoutFile, v.Version)
	}
	return nil
}

// make writes an empty layout. The file that makes it one comes last.
func (l *layout) make() error {
	if entries, err := os.ReadDir(l.path); err == nil && len(entries) > 0 {
		known := func(e fs.DirEntry) bool {
			return e.Name() == "blobs" || e.Name() == indexFile || e.Name() == partialDirectory || e.Name() == uploadDirectory || strings.HasSuffix(e.Name(), ".tmp")
		}
		if i := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return !known(e) }); i >= 0 {
			return fmt.Errorf("%s is neither empty nor an OCI layout directory (it has %s)", l.path, entries[i].Name())
		}
	}
	return l.locked(func(d *durable.Dir) error {
		if _, err := d.Read(indexFile); errors.Is(err, fs.ErrNotExist) {
			empty, err := release.Index{}.Encode()
			if err != nil {
				return err
			}
			if err := d.Write(indexFile, empty); err != nil {
				return err
			}
		}
		return d.Write(layoutFile, []byte(layoutContent))
	})
}

func (l *layout) at(name ...string) string {
	return filepath.Join(append([]string{l.path}, name...)...)
}

// blobPath is safe for any d that ParseDigest accepted: 64 hexadecimal digits and nothing else.
func (l *layout) blobPath(d images.Digest) string { return l.at(blobDirectory, d.Hex()) }

// locked runs change while no other process changes the directory's index.
func (l *layout) locked(change func(d *durable.Dir) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, sub := range []string{blobDirectory, partialDirectory} {
		if _, err := durable.Disk(l.at(sub), 0o644); err != nil {
			return err
		}
	}
	lock, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer lock.Close() // gives up the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock %s: %w", l.path, err)
	}
	d, err := durable.Open(l.path, 0o644)
	if err != nil {
		return err
	}
	return change(d)
}

func (l *layout) index() (release.Index, error) {
	data, err := readBounded(l.at(indexFile))
	if err != nil {
		return release.Index{}, err
	}
	return release.ParseIndex(data)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("%s has more than %d bytes", path, maxManifest)
	}
	return data, err
}

// placeOf reads a ref.name annotation. Other tools write a bare tag; its repository is "".
func placeOf(refName string) place {
	repository, tag, _ := cutLast(refName, ":")
	return place{repository, tag}
}

func (p place) refName() string {
	if p.repository == "" {
		return p.tag
	}
	return p.repository + ":" + p.tag
}

func (l *layout) tags(context.Context) ([]place, error) {
	x, err := l.index()
	if err != nil {
		return nil, err
	}
	return placesIn(x), nil
}

func placesIn(x release.Index) []place {
	var places []place
	for _, m := range x.Manifests {
		if ref := m.Annotations[annotationRefName]; ref != "" {
			places = append(places, placeOf(ref))
		}
	}
	return places
}

// lookUp finds a manifest in an index by tag or digest.
func lookUp(x release.Index, repository, reference string) (release.Descriptor, error) {
	if digest, err := images.ParseDigest(reference); err == nil {
		for _, m := range x.Manifests {
			if m.Digest == digest {
				return m, nil
			}
		}
		return release.Descriptor{}, ErrNotFound
	}
	for _, m := range x.Manifests {
		p := placeOf(m.Annotations[annotationRefName])
		if p == (place{repository, reference}) {
			return m, nil
		}
	}
	return release.Descriptor{}, ErrNotFound
}

func (l *layout) manifest(_ context.Context, repository, reference string) ([]byte, error) {
	x, err := l.index()
	if err != nil {
		return nil, err
	}
	m, err := lookUp(x, repository, reference)
	if err != nil {
		return nil, err
	}
	data, err := readBounded(l.blobPath(m.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the index names %s, whose blob is missing: %w", m.Digest, ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	if got := images.DigestOf(data); got != m.Digest {
		return nil, fmt.Errorf("got %s instead of %s: %w", got, m.Digest, ErrCorrupt)
	}
	return data, nil
}

func (l *layout) blob(_ context.Context, _ string, d release.Descriptor, offset int64) (io.ReadCloser, error) {
	f, err := os.Open(l.blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is missing: %w (%w)", d.Digest, ErrNotFound, ErrIncomplete)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != d.Size {
		err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, info.Size(), d.Size, ErrCorrupt)
	}
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (l *layout) hasBlob(_ context.Context, _ string, d release.Descriptor) (bool, error) {
	info, err := os.Stat(l.blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size() == d.Size, err
}

// putBlob stores a blob. What an earlier attempt left is not fetched again: the source is opened behind it.
func (l *layout) putBlob(ctx context.Context, _ string, d release.Descriptor, open opener) error {
	var f *os.File
	var sum hash.Hash
	var offset int64
	for f == nil {
		ok, err := l.hasBlob(ctx, "", d)
		if ok || err != nil {
			return err
		}
		// Another process may have finished the file between the two looks; then it is among the blobs now.
		if f, sum, offset, err = l.partial(d); err != nil && !errors.Is(err, errMoved) {
			return err
		}
	}
	defer f.Close()
	err := l.fill(ctx, f, sum, d, open, offset)
	if errors.Is(err, ErrCorrupt) && offset > 0 {
		// What an earlier attempt left may have been torn by a power cut: once more from the start.
		sum.Reset()
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			err = f.Truncate(0)
		}
		if err == nil {
			err = l.fill(ctx, f, sum, d, open, 0)
		}
	}
	if shared := l.at(partialDirectory, d.Digest.Hex()); err != nil && (f.Name() != shared || errors.Is(err, ErrCorrupt) || errors.Is(err, unix.ENOSPC)) {
		// Wrong bytes, what fits a full disk, and a private file are of no use to the next attempt.
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return noSpace(err)
}

// fill completes the file f, which holds offset bytes with the hash sum, and moves it to its place.
func (l *layout) fill(ctx context.Context, f *os.File, sum hash.Hash, d release.Descriptor, open opener, offset int64) error {
	if offset < d.Size {
		if err := appendFrom(ctx, f, sum, d, open, offset); err != nil {
			return err
		}
	}
	return l.commit(f.Name(), sum, d)
}

func appendFrom(ctx context.Context, f *os.File, sum hash.Hash, d release.Descriptor, open opener, offset int64) error {
	source, err := open(ctx, offset)
	if err != nil {
		return err
	}
	// One byte more than expected is enough to know that it is the wrong content.
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(source, d.Size-offset+1))
	if err == nil && offset+n != d.Size {
		err = fmt.Errorf("%s came as %d bytes or more instead of %d: %w", d.Digest, offset+n, d.Size, ErrCorrupt)
	}
	return errors.Join(err, source.Close())
}

// errMoved means that a partial file was finished by another process while we opened it.
var errMoved = errors.New("file was finished meanwhile")

// partial opens the file in which a blob arrives, with the hash of what it already has. Where another process is filling the
// same file, it opens a private one.
func (l *layout) partial(d release.Descriptor) (*os.File, hash.Hash, int64, error) {
	if _, err := durable.Disk(l.at(partialDirectory), 0o644); err != nil {
		return nil, nil, 0, err
	}
	f, err := os.OpenFile(l.at(partialDirectory, d.Digest.Hex()), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, nil, 0, err
	}
	if f, err = own(f); err != nil {
		return nil, nil, 0, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err == nil && n > d.Size {
		sum.Reset()
		n, err = 0, f.Truncate(0)
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
	}
	if err != nil {
		return nil, nil, 0, errors.Join(err, f.Close())
	}
	return f, sum, n, nil
}

// own locks a partial file that was just opened. Where another process has it, the answer is a private file in its place;
// where another process has finished it, errMoved.
func own(f *os.File) (*os.File, error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		private, err := os.CreateTemp(filepath.Dir(f.Name()), filepath.Base(f.Name())+".*")
		if err == nil {
			err = private.Chmod(0o644)
		}
		return private, errors.Join(err, f.Close())
	}
	// The lock is on the file, not on its name: what is no longer under the name is a blob by now, and not ours to write.
	if opened, err := f.Stat(); err != nil || !sameFile(opened, f.Name()) {
		return nil, errors.Join(errMoved, err, f.Close())
	}
	return f, nil
}

func sameFile(opened fs.FileInfo, name string) bool {
	named, err := os.Lstat(name)
	return err == nil && os.SameFile(opened, named)
}

// commit moves a complete file to its place among the blobs.
func (l *layout) commit(path string, sum hash.Hash, d release.Descriptor) error {
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.Digest.Hex() {
		return fmt.Errorf("got sha256:%s instead of %s: %w", got, d.Digest, ErrCorrupt)
	}
	if _, err := durable.Disk(l.at(blobDirectory), 0o644); err != nil {
		return err
	}
	return durable.Move(path, l.blobPath(d.Digest))
}

func (l *layout) putManifest(ctx context.Context, repository, reference, mediaType string, data []byte) error {
	d := release.Descriptor{MediaType: mediaType, Digest: images.DigestOf(data), Size: int64(len(data)), ArtifactType: artifactType(data)}
	if err := l.putBlob(ctx, repository, d, openBytes(data)); err != nil {
		return err
	}
	return noSpace(l.changeIndex(func(x *release.Index) { enter(x, d, repository, reference) }))
}

// changeIndex rewrites index.json.
func (l *layout) changeIndex(change func(x *release.Index)) error {
	return l.locked(func(dir *durable.Dir) error {
		x, err := l.index()
		if err != nil {
			return err
		}
		change(&x)
		data, err := x.Encode()
		if err != nil {
			return err
		}
		if len(data) > maxManifest {
			return fmt.Errorf("the index would have %d bytes, limit %d: remove releases first", len(data), maxManifest)
		}
		return dir.Write(indexFile, data)
	})
}

// enter puts d into the index: by its digest alone, or under a tag that then names nothing else.
func enter(x *release.Index, d release.Descriptor, repository, reference string) {
	refName := ""
	if _, err := images.ParseDigest(reference); err != nil {
		refName = place{repository, reference}.refName()
		d.Annotations = map[string]string{annotationRefName: refName}
	}
	var kept []release.Descriptor
	known := false
	for _, m := range x.Manifests {
		ref := m.Annotations[annotationRefName]
		switch {
		case m.Digest == d.Digest && (ref == refName || refName == ""):
			known = true
		case refName != "" && m.Digest == d.Digest && ref == "":
			continue // entered below, under its new tag
		case refName != "" && ref == refName && m.ArtifactType != images.MediaTypeRelease:
			continue // an older list of signatures or attachments
		case refName != "" && ref == refName:
			m.Annotations = nil // the tag moves; who asks for the older release by digest still finds it
		}
		kept = append(kept, m)
	}
	if !known {
		kept = append(kept, d)
	}
	x.Manifests = kept
}

// artifactType is what the index says about a manifest besides its media type.
func artifactType(manifest []byte) string {
	var m struct {
		ArtifactType string `json:"artifactType"`
	}
	_ = images.DecodeJSON(manifest, &m) // a manifest without one is as good
	return m.ArtifactType
}

func openBytes(data []byte) opener {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(data[min(offset, int64(len(data))):]))), nil
	}
}

// noSpace marks what a full disk causes.
func noSpace(err error) error {
	if errors.Is(err, ErrNoSpace) {
		return err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
