package depot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"roost/images/release"
)

func (s *remote) hasBlob(ctx context.Context, repository string, d release.Descriptor) (bool, error) {
	_, header, err := s.get(ctx, request{
		method: http.MethodHead, repository: repository, path: repository + "/blobs/" + string(d.Digest), want: []int{http.StatusOK},
	}, 0)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if length := header.Get("Content-Length"); length != "" && length != strconv.FormatInt(d.Size, 10) {
		return false, fmt.Errorf("the registry holds blob %s with %s bytes instead of %d: %w", d.Digest, length, d.Size, ErrCorrupt)
	}
	return true, nil
}

// putBlob uploads a blob in one session. A broken connection continues where the registry says it stopped.
func (s *remote) putBlob(ctx context.Context, repository string, d release.Descriptor, open opener) error {
	if ok, err := s.hasBlob(ctx, repository, d); ok || err != nil {
		return err
	}
	u := &upload{remote: s, repository: repository, blob: d, open: open}
	for failures := 0; ; {
		before := u.offset
		err := u.attempt(ctx)
		if errors.Is(err, ErrCorrupt) {
			u.cancel(ctx)
		}
		if err == nil || permanent(err) || ctx.Err() != nil {
			return err
		}
		if failures++; u.offset > before {
			failures = 1
		}
		if failures > s.patience.retries {
			return fmt.Errorf("gave up upload at byte %d of %d after %d attempts: %w", u.offset, d.Size, failures, err)
		}
		if err := s.patience.wait(ctx, failures); err != nil {
			return err
		}
		u.resume(ctx)
	}
}

// upload is one blob on its way to a registry.
type upload struct {
	*remote
	repository string
	blob       release.Descriptor
	open       opener
	location   string // of the session; "" before it is begun
	offset     int64  // bytes that the registry has
}

// attempt goes on until the blob is complete or something breaks.
func (u *upload) attempt(ctx context.Context) error {
	watch := newSendWatchdog(ctx, u.patience.stall)
	defer watch.cancel(nil)
	err := u.send(watch.ctx, watch)
	if err != nil && errors.Is(context.Cause(watch.ctx), ErrStalled) {
		return ErrStalled
	}
	return err
}

func (u *upload) send(ctx context.Context, watch *sendWatchdog) error {
	if u.location == "" {
		if err := u.session(ctx, request{method: http.MethodPost, path: u.repository + "/blobs/uploads/", want: []int{http.StatusAccepted}}); err != nil {
			return err
		}
		u.offset = 0
	}
	if u.offset < u.blob.Size {
		source, err := u.open(ctx, u.offset)
		if err != nil {
			return err
		}
		defer source.Close()
		left := u.blob.Size - u.offset
		err = u.session(ctx, request{
			method: http.MethodPatch, path: u.location, body: watch.reader(io.LimitReader(source, left)), length: left,
			header: http.Header{
				"Content-Type":  {"application/octet-stream"},
				"Content-Range": {fmt.Sprintf("%d-%d", u.offset, u.blob.Size-1)},
			},
			want: []int{http.StatusAccepted, http.StatusNoContent},
		})
		if err != nil {
			return err
		}
		if err := ended(source); err != nil {
			return err
		}
		u.offset = u.blob.Size
	}
	return u.finish(ctx)
}

// ended lets a source that checks its digest give its verdict, which it does at its end. A registry would refuse the blob too,
// but cannot say whether another attempt could help.
func ended(source io.Reader) error {
	var extra [1]byte
	n, err := io.ReadFull(source, extra[:])
	if n > 0 {
		return fmt.Errorf("more bytes than the descriptor says: %w", ErrCorrupt)
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// cancel has the registry drop what came of a blob that is not worth going on with. If it does not, it will one day.
func (u *upload) cancel(ctx context.Context) {
	if u.location == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, u.patience.stall)
	defer cancel()
	_ = u.session(ctx, request{method: http.MethodDelete, path: u.location, want: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}})
}

