package depot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
)

// quick makes a client lose patience at once, for tests in which the server never answers.
var quick = depot.Options{Stall: 300 * time.Millisecond, Retries: 2, Pause: time.Millisecond}

// badServer serves a registry with one release through fault, which may answer instead of it.
func badServer(t *testing.T, fault func(w http.ResponseWriter, r *http.Request, next http.Handler)) (ref string, published *depot.Release) {
	t.Helper()
	dir := filepath.Join(tempDir(t), "registry")
	published = depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "1"), releasetest.Key(t))
	g, err := depot.NewRegistry(dir, depot.RegistryConfig{Allow: allowAll})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fault(w, r, g) }))
	t.Cleanup(server.Close)
	return "docker://" + strings.TrimPrefix(server.URL, "http://") + "/edge", published
}

// isUKI reports whether r asks for the UKI of release 1, a part of 20000 bytes.
func isUKI(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/blobs/"+string(imagestest.Release("edge", "1").UKI.Digest)) && r.Method == http.MethodGet
}

// offsetOf reads a header Range: bytes=N-.
func offsetOf(r *http.Request) int {
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"))
	if err != nil {
		return 0
	}
	return n
}

// hold answers with data, then neither sends nor ends until the client has gone.
func hold(w http.ResponseWriter, r *http.Request, data []byte) {
	_, _ = w.Write(data)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// readUKI reads the UKI of the release at ref.
func readUKI(t *testing.T, ref string, o depot.Options) ([]byte, error) {
	t.Helper()
	d, err := depot.Open(context.Background(), ref, o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Get(context.Background(), "1")
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := r.Part(context.Background(), images.KindUKI)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(body)
	return data, errors.Join(err, body.Close())
}

// TestBrokenPulls lets the server fail in one way; the client must end with the whole part or a clear error.
func TestBrokenPulls(t *testing.T) {
	uki := imagestest.Content(imagestest.Release("edge", "1"), images.KindUKI)
	size := strconv.Itoa(len(uki))
	cases := map[string]struct {
		fault func(w http.ResponseWriter, r *http.Request, attempt int)
		want  error // nil: the part must arrive
	}{
		"cut short once, resumed": {func(w http.ResponseWriter, r *http.Request, attempt int) {
			partial(w, r, uki, 7000)
		}, nil},
		"stalled once, resumed": {func(w http.ResponseWriter, r *http.Request, attempt int) {
			if attempt == 1 {
				w.Header().Set("Content-Length", size)
				hold(w, r, uki[:9000])
				return
			}
			partial(w, r, uki, len(uki))
		}, nil},
		"cut short, range ignored": {func(w http.ResponseWriter, r *http.Request, attempt int) {
			w.Header().Set("Content-Length", size)
			_, _ = w.Write(uki[:min(len(uki), 6000*attempt)])
		}, nil},
		"busy twice": {func(w http.ResponseWriter, r *http.Request, attempt int) {
			if attempt < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			partial(w, r, uki, len(uki))
		}, nil},
		"always cut at one place": {func(w http.ResponseWriter, r *http.Request, _ int) {
			if offsetOf(r) == 5000 {
				panic(http.ErrAbortHandler)
			}
			partial(w, r, uki, 5000)
		}, io.EOF},
		"never answers":  {func(w http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() }, depot.ErrStalled},
		"never goes on":  {func(w http.ResponseWriter, r *http.Request, _ int) { hold(w, r, nil) }, depot.ErrStalled},
		"other content":  {func(w http.ResponseWriter, r *http.Request, _ int) { _, _ = w.Write(bytes.ToUpper(uki)) }, depot.ErrCorrupt},
		"other length":   {func(w http.ResponseWriter, r *http.Request, _ int) { _, _ = w.Write(uki[:100]) }, depot.ErrCorrupt},
		"too much":       {func(w http.ResponseWriter, r *http.Request, _ int) { endless(w, uki) }, depot.ErrCorrupt},
		"a proxy's page": {func(w http.ResponseWriter, r *http.Request, _ int) { _, _ = io.WriteString(w, "<html>log in</html>") }, depot.ErrCorrupt},
		"other range": {func(w http.ResponseWriter, r *http.Request, attempt int) {
			if attempt == 1 {
				partial(w, r, uki, 3000)
				return
			}
			w.Header().Set("Content-Range", "bytes 0-19999/20000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(uki)
		}, depot.ErrCorrupt},
		"gone":           {func(w http.ResponseWriter, r *http.Request, _ int) { w.WriteHeader(http.StatusNotFound) }, depot.ErrNotFound},
		"refused":        {func(w http.ResponseWriter, r *http.Request, _ int) { w.WriteHeader(http.StatusForbidden) }, depot.ErrDenied},
		"redirect loop":  {func(w http.ResponseWriter, r *http.Request, _ int) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, errAny},
		"always failing": {func(w http.ResponseWriter, r *http.Request, _ int) { w.WriteHeader(http.StatusInternalServerError) }, errAny},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var attempts atomic.Int32
			ref, _ := badServer(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !isUKI(r) {
					next.ServeHTTP(w, r)
					return
				}
				c.fault(w, r, int(attempts.Add(1)))
			})
			data, err := readUKI(t, ref, quick)
			switch {
			case c.want == nil && (err != nil || !bytes.Equal(data, uki)):
				t.Errorf("after %d attempts: %d bytes, %v", attempts.Load(), len(data), err)
			case c.want == nil && attempts.Load() < 2:
				t.Error("the fault did not happen")
			case c.want != nil && err == nil:
				t.Errorf("accepted %d bytes", len(data))
			case c.want != nil && c.want != errAny && c.want != io.EOF && !errors.Is(err, c.want):
				t.Errorf("got %v, want %v", err, c.want)
			case attempts.Load() > 40:
				t.Errorf("%d attempts", attempts.Load())
			}
		})
	}
}

