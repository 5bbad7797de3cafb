package depot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release"
	"roost/images/release/releasetest"
)

// client drives a registry by hand.
type client struct {
	t *testing.T
	h http.Handler
}

// do sends one request and returns the answer; header pairs follow the body.
func (c client) do(method, path, body string, header ...string) *http.Response {
	c.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, r)
	return w.Result()
}

// want is do with a check of the status.
func (c client) want(status int, method, path, body string, header ...string) *http.Response {
	c.t.Helper()
	resp := c.do(method, path, body, header...)
	if resp.StatusCode != status {
		c.t.Errorf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, bodyOf(resp))
	}
	return resp
}

func bodyOf(resp *http.Response) string {
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return string(data)
}

func openRegistry(t *testing.T, dir string, c depot.RegistryConfig) client {
	t.Helper()
	if c.Allow == nil {
		c.Allow = allowAll
	}
	g, err := depot.NewRegistry(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	return client{t, g}
}

const (
	content = "some content of a blob"
	uploads = "/v2/edge/blobs/uploads/"
)

var contentDigest = string(images.DigestOf([]byte(content)))

func TestRegistryUploads(t *testing.T) {
	c := openRegistry(t, tempDir(t), depot.RegistryConfig{MaxBlob: 64})
	blob := "/v2/edge/blobs/" + contentDigest
	c.want(http.StatusNotFound, "GET", blob, "")

	// In one request, in two, and in chunks.
	c.want(http.StatusCreated, "POST", uploads+"?digest="+contentDigest, content)
	session := c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	c.want(http.StatusCreated, "PUT", session+"?digest="+contentDigest, content)
	session = c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	c.want(http.StatusAccepted, "PATCH", session, content[:4], "Content-Range", "0-3")
	c.want(http.StatusAccepted, "PATCH", session, content[4:9], "Content-Range", "4-8")
	if got := c.want(http.StatusNoContent, "GET", session, "").Header.Get("Range"); got != "0-8" {
		t.Errorf("upload has range %q, want 0-8", got)
	}
	if got := c.want(http.StatusRequestedRangeNotSatisfiable, "PATCH", session, "x", "Content-Range", "4-4").Header.Get("Range"); got != "0-8" {
		t.Errorf("refused chunk answered range %q, want 0-8", got)
	}
	c.want(http.StatusCreated, "PUT", session+"?digest="+contentDigest, content[9:])
	c.want(http.StatusNotFound, "GET", session, "")

	// Reads.
	resp := c.want(http.StatusOK, "GET", blob, "")
	if bodyOf(resp) != content || resp.Header.Get("Docker-Content-Digest") != contentDigest {
		t.Errorf("blob is %q", bodyOf(resp))
	}
	if got := bodyOf(c.want(http.StatusPartialContent, "GET", blob, "", "Range", "bytes=5-")); got != content[5:] {
		t.Errorf("range is %q", got)
	}
	if resp := c.want(http.StatusOK, "HEAD", blob, ""); resp.Header.Get("Content-Length") != fmt.Sprint(len(content)) {
		t.Errorf("length is %s", resp.Header.Get("Content-Length"))
	}
	c.want(http.StatusCreated, "POST", "/v2/core/blobs/uploads/?from=edge&mount="+contentDigest, "")

	// Refusals, after which nothing may be left.
	wrong := string(images.DigestOf([]byte("other")))
	c.want(http.StatusBadRequest, "POST", uploads+"?digest="+wrong, content)
	c.want(http.StatusNotFound, "GET", "/v2/edge/blobs/"+wrong, "")
	c.want(http.StatusBadRequest, "POST", uploads+"?digest=sha512:00", content)
	session = c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	c.want(http.StatusBadRequest, "PUT", session, content)
	c.want(http.StatusRequestEntityTooLarge, "PATCH", session, strings.Repeat("x", 65))
	c.want(http.StatusNotFound, "GET", session, "")
	session = c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	c.want(http.StatusNoContent, "DELETE", session, "")
	c.want(http.StatusNotFound, "PATCH", session, "x")
}

// TestRegistryUploadSurvivesRestart breaks off a chunk, leaves behind what a crash may leave, and goes on with a new
// registry on the same directory.
func TestRegistryUploadSurvivesRestart(t *testing.T) {
	dir := tempDir(t)
	c := openRegistry(t, dir, depot.RegistryConfig{})
	session := c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	c.want(http.StatusAccepted, "PATCH", session, content[:6])
	broken := httptest.NewRequest("PATCH", session, io.MultiReader(strings.NewReader(content[6:9]), errorReader{}))
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, broken)
	if w.Code != http.StatusBadRequest {
		t.Errorf("broken chunk: status %d", w.Code)
	}
	file := filepath.Join(dir, "uploads", filepath.Base(session))
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("\x00\x00 torn")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	c = openRegistry(t, dir, depot.RegistryConfig{})
	if got := c.want(http.StatusNoContent, "GET", session, "").Header.Get("Range"); got != "0-8" {
		t.Errorf("after restart the upload has range %q, want 0-8", got)
	}
	c.want(http.StatusAccepted, "PATCH", session, content[9:], "Content-Range", "9-21")
	c.want(http.StatusCreated, "PUT", session+"?digest="+contentDigest, "")
	if got := bodyOf(c.want(http.StatusOK, "GET", "/v2/edge/blobs/"+contentDigest, "")); got != content {
		t.Errorf("blob is %q", got)
	}
	if names, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(names) > 0 {
		t.Errorf("left in uploads: %v, %v", names, err)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestRegistryStalledUpload holds an upload open without sending: the registry lets go, keeps what came, and takes the rest.
func TestRegistryStalledUpload(t *testing.T) {
	c := openRegistry(t, tempDir(t), depot.RegistryConfig{Stall: 50 * time.Millisecond})
	server := httptest.NewServer(c.h)
	defer server.Close()
	session := c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	silent, end := io.Pipe()
	defer end.Close()
	r, err := http.NewRequest("PATCH", server.URL+session, io.MultiReader(strings.NewReader(content[:7]), silent))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := server.Client().Do(r); err == nil && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", resp.StatusCode)
	}
	server.Close() // waits for the request to end
	if got := c.want(http.StatusNoContent, "GET", session, "").Header.Get("Range"); got != "0-6" {
		t.Errorf("range %q, want 0-6", got)
	}
	c.want(http.StatusCreated, "PUT", session+"?digest="+contentDigest, content[7:])
}

func TestRegistryTooManyUploads(t *testing.T) {
	c := openRegistry(t, tempDir(t), depot.RegistryConfig{Uploads: 2})
	c.want(http.StatusAccepted, "POST", uploads, "")
	session := c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	c.want(http.StatusTooManyRequests, "POST", uploads, "")
	c.want(http.StatusNoContent, "DELETE", session, "")
	c.want(http.StatusAccepted, "POST", uploads, "")
}

// TestRegistryDiskFull fills a small file system: the answer is 507, nothing half is left, and with space again the same
// upload goes on.
func TestRegistryDiskFull(t *testing.T) {
	dir := tempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to mount a tmpfs")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := openRegistry(t, filepath.Join(dir, "registry"), depot.RegistryConfig{})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 600<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("0123456789abcdef", 40<<10) // 640 KiB
	digest := string(images.DigestOf([]byte(large)))
	session := c.want(http.StatusAccepted, "POST", uploads, "").Header.Get("Location")
	c.want(http.StatusAccepted, "PATCH", session, large[:1000])
	c.want(http.StatusInsufficientStorage, "PATCH", session, large[1000:], "Content-Range", "1000-")
	c.want(http.StatusNotFound, "GET", "/v2/edge/blobs/"+digest, "")
	if got := c.want(http.StatusNoContent, "GET", session, "").Header.Get("Range"); got != "0-999" {
		t.Errorf("full disk: upload has range %q, want 0-999", got)
	}
	host := httptest.NewServer(c.h)
	defer host.Close()
	d := depottest.Open(t, "docker://"+strings.TrimPrefix(host.URL, "http://"))
	if err := os.WriteFile(filepath.Join(dir, "rest"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if _, err := d.Publish(context.Background(), depottest.Publication(t, imagestest.Release("edge", "1"), nil)); !errors.Is(err, depot.ErrNoSpace) {
		t.Errorf("publish to a full registry: %v, want ErrNoSpace", err)
	}
	if err := errors.Join(os.Remove(ballast), os.Remove(filepath.Join(dir, "rest"))); err != nil {
		t.Fatal(err)
	}
	c.want(http.StatusAccepted, "PATCH", session, large[1000:], "Content-Range", "1000-")
	c.want(http.StatusCreated, "PUT", session+"?digest="+digest, "")
}

func TestRegistryManifests(t *testing.T) {
	dir := tempDir(t)
	r := depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "1"), releasetest.Key(t))
	c := openRegistry(t, dir, depot.RegistryConfig{})
	manifest, digest := string(r.Bundle.Manifest), string(r.Manifest.Digest)
	mediaType := []string{"Content-Type", release.MediaTypeManifest}

	for _, reference := range []string{"1", digest} {
		resp := c.want(http.StatusOK, "GET", "/v2/edge/manifests/"+reference, "")
		if bodyOf(resp) != manifest || resp.Header.Get("Content-Type") != release.MediaTypeManifest || resp.Header.Get("Docker-Content-Digest") != digest {
			t.Errorf("manifest %s: %v", reference, resp.Header)
		}
	}
	if resp := c.want(http.StatusOK, "HEAD", "/v2/edge/manifests/1", ""); bodyOf(resp) != "" {
		t.Error("HEAD has a body")
	}
	c.want(http.StatusNotFound, "GET", "/v2/core/manifests/1", "")
	c.want(http.StatusCreated, "PUT", "/v2/edge/manifests/stable", manifest, mediaType...)
	c.want(http.StatusCreated, "PUT", "/v2/edge/manifests/"+digest, manifest, mediaType...)

	c.want(http.StatusBadRequest, "PUT", "/v2/edge/manifests/"+contentDigest, manifest, mediaType...)
	c.want(http.StatusBadRequest, "PUT", "/v2/edge/manifests/x", "{}", mediaType...)
	c.want(http.StatusBadRequest, "PUT", "/v2/edge/manifests/x", "{}", "Content-Type", release.MediaTypeIndex)
	c.want(http.StatusUnsupportedMediaType, "PUT", "/v2/edge/manifests/x", manifest, "Content-Type", "text/html")
	c.want(http.StatusBadRequest, "PUT", "/v2/edge/manifests/x", strings.Replace(manifest, r.Manifest.Parts[images.KindUKI].Digest.Hex(), strings.Repeat("0", 64), 1), mediaType...)
	c.want(http.StatusRequestEntityTooLarge, "PUT", "/v2/edge/manifests/x", strings.Repeat(" ", images.MaxDocument+1), mediaType...)
	c.want(http.StatusNotFound, "GET", "/v2/edge/manifests/x", "")

	var list struct{ Tags []string }
	decode(t, c.want(http.StatusOK, "GET", "/v2/edge/tags/list", ""), &list)
	if got := strings.Join(list.Tags, " "); got != "1 "+release.ReferrersTag(r.Manifest.Digest)+" "+release.SignatureTag(r.Manifest.Digest)+" stable" {
		t.Errorf("tags: %s", got)
	}
	resp := c.want(http.StatusOK, "GET", "/v2/edge/tags/list?n=1", "")
	decode(t, resp, &list)
	if len(list.Tags) != 1 || resp.Header.Get("Link") != `</v2/edge/tags/list?last=1&n=1>; rel="next"` {
		t.Errorf("first page: %v, %s", list.Tags, resp.Header.Get("Link"))
	}
	c.want(http.StatusBadRequest, "GET", "/v2/edge/tags/list?n=x", "")
	c.want(http.StatusNotFound, "GET", "/v2/core/tags/list", "")

	var referrers struct{ Manifests []release.Descriptor }
	decode(t, c.want(http.StatusOK, "GET", "/v2/edge/referrers/"+digest, ""), &referrers)
	if len(referrers.Manifests) != 2 {
		t.Errorf("referrers: %+v", referrers)
	}
	resp = c.want(http.StatusOK, "GET", "/v2/edge/referrers/"+digest+"?artifactType="+url.QueryEscape(images.MediaTypeSBOM), "")
	decode(t, resp, &referrers)
	if len(referrers.Manifests) != 1 {
		t.Fatalf("filtered referrers: %+v", referrers)
	}
	if referrers.Manifests[0].ArtifactType != images.MediaTypeSBOM || resp.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered referrers: %+v", referrers)
	}
	sbom, _, err := release.ParseReferrer([]byte(bodyOf(c.want(http.StatusOK, "GET", "/v2/edge/manifests/"+string(referrers.Manifests[0].Digest), ""))))
	if err != nil || sbom.Digest != r.Manifest.Digest {
		t.Errorf("referrer of %s: %v", sbom.Digest, err)
	}

	c.want(http.StatusAccepted, "DELETE", "/v2/edge/manifests/stable", "")
	c.want(http.StatusNotFound, "DELETE", "/v2/edge/manifests/stable", "")
	c.want(http.StatusOK, "GET", "/v2/edge/manifests/1", "")
	c.want(http.StatusAccepted, "DELETE", "/v2/edge/manifests/"+digest, "")
	c.want(http.StatusNotFound, "GET", "/v2/edge/manifests/1", "")
}

