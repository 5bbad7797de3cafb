package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"roost/images"
	"roost/images/durable"
)

// Item names a file on the mirror by where it lies and what it must be.
type Item struct {
	Suite  string // decides between the main and the security bases
	Path   string // below the base, as Filename in an index
	Size   int64  // bytes
	SHA256 images.Digest
}

// Fetch brings all items into the cache, where Cache.Blob finds them by digest. What is there already costs no request.
// It stops at the first item that cannot be had.
func (s *Source) Fetch(ctx context.Context, items []Item) error {
	run := s.start()
	defer run.close()
	defer run.meter.finish()
	transfers := make([]*transfer, len(items))
	for i, item := range items {
		transfers[i] = run.transfer(item)
	}
	return run.fetchAll(ctx, transfers)
}

func (s *session) fetchAll(ctx context.Context, transfers []*transfer) error {
	missing, err := s.missing(transfers)
	if err != nil {
		return err
	}
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(s.Workers)
	for _, t := range missing {
		if within.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := t.run(within); err != nil {
				return fmt.Errorf("cannot fetch %s: %w", t.name, err)
			}
			s.meter.done()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// missing returns the transfers whose content the cache lacks, once each, and refuses at once when they cannot fit on the disk.
func (s *session) missing(all []*transfer) ([]*transfer, error) {
	var missing []*transfer
	seen := map[images.Digest]bool{}
	var bytes int64
	for _, t := range all {
		if seen[t.digest] {
			continue
		}
		seen[t.digest] = true
		have, err := t.cached()
		if err != nil {
			return nil, fmt.Errorf("cannot fetch %s: %w", t.name, err)
		}
		if !have {
			missing = append(missing, t)
			bytes += t.size
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	s.meter.expect(len(missing), bytes)
	if err := s.Cache.makeSections(SectionBlobs); err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.Cache.dir, &st); err == nil && int64(st.Bavail)*st.Bsize < s.remaining(missing) {
		return nil, fmt.Errorf("cannot fetch %d files: %w", len(missing), explainFull(fmt.Errorf("%d MB are needed and %d MB are free: %w",
			s.remaining(missing)/1e6, int64(st.Bavail)*st.Bsize/1e6, unix.ENOSPC), s.Cache.dir))
	}
	return missing, nil
}

// remaining is how much the transfers will add to the disk: parts of earlier runs are there already.
func (s *session) remaining(missing []*transfer) int64 {
	var bytes int64
	for _, t := range missing {
		bytes += t.size
		if info, err := os.Stat(t.partPath()); err == nil {
			bytes -= min(info.Size(), t.size)
		}
	}
	return bytes
}

// transfer is the way of one file into the cache.
type transfer struct {
	*session
	name   string
	urls   []*url.URL
	size   int64
	digest images.Digest
	part   *os.File
}

func (s *session) transfer(item Item) *transfer {
	t := &transfer{session: s, name: path.Base(item.Path), size: item.Size, digest: item.SHA256}
	for _, base := range s.Mirror.Bases(item.Suite) {
		t.urls = append(t.urls, base.JoinPath(item.Path))
	}
	return t
}

func (t *transfer) partPath() string {
	return filepath.Join(t.Cache.dir, SectionPartial, t.digest.Hex()+".part")
}

// cached reports whether the content is in the cache. A blob of another size is damaged and removed.
func (t *transfer) cached() (bool, error) {
	path, err := t.Cache.Blob(t.digest)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() != t.size {
		t.Log.Warn("cached file is damaged, fetching it again", "path", path, "size", info.Size(), "want", t.size)
		return false, os.Remove(path)
	}
	return err == nil, err
}

// run fetches the file. The lock on the part file makes a second process wait for the first one's result.
func (t *transfer) run(ctx context.Context) error {
	switch {
	case t.Offline:
		return errors.New("it is not in the cache, and the work is to be done offline")
	case len(t.urls) == 0:
		return errors.New("it is not in the cache, and no mirror is known")
	}
	if err := t.openPart(ctx); err != nil {
		return err
	}
	defer t.part.Close()
	if have, err := t.cached(); have || err != nil {
		_ = os.Remove(t.partPath())
		t.meter.add(t.name, t.size)
		return err
	}
	t.meter.add(t.name, t.partSize())
	err := t.retry(ctx, t.urls, t.Tries, func(u *url.URL) (bool, error) { return t.attempt(ctx, u) })
	if isGone(err) {
		return fmt.Errorf("%w; the mirror no longer has this version, roost lock --update picks newer ones", err)
	}
	return err
}

// lockPoll is how often a process looks whether another has finished the same file. The kernel's waiting lock cannot be
// given up when ctx ends.
const lockPoll = 50 * time.Millisecond

// openPart opens and locks the part file. After waiting for a lock the file may have become the blob, so the name is
// checked to still mean the locked file.
func (t *transfer) openPart(ctx context.Context) error {
	for {
		f, err := os.OpenFile(t.partPath(), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return explainFull(err, t.Cache.dir)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			mine, err1 := f.Stat()
			named, err2 := os.Stat(t.partPath())
			if err1 == nil && err2 == nil && os.SameFile(mine, named) {
				t.part = f
				return nil
			}
		}
		f.Close()
		if err != nil && err != unix.EWOULDBLOCK && err != unix.EINTR {
			return fmt.Errorf("cannot lock part file: %w", err)
		}
		if err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

func (t *transfer) partSize() int64 {
	info, err := t.part.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// restart empties the part file.
func (t *transfer) restart() error {
	t.meter.add(t.name, -t.partSize())
	if err := t.part.Truncate(0); err != nil {
		return &localError{err}
	}
	return nil
}

// attempt continues the part file from u and, when it is complete, makes it the blob.
func (t *transfer) attempt(ctx context.Context, u *url.URL) (progress bool, err error) {
	before := t.partSize()
	if before > t.size {
		if err := t.restart(); err != nil {
			return false, err
		}
		before = 0
	}
	if before < t.size || t.size == 0 {
		err = t.get(ctx, u, before, func(response *http.Response, body io.Reader) error { return t.receive(response, body, before) })
	}
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusRequestedRangeNotSatisfiable {
		return false, errors.Join(err, t.restart())
	}
	if err != nil {
		return t.partSize() > before, err
	}
	return t.settle(before > 0)
}

// receive appends the body of an answer to the part file.
func (t *transfer) receive(response *http.Response, body io.Reader, offset int64) error {
	if response.StatusCode == http.StatusOK && offset > 0 { // the mirror ignores ranges
		if err := t.restart(); err != nil {
			return err
		}
		offset = 0
	}
	if response.StatusCode == http.StatusPartialContent && !continuesAt(response.Header.Get("Content-Range"), offset) {
		return errors.Join(fmt.Errorf("asked for bytes from %d on, got %q", offset, response.Header.Get("Content-Range")), t.restart())
	}
	if n := response.ContentLength; n >= 0 && offset+n != t.size {
		return &refusal{fmt.Errorf("the file has %d bytes, want %d: the mirror has another file under this name", offset+n, t.size)}
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := body.Read(buffer)
		if offset+int64(n) > t.size {
			return errors.Join(&refusal{fmt.Errorf("more than the expected %d bytes came", t.size)}, t.restart())
		}
		if n > 0 {
			if _, err := t.part.WriteAt(buffer[:n], offset); err != nil {
				return &localError{explainFull(err, t.Cache.dir)}
			}
			offset += int64(n)
			t.meter.add(t.name, int64(n))
		}
		switch {
		case err == io.EOF && offset < t.size:
			return fmt.Errorf("the transfer ended after %d of %d bytes", offset, t.size)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// continuesAt reports whether a Content-Range header ("bytes 5-9/10") begins at offset.
func continuesAt(header string, offset int64) bool {
	text, ok := strings.CutPrefix(header, "bytes ")
	first, _, found := strings.Cut(text, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return ok && found && err == nil && n == offset
}

// settle checks the complete part file and gives it its final name. When a continued file is wrong, its old part may be to
// blame, so it is fetched once more as a whole; when a whole one is wrong, the mirror is.
func (t *transfer) settle(continued bool) (progress bool, err error) {
	err = checkDigest(t.part, t.digest)
	var other *DigestError
	if errors.As(err, &other) {
		if err := t.restart(); err != nil {
			return false, err
		}
		if continued {
			return true, fmt.Errorf("the continued file is wrong, starting over: %w", other)
		}
		return false, &refusal{fmt.Errorf("refusing what the mirror sent: %w; another mirror may have the right file (--mirror)", other)}
	}
	if err != nil {
		return false, &localError{err}
	}
	path, err := t.Cache.path(SectionBlobs, t.digest.Hex())
	if err == nil {
		err = durable.Move(t.partPath(), path)
	}
	if err != nil {
		return false, &localError{explainFull(err, t.Cache.dir)}
	}
	return true, nil
}