// session sends a request of an upload and notes where the registry wants the next one.
func (u *upload) session(ctx context.Context, q request) error {
	q.repository = u.repository
	resp, err := u.do(ctx, q)
	if err != nil {
		return err
	}
	location, err := resp.Location()
	if err != nil && (u.location == "" || !errors.Is(err, http.ErrNoLocation)) {
		return errors.Join(fmt.Errorf("cannot use upload location: %w", err), resp.Body.Close())
	}
	if err == nil {
		u.location = location.String()
	}
	return resp.Body.Close()
}

func (u *upload) finish(ctx context.Context) error {
	target, err := url.Parse(u.location)
	if err != nil {
		return err
	}
	query := target.Query()
	query.Set("digest", string(u.blob.Digest))
	target.RawQuery = query.Encode()
	resp, err := u.do(ctx, request{
		method: http.MethodPut, repository: u.repository, path: target.String(), want: []int{http.StatusCreated, http.StatusNoContent},
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
	if err != nil {
		u.location = "" // a refused session is of no use to another attempt
		return err
	}
	return resp.Body.Close()
}

// resume asks the registry how much of the session it has; when it does not say, the upload starts again.
func (u *upload) resume(ctx context.Context) {
	if u.location == "" {
		return
	}
	_, header, err := u.getOnce(ctx, request{
		method: http.MethodGet, repository: u.repository, path: u.location, want: []int{http.StatusNoContent, http.StatusOK},
	}, maxManifest)
	offset, ok := rangeEnd(header.Get("Range"))
	if err != nil || !ok || offset > u.blob.Size {
		u.location, u.offset = "", 0
		return
	}
	u.offset = offset
}

// rangeEnd reads "0-N" as N+1 bytes. An empty upload is "0-0" to some registries; one byte is then sent at an offset of 1
// and refused by them, so it counts as nothing.
func rangeEnd(s string) (int64, bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(s, "bytes="), "-")
	end, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || end < 0 {
		return 0, false
	}
	if end == 0 {
		return 0, true
	}
	return end + 1, true
}

func (s *remote) putManifest(ctx context.Context, repository, reference, mediaType string, data []byte) error {
	for n := 1; ; n++ {
		err := s.putManifestOnce(ctx, repository, reference, mediaType, data)
		if err == nil || permanent(err) || ctx.Err() != nil || n > s.patience.retries {
			return err
		}
		if err := s.patience.wait(ctx, n); err != nil {
			return err
		}
	}
}

func (s *remote) putManifestOnce(ctx context.Context, repository, reference, mediaType string, data []byte) error {
	watch := newSendWatchdog(ctx, s.patience.stall)
	defer watch.cancel(nil)
	resp, err := s.do(watch.ctx, request{
		method: http.MethodPut, repository: repository, path: repository + "/manifests/" + reference,
		header: http.Header{"Content-Type": {mediaType}}, body: bytes.NewReader(data), length: int64(len(data)),
		want: []int{http.StatusCreated},
	})
	if err != nil {
		if errors.Is(context.Cause(watch.ctx), ErrStalled) {
			err = ErrStalled
		}
		return err
	}
	return resp.Body.Close()
}

// sendWatchdog cancels a request when the peer neither takes bytes nor answers. After the last byte a registry may hash and
// sync the whole blob before it answers, so silence may last longer than while receiving.
type sendWatchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func newSendWatchdog(ctx context.Context, stall time.Duration) *sendWatchdog {
	w := &sendWatchdog{limit: 4 * stall}
	ctx, cancel := context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(w.limit, func() { cancel(ErrStalled) })
	w.ctx, w.cancel = ctx, func(cause error) {
		w.timer.Stop()
		cancel(cause)
	}
	return w
}

// reader returns r; each read from it is a sign of life.
func (w *sendWatchdog) reader(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		w.timer.Reset(w.limit)
		return r.Read(p)
	})
}
