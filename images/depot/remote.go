package depot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"roost/images"
	"roost/images/release"
)

// remote is an OCI registry, or one repository of it.
type remote struct {
	registry   name.Registry
	repository string // "" for all
	base       http.RoundTripper
	own        *http.Transport // behind base; nil when the caller's is used as it is
	keychain   authn.Keychain
	patience   patience

	mu      sync.Mutex
	clients map[string]*http.Client // by scope
}

// Limits on what a registry may answer.
const (
	maxPages = 1000
	pageSize = 1000
)

func openRemote(r Reference, o Options) (*remote, error) {
	plain := o.PlainHTTP || r.Loopback()
	options := []name.Option{name.StrictValidation}
	if plain {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(r.Host, options...)
	if err != nil {
		return nil, err
	}
	s := &remote{
		registry: registry, repository: r.Repository, base: o.Transport, keychain: o.Keychain,
		patience: newPatience(o), clients: map[string]*http.Client{},
	}
	if s.base == nil {
		s.base = http.DefaultTransport
	}
	if t, ok := s.base.(*http.Transport); ok {
		s.own = bulk(t)
		s.base = s.own
	}
	if !plain {
		s.base = onlyTLS{s.base}
	}
	return s, nil
}

// bulk returns a copy of t that speaks HTTP/1.1: parts of hundreds of megabytes, one after the other, gain nothing from
// streams within a connection, and Go pulls them 1.7 times as fast without.
func bulk(t *http.Transport) *http.Transport {
	t = t.Clone()
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	if t.TLSClientConfig != nil {
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	return t
}

func (s *remote) Close() error {
	if s.own != nil {
		s.own.CloseIdleConnections()
	}
	return nil
}

// onlyTLS refuses requests without TLS, to which a redirect or go-containerregistry's guess about private addresses would
// otherwise fall back.
type onlyTLS struct{ http.RoundTripper }

func (t onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("refused to speak %s without TLS to %s", r.URL.Scheme, r.URL.Host)
	}
	return t.RoundTripper.RoundTrip(r)
}

// client returns the HTTP client that may do action ("pull" or "pull,push") in a repository; the first call for it logs in.
func (s *remote) client(ctx context.Context, repository, action string) (*http.Client, error) {
	scope := s.registry.Scope("")
	if repository != "" {
		scope = "repository:" + repository + ":" + action
	}
	s.mu.Lock()
	client := s.clients[scope]
	s.mu.Unlock()
	if client != nil {
		return client, nil
	}
	auth := authn.Anonymous
	if s.keychain != nil {
		var err error
		if auth, err = authn.Resolve(ctx, s.keychain, s.registry); err != nil {
			return nil, err
		}
	}
	t, err := transport.NewWithContext(ctx, s.registry, auth, s.base, []string{scope})
	if err != nil {
		return nil, classify(err)
	}
	client = &http.Client{Transport: t}
	s.mu.Lock()
	s.clients[scope] = client
	s.mu.Unlock()
	return client, nil
}

// classify gives an error of a registry the kind that callers branch on.
func classify(err error) error {
	var e *transport.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case http.StatusMethodNotAllowed:
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}

// request describes one request to the registry.
type request struct {
	method     string
	repository string
	path       string // below /v2/, or an absolute URL
	header     http.Header
	body       io.Reader
	length     int64
	want       []int
}

func (s *remote) resolve(path string) string {
	if strings.Contains(path, "://") {
		return path
	}
	return s.registry.Scheme() + "://" + s.registry.RegistryStr() + "/v2/" + path
}

// do sends a request and checks the status. The caller closes the body.
func (s *remote) do(ctx context.Context, q request) (*http.Response, error) {
	action := transport.PullScope
	if q.method != http.MethodGet && q.method != http.MethodHead {
		action = transport.PushScope
	}
	client, err := s.client(ctx, q.repository, action)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, q.method, s.resolve(q.path), q.body)
	if err != nil {
		return nil, err
	}
	if q.body != nil {
		r.ContentLength = q.length
	}
	for key, values := range q.header {
		r.Header[key] = values
	}
	r.Header.Set("Accept-Encoding", "identity") // what is hashed is what is sent
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, q.want...); err != nil {
		return nil, errors.Join(classify(err), resp.Body.Close())
	}
	return resp, nil
}

// get reads a whole document of at most limit bytes, trying again when the connection breaks.
func (s *remote) get(ctx context.Context, q request, limit int64) (data []byte, header http.Header, err error) {
	for n := 1; ; n++ {
		data, header, err = s.getOnce(ctx, q, limit)
		if err == nil || permanent(err) || ctx.Err() != nil || n > s.patience.retries {
			return data, header, err
		}
		if err := s.patience.wait(ctx, n); err != nil {
			return nil, nil, err
		}
	}
}

