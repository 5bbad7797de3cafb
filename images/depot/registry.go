package depot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"roost/images"
	"roost/images/release"
)

// RegistryConfig configures a Registry. The zero value serves everyone and lets no one push.
type RegistryConfig struct {
	// Allow decides about each request; nil allows every pull and no push. A push includes the pulls that go with it.
	// Its error goes to the client as 403, or as 401 if it wraps ErrLogin.
	Allow func(r *http.Request, push bool, repository string) error
	// Admit, if set, judges a release before it gets a name: when a tag is put on its manifest, with the signatures that are
	// here by then. Its error goes to the client as 403. Whoever pushes by other means puts manifest, signature and tag in
	// this order, as Publish and Copy do.
	Admit   func(release.Bundle) error
	MaxBlob int64         // bytes of the largest blob; 0: 64 GiB
	Uploads int           // uploads begun and not finished; 0: 256
	Stall   time.Duration // how long a pushing client may send nothing; what came until then stays. 0: 1 min
	Logger  *slog.Logger
}

// ErrLogin is for Allow to say that the client has to say who it is.
var ErrLogin = errors.New("log in first")

// Registry serves a layout directory as an OCI registry (distribution-spec 1.1): pull with ranges, push in one piece or in
// chunks, referrers, tag lists, deletion of manifests. Repository and tag are the two parts of ref.name in the layout's
// index; blobs are shared by all repositories, which are one trust domain.
//
// Other processes may publish to the directory meanwhile. An upload survives a restart: the client asks how far it got and
// goes on; what was acknowledged had been synced.
type Registry struct {
	layout  *layout
	uploads *uploads
	config  RegistryConfig
}

// NewRegistry opens the layout directory at path, making it if missing, and checks that what its index names is there.
// Manifests whose blobs are missing are reported to the log and answered with an error, the others are served.
func NewRegistry(path string, c RegistryConfig) (*Registry, error) {
	if c.MaxBlob <= 0 {
		c.MaxBlob = 64 << 30
	}
	if c.Uploads <= 0 {
		c.Uploads = 256
	}
	if c.Stall <= 0 {
		c.Stall = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := openLayout(path, true)
	if err != nil {
		return nil, fmt.Errorf("cannot open registry: %w", err)
	}
	u, err := openUploads(l, c)
	if err != nil {
		return nil, fmt.Errorf("cannot open registry: %w", err)
	}
	problems, err := l.check(false)
	if err != nil {
		return nil, fmt.Errorf("cannot check registry: %w", err)
	}
	for _, p := range problems {
		c.Logger.Error("registry content is damaged", "manifest", p.Manifest, "tag", p.Tag, "problem", p.Err)
	}
	return &Registry{layout: l, uploads: u, config: c}, nil
}

// fault is an error for the client.
type fault struct {
	status int
	code   string // of distribution-spec, "Error Codes"
	detail string
}

func (f *fault) Error() string { return f.code + ": " + f.detail }

func faultf(status int, code, format string, args ...any) *fault {
	return &fault{status, code, fmt.Sprintf(format, args...)}
}

func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := g.serve(w, r); err != nil {
		g.fail(w, r, err)
	}
}