func decode(t *testing.T, resp *http.Response, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(bodyOf(resp)), v); err != nil {
		t.Fatal(err)
	}
}

func TestRegistryAccess(t *testing.T) {
	dir := tempDir(t)
	depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "1"), nil)
	readOnly, err := depot.NewRegistry(dir, depot.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	c := client{t, readOnly}
	c.want(http.StatusOK, "GET", "/v2/", "")
	c.want(http.StatusOK, "GET", "/v2/edge/manifests/1", "")
	c.want(http.StatusForbidden, "POST", uploads, "")
	c.want(http.StatusForbidden, "PUT", "/v2/edge/manifests/2", "{}")
	c.want(http.StatusForbidden, "DELETE", "/v2/edge/manifests/1", "")
	c.want(http.StatusForbidden, "GET", uploads+strings.Repeat("0", 32), "")

	c = openRegistry(t, dir, depot.RegistryConfig{Allow: func(r *http.Request, push bool, repository string) error {
		user, _, _ := r.BasicAuth()
		switch {
		case user == "":
			return depot.ErrLogin
		case push && user != "operator":
			return errors.New("operators only")
		case repository == "secret":
			return errors.New("not this one")
		}
		return nil
	}})
	if resp := c.want(http.StatusUnauthorized, "GET", "/v2/", ""); resp.Header.Get("WWW-Authenticate") == "" {
		t.Error("no challenge")
	}
	node, operator := []string{"Authorization", "Basic bm9kZTp4"}, []string{"Authorization", "Basic b3BlcmF0b3I6eA=="}
	c.want(http.StatusOK, "GET", "/v2/edge/manifests/1", "", node...)
	c.want(http.StatusForbidden, "GET", "/v2/secret/manifests/1", "", node...)
	c.want(http.StatusForbidden, "POST", uploads, "", node...)
	c.want(http.StatusAccepted, "POST", uploads, "", operator...)
	c.want(http.StatusMethodNotAllowed, "POST", "/v2/", "", operator...)
	c.want(http.StatusMethodNotAllowed, "PATCH", "/v2/edge/manifests/1", "", operator...)
}