// errAny stands for an error of no particular kind.
var errAny = errors.New("any")

// partial answers a range request with at most n bytes, then breaks the connection if that is not all.
func partial(w http.ResponseWriter, r *http.Request, data []byte, n int) {
	offset := offsetOf(r)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)-offset))
	if offset > 0 {
		w.Header().Set("Content-Range", "bytes "+strconv.Itoa(offset)+"-"+strconv.Itoa(len(data)-1)+"/"+strconv.Itoa(len(data)))
		w.WriteHeader(http.StatusPartialContent)
	}
	rest := data[offset:]
	_, _ = w.Write(rest[:min(n, len(rest))]) // a short body makes the server cut the connection
}

// endless sends data again and again, without a length, until the client goes.
func endless(w http.ResponseWriter, data []byte) {
	for range 1000 {
		if _, err := w.Write(data); err != nil {
			return
		}
	}
}

// TestSlowTrickle meets a server that sends a byte at a time, always within the stall time.
func TestSlowTrickle(t *testing.T) {
	uki := imagestest.Content(imagestest.Release("edge", "1"), images.KindUKI)
	ref, _ := badServer(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !isUKI(r) {
			next.ServeHTTP(w, r)
			return
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		if offset := offsetOf(r); offset > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, len(uki)-1, len(uki)))
			w.WriteHeader(http.StatusPartialContent)
		}
		for i := offsetOf(r); i < len(uki); i++ {
			_, _ = w.Write(uki[i : i+1])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
	d, err := depot.Open(context.Background(), ref, quick)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Get(context.Background(), "1")
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := r.Part(context.Background(), images.KindUKI)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, body)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, depot.ErrStalled) {
			t.Errorf("got %v, want ErrStalled", err)
		}
	case <-ctx.Done():
		t.Error("the client was held for 20 s")
	}
}

// TestBadDocuments lets the registry lie about what is not streamed.
func TestBadDocuments(t *testing.T) {
	for name, c := range map[string]struct {
		match string
		body  string
		want  error
	}{
		"manifest of another digest": {"/manifests/sha256:", "{}", depot.ErrCorrupt},
		"huge manifest":              {"/manifests/", strings.Repeat(" ", images.MaxDocument+1), depot.ErrCorrupt},
		"manifest that is a page":    {"/manifests/1", "<html>", errAny},
		"config of another digest":   {"/blobs/", "{}", depot.ErrCorrupt},
		"signature list is nonsense": {".sig", "[]", errAny},
	} {
		t.Run(name, func(t *testing.T) {
			ref, published := badServer(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !strings.Contains(r.URL.Path, c.match) {
					next.ServeHTTP(w, r)
					return
				}
				_, _ = io.WriteString(w, c.body)
			})
			d, err := depot.Open(context.Background(), ref, quick)
			if err != nil {
				t.Fatal(err)
			}
			reference := "1"
			if strings.Contains(c.match, "sha256") {
				reference = string(published.Manifest.Digest)
			}
			if _, err := d.Get(context.Background(), reference); err == nil || (c.want != errAny && !errors.Is(err, c.want)) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestBrokenPush breaks uploads: once in the middle, where the client must go on from what the registry has, and with
// answers that no retry helps.
func TestBrokenPush(t *testing.T) {
	var once sync.Once
	var resumed atomic.Bool
	breaking := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPatch && r.ContentLength > 10000 {
			broken := false
			once.Do(func() {
				broken = true
				r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 5000), errorReader{}))
				next.ServeHTTP(httptest.NewRecorder(), r)
			})
			if broken {
				panic(http.ErrAbortHandler)
			}
		}
		if r.Method == http.MethodPatch && strings.HasPrefix(r.Header.Get("Content-Range"), "5000-") {
			resumed.Store(true)
		}
		next.ServeHTTP(w, r)
	}
	ref, _ := badServer(t, breaking)
	d, err := depot.Open(context.Background(), ref, quick)
	if err != nil {
		t.Fatal(err)
	}
	key := releasetest.Key(t)
	r, err := d.Publish(context.Background(), depottest.Publication(t, imagestest.Release("edge", "2"), key))
	if err != nil {
		t.Fatal(err)
	}
	checkParts(t, r)
	if !resumed.Load() {
		t.Error("the upload was not resumed at byte 5000")
	}
	for status, want := range map[int]error{http.StatusForbidden: depot.ErrDenied, http.StatusInsufficientStorage: depot.ErrNoSpace, http.StatusMethodNotAllowed: depot.ErrReadOnly} {
		ref, _ := badServer(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPost {
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, r)
		})
		d, err := depot.Open(context.Background(), ref, quick)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Publish(context.Background(), depottest.Publication(t, imagestest.Release("edge", "2"), key)); !errors.Is(err, want) {
			t.Errorf("status %d: got %v, want %v", status, err, want)
		}
	}
}