func (g *Registry) serve(w http.ResponseWriter, r *http.Request) error {
	q, ok := parseRoute(r.URL.Path)
	if !ok && r.Method == http.MethodPut {
		return faultf(http.StatusBadRequest, "NAME_INVALID", "no such repository, tag or digest can be")
	}
	if !ok {
		return faultf(http.StatusNotFound, "NAME_UNKNOWN", "no such endpoint")
	}
	push := r.Method != http.MethodGet && r.Method != http.MethodHead
	if q.endpoint == endpointUpload {
		push = true
	}
	if err := g.allow(r, push, q.repository); err != nil {
		return err
	}
	handlers := map[endpoint]map[string]func(http.ResponseWriter, *http.Request, route) error{
		endpointBase:      {http.MethodGet: g.base},
		endpointCatalog:   {http.MethodGet: g.catalog},
		endpointTags:      {http.MethodGet: g.tags},
		endpointReferrers: {http.MethodGet: g.referrers},
		endpointManifest:  {http.MethodGet: g.getManifest, http.MethodPut: g.putManifest, http.MethodDelete: g.deleteManifest},
		endpointBlob:      {http.MethodGet: g.getBlob},
		endpointUploads:   {http.MethodPost: g.beginUpload},
		endpointUpload: {http.MethodGet: g.uploadStatus, http.MethodPatch: g.patchUpload,
			http.MethodPut: g.finishUpload, http.MethodDelete: g.cancelUpload},
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	handler := handlers[q.endpoint][method]
	if handler == nil {
		return faultf(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not supported here", r.Method)
	}
	return handler(w, r, q)
}

func (g *Registry) allow(r *http.Request, push bool, repository string) error {
	var err error
	switch {
	case g.config.Allow != nil:
		err = g.config.Allow(r, push, repository)
	case push:
		err = errors.New("this registry takes no pushes")
	}
	if errors.Is(err, ErrLogin) {
		return faultf(http.StatusUnauthorized, "UNAUTHORIZED", "%v", err)
	}
	if err != nil {
		return faultf(http.StatusForbidden, "DENIED", "%v", err)
	}
	return nil
}

// fail answers with the error document of the specification. What is no fault is ours and goes to the log.
func (g *Registry) fail(w http.ResponseWriter, r *http.Request, err error) {
	var f *fault
	switch {
	case errors.As(err, &f):
	case errors.Is(err, ErrNoSpace), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		f = faultf(http.StatusInsufficientStorage, "UNKNOWN", "no space left in the registry")
	case errors.Is(err, ErrNotFound), errors.Is(err, fs.ErrNotExist):
		f = faultf(http.StatusNotFound, "MANIFEST_UNKNOWN", "not found")
	case r.Context().Err() != nil:
		return // the client has gone
	default:
		f = faultf(http.StatusInternalServerError, "UNKNOWN", "internal error")
	}
	if f.status >= http.StatusInternalServerError {
		g.config.Logger.Error("registry request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="roost"`)
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	h := w.Header()
	h.Del("Content-Length")
	writeJSON(w, f.status, "application/json", map[string][]item{"errors": {{f.code, f.detail}}})
}

func writeJSON(w http.ResponseWriter, status int, mediaType string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // a client that has gone cannot be told
}

func (g *Registry) base(w http.ResponseWriter, _ *http.Request, _ route) error {
	writeJSON(w, http.StatusOK, "application/json", struct{}{})
	return nil
}

func (g *Registry) catalog(w http.ResponseWriter, r *http.Request, _ route) error {
	x, err := g.layout.index()
	if err != nil {
		return err
	}
	var names []string
	for _, p := range placesIn(x) {
		if validRepository(p.repository) {
			names = append(names, p.repository)
		}
	}
	names, err = page(w, r, names)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, "application/json", map[string][]string{"repositories": names})
	return nil
}

func (g *Registry) tags(w http.ResponseWriter, r *http.Request, q route) error {
	x, err := g.layout.index()
	if err != nil {
		return err
	}
	var tags []string
	for _, p := range placesIn(x) {
		if p.repository == q.repository && validTag(p.tag) {
			tags = append(tags, p.tag)
		}
	}
	if len(tags) == 0 {
		return faultf(http.StatusNotFound, "NAME_UNKNOWN", "no repository %s", q.repository)
	}
	tags, err = page(w, r, tags)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{q.repository, tags})
	return nil
}

// page cuts the part of a list that the query asks for (n, last) and links to the next.
func page(w http.ResponseWriter, r *http.Request, names []string) ([]string, error) {
	slices.Sort(names)
	names = slices.Compact(names)
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(names, last)
		if found {
			i++
		}
		names = names[i:]
	}
	n := len(names)
	if s := query.Get("n"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return nil, faultf(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n=%q", s)
		}
	}
	if n < len(names) {
		names = names[:n]
		if n > 0 {
			next := url.Values{"n": {strconv.Itoa(n)}, "last": {names[n-1]}}
			w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.EscapedPath(), next.Encode()))
		}
	}
	if names == nil {
		names = []string{}
	}
	return names, nil
}

func (g *Registry) getManifest(w http.ResponseWriter, r *http.Request, q route) error {
	x, err := g.layout.index()
	if err != nil {
		return err
	}
	m, err := lookUp(x, q.repository, q.argument)
	if err != nil {
		return faultf(http.StatusNotFound, "MANIFEST_UNKNOWN", "no manifest %s in %s", q.argument, q.repository)
	}
	data, err := g.layout.manifest(r.Context(), q.repository, string(m.Digest))
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("Docker-Content-Digest", string(m.Digest))
	h.Set("Etag", `"`+string(m.Digest)+`"`)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // a client that has gone cannot be told
	}
	return nil
}

func (g *Registry) getBlob(w http.ResponseWriter, r *http.Request, q route) error {
	digest := images.Digest(q.argument) // parseRoute checked it
	f, err := os.Open(g.layout.blobPath(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return faultf(http.StatusNotFound, "BLOB_UNKNOWN", "no blob %s", digest)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(digest))
	h.Set("Etag", `"`+string(digest)+`"`)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, "", info.ModTime(), f) // ranges, conditions and sendfile
	return nil
}

