package depot

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"roost/images"
	"roost/images/durable"
	"roost/images/release"
)

// uploadDirectory holds, for each upload, the file ID with the bytes and ID.json with how many of them were acknowledged.
const uploadDirectory = "uploads"

// maxUploadAge is how long an upload may lie untouched before it is removed.
const maxUploadAge = 24 * time.Hour

// uploads are the uploads under way in a registry.
type uploads struct {
	layout  *layout
	path    string
	state   *durable.Dir
	maxBlob int64
	limit   int

	mu   sync.Mutex
	busy map[string]bool     // uploads that a request works on
	sums map[string]*running // of uploads begun in this life
}

// running is the hash of the first n bytes of an upload, so that they need not be read again at the end.
type running struct {
	hash.Hash
	n int64
}

// uploadState is what ID.json says.
type uploadState struct {
	Size int64 `json:"size"` // bytes that are synced and acknowledged
}

func openUploads(l *layout, c RegistryConfig) (*uploads, error) {
	u := &uploads{layout: l, path: l.at(uploadDirectory), maxBlob: c.MaxBlob, limit: c.Uploads, busy: map[string]bool{}, sums: map[string]*running{}}
	state, err := durable.Open(u.path, 0o600)
	if err != nil {
		return nil, err
	}
	u.state = state
	return u, u.sweep(time.Now())
}

func (u *uploads) file(id string) string { return filepath.Join(u.path, id) }

// sweep removes uploads that nobody touched for long, and halves of one.
func (u *uploads) sweep(now time.Time) error {
	names, err := u.state.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		id := strings.TrimSuffix(name, ".json")
		info, err := os.Stat(u.file(id))
		if err == nil && now.Sub(info.ModTime()) < maxUploadAge {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := u.remove(id); err != nil {
			return err
		}
	}
	return nil
}

func (u *uploads) remove(id string) error {
	u.forget(id)
	return errors.Join(u.state.Remove(id), u.state.Remove(id+".json"))
}

// sum returns the running hash of an upload if it covers exactly size bytes.
func (u *uploads) sum(id string, size int64) *running {
	u.mu.Lock()
	defer u.mu.Unlock()
	if sum := u.sums[id]; sum != nil && sum.n == size {
		return sum
	}
	return nil
}

func (u *uploads) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.sums, id)
}

// claim marks an upload as worked on, so that two requests cannot mix their bytes.
func (u *uploads) claim(id string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[id] {
		return faultf(http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request is writing this upload")
	}
	u.busy[id] = true
	return nil
}

func (u *uploads) release(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.busy, id)
}

