package archive

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roost/images"
)

// server is a mirror that can be told to misbehave.
type server struct {
	*httptest.Server
	files map[string][]byte // by path below /debian/; those below /debian-security/ with "security/" before

	mu       sync.Mutex
	faults   map[string][]fault // for the first requests of a path, in turn; the last one stays when sticky
	sticky   bool
	requests []string // "path" or "path from N"
	active   int
	busiest  int
}

// fault answers a request in place of the server. content is what the file should have.
type fault func(w http.ResponseWriter, r *http.Request, content []byte)

func newServer(t *testing.T, files map[string][]byte) *server {
	t.Helper()
	s := &server{files: files, faults: map[string][]fault{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/debian/")
	if rest, ok := strings.CutPrefix(name, "/debian-security/"); ok {
		name = "security/" + rest
	}
	s.mu.Lock()
	s.active++
	s.busiest = max(s.busiest, s.active)
	entry := name
	if from := r.Header.Get("Range"); from != "" {
		entry += " from " + strings.Trim(from, "bytes=-")
	}
	s.requests = append(s.requests, entry)
	content, found := s.files[name]
	var act fault
	if list := s.faults[name]; len(list) > 0 {
		act = list[0]
		if !s.sticky || len(list) > 1 {
			s.faults[name] = list[1:]
		}
	}
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.active--; s.mu.Unlock() }()
	switch {
	case act != nil:
		act(w, r, content)
	case !found:
		http.NotFound(w, r)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// taken returns the requests since the last call.
func (s *server) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.requests
	s.requests = nil
	return list
}

func (s *server) fail(name string, faults ...fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[name] = faults
}

func (s *server) set(files map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = files
}

// cutAfter sends a range or the whole as asked for, and drops the connection after n bytes of it.
func cutAfter(n int) fault {
	return func(w http.ResponseWriter, r *http.Request, content []byte) {
		part := startPart(w, r, content)
		w.Write(part[:min(n, len(part))])
		panic(http.ErrAbortHandler)
	}
}

// stallAfter sends n bytes and then nothing until the client gives up.
func stallAfter(n int) fault {
	return func(w http.ResponseWriter, r *http.Request, content []byte) {
		part := startPart(w, r, content)
		w.Write(part[:min(n, len(part))])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// startPart writes the header of a correct answer and returns the bytes that belong to it.
func startPart(w http.ResponseWriter, r *http.Request, content []byte) []byte {
	var from int
	if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); n == 1 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	return content[from:]
}

// ignoreRange sends everything, whatever was asked for.
func ignoreRange(w http.ResponseWriter, _ *http.Request, content []byte) { w.Write(content) }

// barrier answers correctly once n requests have come.
func (s *server) barrier(n int32) fault {
	var come atomic.Int32
	met := make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request, content []byte) {
		if come.Add(1) == n {
			close(met)
		}
		select {
		case <-met:
			w.Write(startPart(w, r, content))
		case <-r.Context().Done():
		}
	}
}

// status answers with code.
func status(code int, header ...string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		if len(header) == 2 {
			w.Header().Set(header[0], header[1])
		}
		w.WriteHeader(code)
	}
}

// send answers with other bytes, without a length when chunked.
func send(other []byte, chunked bool) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		if chunked {
			w.(http.Flusher).Flush()
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(other)))
		}
		w.Write(other)
	}
}

func (s *server) mirror(t *testing.T) Mirror {
	t.Helper()
	m, err := ParseMirror(s.URL + "/debian")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// source returns a source that loses no time.
func (s *server) source(t *testing.T) *Source {
	t.Helper()
	return &Source{
		Mirror: s.mirror(t), Cache: testCache(t), Tries: 3,
		Pause: func(int) time.Duration { return 0 },
	}
}

func itemOf(name string, content []byte) Item {
	return Item{Suite: "trixie", Path: name, Size: int64(len(content)), SHA256: images.DigestOf(content)}
}

// bytesOf returns n bytes that differ from place to place.
func bytesOf(n int) []byte {
	b := make([]byte, n)
	x := uint32(n)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