func (s *remote) getOnce(ctx context.Context, q request, limit int64) ([]byte, http.Header, error) {
	watch := newWatchdog(ctx, s.patience.stall)
	defer watch.cancel(nil)
	watch.start()
	resp, err := s.do(watch.ctx, q)
	stalled := watch.stop(leastBytes)
	var data []byte
	var header http.Header
	if err == nil {
		header = resp.Header
		data, err = io.ReadAll(io.LimitReader(watch.reader(resp.Body), limit+1))
		_ = resp.Body.Close() // what was read is judged, not how the connection ended
		stalled = errors.Is(context.Cause(watch.ctx), ErrStalled)
	}
	if stalled && err != nil {
		return nil, nil, ErrStalled
	}
	if err == nil && int64(len(data)) > limit {
		return nil, nil, fmt.Errorf("answer has more than %d bytes: %w", limit, ErrCorrupt)
	}
	return data, header, err
}

func (s *remote) manifest(ctx context.Context, repository, reference string) ([]byte, error) {
	data, _, err := s.get(ctx, request{
		method: http.MethodGet, repository: repository, path: repository + "/manifests/" + reference,
		header: http.Header{"Accept": {release.MediaTypeManifest, release.MediaTypeIndex}}, want: []int{http.StatusOK},
	}, maxManifest)
	if err != nil {
		return nil, err
	}
	if digest, err := images.ParseDigest(reference); err == nil {
		if got := images.DigestOf(data); got != digest {
			return nil, fmt.Errorf("got %s instead of %s: %w", got, digest, ErrCorrupt)
		}
	}
	return data, nil
}

func (s *remote) blob(ctx context.Context, repository string, d release.Descriptor, offset int64) (io.ReadCloser, error) {
	q := request{method: http.MethodGet, repository: repository, path: repository + "/blobs/" + string(d.Digest), want: []int{http.StatusOK}}
	if offset > 0 {
		q.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", offset)}}
		q.want = append(q.want, http.StatusPartialContent)
	}
	resp, err := s.do(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := skipTo(resp, offset, d.Size); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp.Body, nil
}

// skipTo brings the body of a response to offset: nothing to do when the server honoured the range.
func skipTo(resp *http.Response, offset, size int64) error {
	if resp.StatusCode == http.StatusPartialContent {
		want := fmt.Sprintf("bytes %d-%d/", offset, size-1)
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("asked for bytes from %d of %d, the answer is range %q: %w", offset, size, got, ErrCorrupt)
		}
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != size {
		return fmt.Errorf("answer has %d bytes instead of %d: %w", resp.ContentLength, size, ErrCorrupt)
	}
	_, err := io.CopyN(io.Discard, resp.Body, offset)
	return err
}

func (s *remote) tags(ctx context.Context) ([]place, error) {
	repositories := []string{s.repository}
	if s.repository == "" {
		var err error
		if repositories, err = s.list(ctx, "", "_catalog", "repositories"); err != nil {
			return nil, err
		}
	}
	var places []place
	for _, repository := range repositories {
		if !validRepository(repository) {
			return nil, fmt.Errorf("the registry lists %q, which is no repository name", repository)
		}
		tags, err := s.list(ctx, repository, repository+"/tags/list", "tags")
		if errors.Is(err, ErrNotFound) {
			continue // a repository nothing was pushed to yet
		}
		if err != nil {
			return nil, err
		}
		for _, tag := range tags {
			if validTag(tag) {
				places = append(places, place{repository, tag})
			}
		}
	}
	return places, nil
}

// list follows the pages of a list.
func (s *remote) list(ctx context.Context, repository, path, field string) ([]string, error) {
	var all []string
	next := path + "?n=" + strconv.Itoa(pageSize)
	for range maxPages {
		data, header, err := s.get(ctx, request{method: http.MethodGet, repository: repository, path: next, want: []int{http.StatusOK}}, maxManifest)
		if err != nil {
			return nil, err
		}
		var page map[string]json.RawMessage
		var names []string
		if err := json.Unmarshal(data, &page); err != nil {
			return nil, fmt.Errorf("cannot parse list %s: %w", path, err)
		}
		if raw, ok := page[field]; ok {
			if err := json.Unmarshal(raw, &names); err != nil {
				return nil, fmt.Errorf("cannot parse list %s: %w", path, err)
			}
		}
		all = append(all, names...)
		query, ok := nextPage(header.Get("Link"))
		if !ok {
			return all, nil
		}
		next = path + "?" + query
	}
	return nil, fmt.Errorf("list %s has more than %d pages", path, maxPages)
}

// nextPage takes the query from a header Link: </v2/…?n=…&last=…>; rel="next". The path is ours to know.
func nextPage(link string) (query string, ok bool) {
	target, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(rel, `rel="next"`) {
		return "", false
	}
	u, err := url.Parse(target)
	if err != nil || u.RawQuery == "" {
		return "", false
	}
	return u.RawQuery, true
}

func (s *remote) referrers(ctx context.Context, repository string, subject images.Digest) ([]release.Descriptor, error) {
	data, _, err := s.get(ctx, request{
		method: http.MethodGet, repository: repository, path: repository + "/referrers/" + string(subject), want: []int{http.StatusOK},
	}, maxManifest)
	if err != nil {
		return nil, err
	}
	index, err := release.ParseIndex(data)
	return index.Manifests, err
}