func TestRegistryPaths(t *testing.T) {
	dir := tempDir(t)
	c := openRegistry(t, filepath.Join(dir, "registry"), depot.RegistryConfig{})
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/", "/v1/", "/v2/edge", "/v2/Edge/tags/list", "/v2/../secret", "/v2/edge/blobs/../../../secret", "/v2/edge/blobs/sha256:../../secret",
		"/v2/edge/blobs/uploads/../../secret", "/v2/edge/blobs/uploads/%2e%2e%2fsecret", "/v2/edge//manifests/1", "/v2//manifests/1",
		"/v2/edge/manifests/", "/v2/edge/manifests/a/b", "/v2/edge/manifests/.hidden", "/v2/edge/referrers/1", "/v2/a/../b/manifests/1",
	} {
		if resp := c.do("GET", path, ""); resp.StatusCode != http.StatusNotFound || strings.Contains(bodyOf(resp), "secret") {
			t.Errorf("GET %s: status %d: %s", path, resp.StatusCode, bodyOf(resp))
		}
	}
}

// TestRegistryReportsDamage opens a registry one of whose blobs is gone: the others are served, reading it fails clearly.
func TestRegistryReportsDamage(t *testing.T) {
	dir := tempDir(t)
	r := depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "1"), nil)
	depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "2"), nil)
	if err := os.Remove(filepath.Join(dir, "blobs/sha256", r.Manifest.Config.Digest.Hex())); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(openRegistry(t, dir, depot.RegistryConfig{}).h)
	defer server.Close()
	entries, err := depottest.Open(t, "docker://"+strings.TrimPrefix(server.URL, "http://")).List(context.Background())
	if err != nil || len(entries) != 2 {
		t.Fatalf("list: %v, %v", entries, err)
	}
	for _, e := range entries {
		if broken := e.Tag == "1"; broken != (e.Err != nil) {
			t.Errorf("entry %+v", e)
		}
	}
}