func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, q route) error {
	x, err := g.layout.index()
	if err != nil {
		return err
	}
	filter := r.URL.Query().Get("artifactType")
	list := []release.Descriptor{}
	for _, m := range x.Manifests {
		data, err := g.layout.manifest(r.Context(), q.repository, string(m.Digest))
		if err != nil {
			continue // damaged; the check at the start has said so
		}
		subject, d := subjectOf(data)
		if subject != images.Digest(q.argument) || (filter != "" && d.ArtifactType != filter) {
			continue
		}
		d.MediaType, d.Digest, d.Size = m.MediaType, m.Digest, m.Size
		if !slices.ContainsFunc(list, func(x release.Descriptor) bool { return x.Digest == d.Digest }) {
			list = append(list, d)
		}
	}
	if filter != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	data, err := release.Index{Manifests: list}.Encode()
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, release.MediaTypeIndex, json.RawMessage(data))
	return nil
}

// subjectOf returns what a manifest refers to, and its own artifact type (else its config's media type) and annotations.
func subjectOf(manifest []byte) (images.Digest, release.Descriptor) {
	var m struct {
		ArtifactType string              `json:"artifactType"`
		Config       release.Descriptor  `json:"config"`
		Subject      *release.Descriptor `json:"subject"`
		Annotations  map[string]string   `json:"annotations"`
	}
	if err := images.DecodeJSON(manifest, &m); err != nil || m.Subject == nil {
		return "", release.Descriptor{}
	}
	if m.ArtifactType == "" {
		m.ArtifactType = m.Config.MediaType
	}
	return m.Subject.Digest, release.Descriptor{ArtifactType: m.ArtifactType, Annotations: m.Annotations}
}

func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, q route) error {
	data, err := readBody(w, r, maxManifest)
	if err != nil {
		return err
	}
	digest := images.DigestOf(data)
	if validDigest(q.argument) && images.Digest(q.argument) != digest {
		return faultf(http.StatusBadRequest, "DIGEST_INVALID", "the body is %s", digest)
	}
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if err := g.checkManifest(r.Context(), data, mediaType); err != nil {
		return err
	}
	if err := g.admit(r.Context(), q, data); err != nil {
		return err
	}
	if err := g.layout.putManifest(r.Context(), q.repository, q.argument, mediaType, data); err != nil {
		return err
	}
	if subject, _ := subjectOf(data); subject != "" {
		w.Header().Set("OCI-Subject", string(subject))
	}
	w.Header().Set("Location", "/v2/"+q.repository+"/manifests/"+string(digest))
	w.Header().Set("Docker-Content-Digest", string(digest))
	w.WriteHeader(http.StatusCreated)
	g.config.Logger.Info("manifest pushed", "repository", q.repository, "reference", q.argument, "digest", digest)
	return nil
}

// admit asks whether a release may have the name that it is about to get.
func (g *Registry) admit(ctx context.Context, q route, manifest []byte) error {
	if g.config.Admit == nil || validDigest(q.argument) || isRelease(manifest) != nil {
		return nil
	}
	d := &Depot{shelf: g.layout}
	r, err := d.load(ctx, q.repository, manifest)
	if err != nil {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "%v", err)
	}
	if r.Bundle.Signatures, err = d.signatures(ctx, r); err != nil {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "signatures of %s: %v", r.Manifest.Digest, err)
	}
	if err := g.config.Admit(r.Bundle); err != nil {
		g.config.Logger.Warn("release refused", "repository", q.repository, "reference", q.argument, "digest", r.Manifest.Digest, "error", err)
		return faultf(http.StatusForbidden, "DENIED", "%v", err)
	}
	return nil
}

// checkManifest refuses what is no manifest and what names blobs that are not here.
func (g *Registry) checkManifest(ctx context.Context, data []byte, mediaType string) error {
	switch mediaType {
	case release.MediaTypeIndex:
		if _, err := release.ParseIndex(data); err != nil {
			return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "%v", err)
		}
		return nil
	case release.MediaTypeManifest:
	default:
		return faultf(http.StatusUnsupportedMediaType, "MANIFEST_INVALID", "media type %q is not one of %s and %s", mediaType, release.MediaTypeManifest, release.MediaTypeIndex)
	}
	blobs, err := release.Blobs(data)
	if err != nil {
		return faultf(http.StatusBadRequest, "MANIFEST_INVALID", "%v", err)
	}
	for _, b := range blobs {
		if ok, err := g.layout.hasBlob(ctx, "", b); err != nil || !ok {
			return faultf(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob %s of %d bytes is not here", b.Digest, b.Size)
		}
	}
	return nil
}

func (g *Registry) deleteManifest(w http.ResponseWriter, r *http.Request, q route) error {
	err := g.layout.removeManifest(r.Context(), q.repository, q.argument)
	if errors.Is(err, ErrNotFound) {
		return faultf(http.StatusNotFound, "MANIFEST_UNKNOWN", "no manifest %s in %s", q.argument, q.repository)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	g.config.Logger.Info("manifest deleted", "repository", q.repository, "reference", q.argument)
	return nil
}