// begin makes an empty upload.
func (u *uploads) begin() (string, error) {
	if err := u.sweep(time.Now()); err != nil {
		return "", err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	names, err := u.state.List()
	if err != nil {
		return "", err
	}
	if len(names) >= 2*u.limit {
		return "", faultf(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d uploads are under way", u.limit)
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	id := hex.EncodeToString(random[:])
	if err := u.state.Create(id, nil); err != nil {
		return "", err
	}
	u.sums[id] = &running{Hash: sha256.New()}
	return id, u.save(id, 0)
}

func (u *uploads) save(id string, size int64) error {
	data, err := json.Marshal(uploadState{size})
	if err != nil {
		return err
	}
	return u.state.Write(id+".json", data)
}

// size returns how many bytes of an upload were acknowledged.
func (u *uploads) size(id string) (int64, error) {
	data, err := u.state.Read(id + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, faultf(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no upload %s", id)
	}
	if err != nil {
		return 0, err
	}
	var s uploadState
	if err := json.Unmarshal(data, &s); err != nil {
		return 0, fmt.Errorf("cannot parse state of upload %s: %w", id, err)
	}
	return s.Size, nil
}

// add appends body to an upload and returns its new size. Whatever arrives before an error is kept, so that the client can
// go on from there, except when the disk is full: then the upload is as before.
func (u *uploads) add(id string, body io.Reader) (int64, error) {
	size, err := u.size(id)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(u.file(id), os.O_WRONLY, 0)
	if err != nil {
		return size, err
	}
	defer f.Close()
	// Behind the acknowledged bytes may lie what a crash left.
	if err := f.Truncate(size); err != nil {
		return size, err
	}
	if _, err := f.Seek(size, io.SeekStart); err != nil {
		return size, err
	}
	to := io.Writer(f)
	sum := u.sum(id, size)
	if sum != nil {
		to = io.MultiWriter(f, sum)
	}
	n, copyErr := io.Copy(to, io.LimitReader(body, u.maxBlob-size+1))
	if sum != nil {
		sum.n += n // after a failed write it is behind or ahead of the file, matches no size, and is not used
	}
	switch {
	case noSpaceLeft(copyErr):
		u.forget(id)
		return size, noSpace(errors.Join(copyErr, f.Truncate(size)))
	case size+n > u.maxBlob:
		return size, errors.Join(faultf(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "blobs may have %d bytes", u.maxBlob), u.remove(id))
	}
	if err := f.Sync(); err != nil {
		u.forget(id)
		return size, noSpace(errors.Join(err, f.Truncate(size)))
	}
	if err := u.save(id, size+n); err != nil {
		return size, noSpace(err)
	}
	return size + n, copyErr
}

func noSpaceLeft(err error) bool { return errors.Is(noSpace(err), ErrNoSpace) }

// finish checks an upload against digest and makes it a blob.
func (u *uploads) finish(id string, digest images.Digest) error {
	size, err := u.size(id)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(u.file(id), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	sum := u.sum(id, size)
	if sum == nil { // begun before a restart
		sum = &running{Hash: sha256.New()}
		if _, err := io.Copy(sum, f); err != nil {
			return err
		}
	}
	err = u.layout.commit(u.file(id), sum, release.Descriptor{Digest: digest, Size: size})
	if errors.Is(err, ErrCorrupt) {
		err = faultf(http.StatusBadRequest, "DIGEST_INVALID", "%v", err)
	}
	return errors.Join(err, u.remove(id))
}

func (g *Registry) beginUpload(w http.ResponseWriter, r *http.Request, q route) error {
	query := r.URL.Query()
	if mount := query.Get("mount"); validDigest(mount) {
		if _, err := os.Stat(g.layout.blobPath(images.Digest(mount))); err == nil {
			created(w, q, images.Digest(mount))
			return nil
		}
	}
	digest := query.Get("digest")
	if digest != "" && !validDigest(digest) {
		return faultf(http.StatusBadRequest, "DIGEST_INVALID", "digest %q: this registry knows SHA-256 only", digest)
	}
	id, err := g.uploads.begin()
	if err != nil {
		return err
	}
	if digest != "" {
		return g.complete(w, r, q, id, images.Digest(digest))
	}
	accepted(w, q, id, 0)
	return nil
}

func (g *Registry) uploadStatus(w http.ResponseWriter, _ *http.Request, q route) error {
	size, err := g.uploads.size(q.argument)
	if err != nil {
		return err
	}
	uploadHeader(w, q, q.argument, size)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Registry) patchUpload(w http.ResponseWriter, r *http.Request, q route) error {
	if err := g.uploads.claim(q.argument); err != nil {
		return err
	}
	defer g.uploads.release(q.argument)
	if err := g.checkRange(w, r, q); err != nil {
		return err
	}
	size, err := g.uploads.add(q.argument, g.patient(w, r))
	if err != nil {
		return clientGone(err)
	}
	accepted(w, q, q.argument, size)
	return nil
}

// checkRange refuses a chunk that does not begin where the upload ends, and says where that is.
func (g *Registry) checkRange(w http.ResponseWriter, r *http.Request, q route) error {
	size, err := g.uploads.size(q.argument)
	if err != nil {
		return err
	}
	header := r.Header.Get("Content-Range")
	if header == "" {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(header, "bytes "), "-")
	if first != fmt.Sprint(size) {
		uploadHeader(w, q, q.argument, size)
		return faultf(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "chunk begins at %s, the upload has %d bytes", first, size)
	}
	return nil
}

func (g *Registry) finishUpload(w http.ResponseWriter, r *http.Request, q route) error {
	digest := r.URL.Query().Get("digest")
	if !validDigest(digest) {
		return faultf(http.StatusBadRequest, "DIGEST_INVALID", "digest %q: this registry knows SHA-256 only", digest)
	}
	return g.complete(w, r, q, q.argument, images.Digest(digest))
}

// complete takes the last bytes of an upload and makes it a blob.
func (g *Registry) complete(w http.ResponseWriter, r *http.Request, q route, id string, digest images.Digest) error {
	if err := g.uploads.claim(id); err != nil {
		return err
	}
	defer g.uploads.release(id)
	q.argument = id
	if err := g.checkRange(w, r, q); err != nil {
		return err
	}
	if _, err := g.uploads.add(id, g.patient(w, r)); err != nil {
		return clientGone(err)
	}
	if err := g.uploads.finish(id, digest); err != nil {
		return err
	}
	created(w, q, digest)
	return nil
}

func (g *Registry) cancelUpload(w http.ResponseWriter, _ *http.Request, q route) error {
	if err := g.uploads.claim(q.argument); err != nil {
		return err
	}
	defer g.uploads.release(q.argument)
	if _, err := g.uploads.size(q.argument); err != nil {
		return err
	}
	if err := g.uploads.remove(q.argument); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// patient returns the body of r, each read from which must bring something within the stall time.
func (g *Registry) patient(w http.ResponseWriter, r *http.Request) io.Reader {
	control := http.NewResponseController(w)
	return readerFunc(func(p []byte) (int, error) {
		_ = control.SetReadDeadline(time.Now().Add(g.config.Stall)) // a connection without deadlines has no stall time
		return r.Body.Read(p)
	})
}

// clientGone tells a body that broke off from a failure of ours.
func clientGone(err error) error {
	var f *fault
	if errors.As(err, &f) || errors.Is(err, ErrNoSpace) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded) {
		return faultf(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the body ended early")
	}
	return err
}

func accepted(w http.ResponseWriter, q route, id string, size int64) {
	uploadHeader(w, q, id, size)
	w.WriteHeader(http.StatusAccepted)
}

func uploadHeader(w http.ResponseWriter, q route, id string, size int64) {
	w.Header().Set("Location", "/v2/"+q.repository+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-Uuid", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(size-1, 0)))
}

func created(w http.ResponseWriter, q route, digest images.Digest) {
	w.Header().Set("Location", "/v2/"+q.repository+"/blobs/"+string(digest))
	w.Header().Set("Docker-Content-Digest", string(digest))
	w.WriteHeader(http.StatusCreated)
}

// readBody reads a whole request body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, faultf(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "at most %d bytes", limit)
	}
	if err != nil {
		return nil, faultf(http.StatusBadRequest, "MANIFEST_INVALID", "the body ended early")
	}
	return data, nil
}