// FuzzRegistry sends one request of any kind, after which the registry must still hold what it held, and never blame itself.
func FuzzRegistry(f *testing.F) {
	for _, path := range []string{"/v2/", "/v2/_catalog?n=1", "/v2/edge/tags/list", "/v2/edge/manifests/1", uploads, uploads + "?digest=" + contentDigest,
		"/v2/edge/referrers/" + contentDigest, "/v2/edge/blobs/" + contentDigest, uploads + strings.Repeat("0", 32)} {
		for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE"} {
			f.Add(method, path, content, release.MediaTypeManifest, "bytes 0-1")
		}
	}
	f.Fuzz(func(t *testing.T, method, path, body, mediaType, contentRange string) {
		target, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		dir := tempDir(t)
		c := openRegistry(t, filepath.Join(dir, "registry"), depot.RegistryConfig{MaxBlob: 1 << 20})
		c.want(http.StatusCreated, "POST", uploads+"?digest="+contentDigest, content)
		r := &http.Request{Method: method, URL: target, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
		r.Header.Set("Content-Type", mediaType)
		r.Header.Set("Content-Range", contentRange)
		r.Header.Set("Range", contentRange)
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, r)
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("%s %s: status %d: %s", method, path, w.Code, w.Body)
		}
		if got := bodyOf(c.want(http.StatusOK, "GET", "/v2/edge/blobs/"+contentDigest, "")); got != content {
			t.Errorf("blob became %q", got)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
			t.Errorf("beside the registry: %v, %v", names, err)
		}
	})
}