// TestStalledPush meets a registry that takes nothing and says nothing.
func TestStalledPush(t *testing.T) {
	over := make(chan struct{})
	ref, _ := badServer(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPatch {
			select {
			case <-r.Context().Done():
			case <-over:
			}
			return
		}
		next.ServeHTTP(w, r)
	})
	defer close(over) // the server notices a client that has gone only when it reads the body
	d, err := depot.Open(context.Background(), ref, depot.Options{Stall: 30 * time.Millisecond, Retries: 1, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Publish(context.Background(), depottest.Publication(t, imagestest.Release("edge", "2"), nil)); !errors.Is(err, depot.ErrStalled) {
		t.Errorf("got %v, want ErrStalled", err)
	}
}

// TestTLS refuses a registry without TLS elsewhere, and a redirect away from TLS.
func TestTLS(t *testing.T) {
	for _, host := range []string{"10.9.9.9:80", "192.168.1.1:80", "registry.example:80"} {
		seen := ""
		spy := roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Scheme == "http" {
				seen = r.URL.String()
			}
			return nil, io.ErrUnexpectedEOF
		})
		d, err := depot.Open(context.Background(), "docker://"+host+"/edge", depot.Options{Transport: spy, Retries: 1, Pause: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Get(context.Background(), "1"); err == nil || seen != "" {
			t.Errorf("%s: %v, sent without TLS: %s", host, err, seen)
		}
	}
	ref, _ := badServer(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	var target string
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer secure.Close()
	target = "http://" + strings.TrimSuffix(strings.TrimPrefix(ref, "docker://"), "/edge")
	// A name that is not this machine, reached through the test server.
	transport := secure.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com"
	address := strings.TrimPrefix(secure.URL, "https://")
	transport.DialContext = dialTo(address)
	d, err := depot.Open(context.Background(), "docker://registry.example/edge", depot.Options{Transport: transport, Retries: 1, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(context.Background(), "1"); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("redirect to HTTP: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestDeathAtEveryRequest publishes through a connection that dies at the n-th request, for every n: each time the depot
// lists either nothing or the whole release, and trying again completes it.
func TestDeathAtEveryRequest(t *testing.T) {
	for n := int32(1); ; n++ {
		dir := filepath.Join(tempDir(t), "registry")
		g, err := depot.NewRegistry(dir, depot.RegistryConfig{Allow: allowAll})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(g)
		ref := "docker://" + strings.TrimPrefix(server.URL, "http://")
		var count atomic.Int32
		dying := roundTripper(func(r *http.Request) (*http.Response, error) {
			if count.Add(1) >= n && r.URL.Scheme == "http" {
				return nil, errDead
			}
			return http.DefaultTransport.RoundTrip(r)
		})
		d, err := depot.Open(context.Background(), ref, depot.Options{Transport: dying, Retries: 1, Pause: time.Microsecond})
		if err != nil {
			t.Fatal(err)
		}
		p := depottest.Publication(t, imagestest.Release("edge", "1"), releasetest.Key(t))
		_, publishErr := d.Publish(context.Background(), p)
		checkWholeOrNothing(t, ref, dir, publishErr == nil)
		if _, err := depottest.Open(t, ref).Publish(context.Background(), p); err != nil {
			t.Errorf("death at request %d: second attempt: %v", n, err)
		}
		checkWholeOrNothing(t, ref, dir, true)
		server.Close()
		if publishErr == nil {
			if n < 20 {
				t.Errorf("publishing took %d requests only: the deaths did not happen", n)
			}
			return
		}
	}
}

var errDead = errors.New("connection died")

func checkWholeOrNothing(t *testing.T, ref, dir string, promised bool) {
	t.Helper()
	entries, err := depottest.Open(t, ref).List(context.Background())
	if err != nil || len(entries) > 1 || (promised && len(entries) == 0) {
		t.Errorf("list: %+v, %v; promised %t", entries, err, promised)
	}
	for _, e := range entries {
		r, err := depottest.Open(t, ref).Get(context.Background(), e.Tag)
		if err != nil || len(r.Bundle.Signatures) != 1 {
			t.Errorf("listed, but: %v", err)
			continue
		}
		if papers, err := r.Papers(context.Background()); err != nil || len(papers) != 2 {
			t.Errorf("papers: %v, %v", papers, err)
		}
	}
	if problems, err := depot.Check(dir, true); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}

// TestCopyResumes breaks a copy into a layout in the middle of the largest part; the second attempt must not fetch again what
// the first one had, not even when a power cut tore it.
func TestCopyResumes(t *testing.T) {
	for name, tear := range map[string]bool{"whole": false, "torn": true} {
		t.Run(name, func(t *testing.T) { copyResumes(t, tear) })
	}
}

func copyResumes(t *testing.T, tear bool) {
	uki := imagestest.Content(imagestest.Release("edge", "1"), images.KindUKI)
	var mu sync.Mutex
	var offsets []int
	ref, _ := badServer(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !isUKI(r) {
			next.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		offsets = append(offsets, offsetOf(r))
		if len(offsets) == 1 {
			partial(w, r, uki, 12000)
			return
		}
		if len(offsets) <= 4 && offsetOf(r) == 12000 {
			panic(http.ErrAbortHandler) // gives up, as the retries do not help
		}
		next.ServeHTTP(w, r)
	})
	d, err := depot.Open(context.Background(), ref, quick)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Get(context.Background(), "1")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tempDir(t), "copy")
	to := depottest.Open(t, "oci:"+dir)
	if _, err := depot.Copy(context.Background(), r, to, depot.CopyOptions{}); err == nil {
		t.Fatal("the copy did not break")
	}
	if entries, err := to.List(context.Background()); err != nil || len(entries) > 0 {
		t.Errorf("half a copy is listed: %v, %v", entries, err)
	}
	if tear {
		tearFile(t, filepath.Join(dir, "partial", images.DigestOf(uki).Hex()))
	}
	mu.Lock()
	first := len(offsets)
	mu.Unlock()
	copied, err := depot.Copy(context.Background(), r, to, depot.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkParts(t, copied)
	mu.Lock()
	defer mu.Unlock()
	if again := offsets[first:]; len(again) == 0 || again[0] != 12000 {
		t.Errorf("second attempt read from %v, want 12000 first", again)
	}
	if len(copied.Bundle.Signatures) != 1 {
		t.Error("the signature was not copied")
	}
}

// tearFile does what a power cut may do to a file that was not synced: right length, zeros inside.
func tearFile(t *testing.T, name string) {
	t.Helper()
	data := mustRead(t, name)
	if len(data) != 12000 {
		t.Fatalf("%s has %d bytes, want 12000", name, len(data))
	}
	clear(data[4096:8192])
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// dialTo returns a dialer that reaches address whatever it is asked for.
func dialTo(address string) func(ctx context.Context, network, _ string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
}

// TestPrivateAddressOverTLS publishes and reads over TLS at an address of a private network, where go-containerregistry by
// itself would also try HTTP.
func TestPrivateAddressOverTLS(t *testing.T) {
	g, err := depot.NewRegistry(filepath.Join(tempDir(t), "registry"), depot.RegistryConfig{Allow: allowAll})
	if err != nil {
		t.Fatal(err)
	}
	var first atomic.Bool
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first.Store(r.ProtoMajor == 1)
		g.ServeHTTP(w, r)
	}))
	server.EnableHTTP2 = true // as the daemon does; bulk transfers do without
	server.StartTLS()
	defer server.Close()
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = true
	transport.TLSClientConfig.ServerName = "example.com"
	transport.DialContext = dialTo(strings.TrimPrefix(server.URL, "https://"))
	d, err := depot.Open(context.Background(), "docker://10.77.0.1:7443", depot.Options{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	key := releasetest.Key(t)
	r, err := d.Publish(context.Background(), depottest.Publication(t, imagestest.Release("edge", "1"), key))
	if err != nil {
		t.Fatal(err)
	}
	checkParts(t, r)
	if entries, err := d.List(context.Background()); err != nil || len(entries) != 1 || !first.Load() {
		t.Errorf("list: %v, %v, HTTP/1 %t", entries, err, first.Load())
	}
}
