package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"roost/images"
)

// blobContent reads a blob.
func blobContent(t *testing.T, cache *Cache, d images.Digest) []byte {
	t.Helper()
	path, err := cache.Blob(d)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestFetch(t *testing.T) {
	files := map[string][]byte{"pool/empty": {}}
	for i := range 20 {
		files[fmt.Sprintf("pool/%d.deb", i)] = bytesOf(10_000 * (i + 1))
	}
	s := newServer(t, files)
	var items []Item
	var total int64
	for name, content := range files {
		items = append(items, itemOf(name, content))
		total += int64(len(content))
	}
	items = append(items, items[0]) // wanted twice, fetched once
	source := s.source(t)
	source.Workers = 3
	meet := s.barrier(3)
	for name := range files {
		s.fail(name, meet)
	}
	var last Progress
	source.Progress = func(p Progress) {
		if p.Bytes < 0 || p.Bytes > p.BytesTotal || p.Files > p.FilesTotal {
			t.Errorf("impossible progress %+v", p)
		}
		last = p
	}
	if err := source.Fetch(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if want := (Progress{Files: 21, FilesTotal: 21, Bytes: total, BytesTotal: total}); last != want {
		t.Errorf("progress ends with %+v, want %+v", last, want)
	}
	if n := len(s.taken()); n != 21 || s.busiest != 3 {
		t.Errorf("%d requests, at most %d at a time", n, s.busiest)
	}
	source.Transport = noNetwork{}
	if err := source.Fetch(t.Context(), items); err != nil {
		t.Errorf("from the cache: %v", err)
	}
	for _, item := range items {
		if !bytes.Equal(blobContent(t, source.Cache, item.SHA256), files[item.Path]) {
			t.Errorf("%s has other content", item.Path)
		}
	}
	if names := listing(t, source.Cache); len(names) != 21 {
		t.Errorf("the cache holds %q", names)
	}
}

// TestFetchFaults fetches one file of 100 000 bytes from mirrors that misbehave.
func TestFetchFaults(t *testing.T) {
	const name = "pool/a.deb"
	content := bytesOf(100_000)
	other := bytesOf(100_001)[:100_000]
	for _, c := range []struct {
		name     string
		faults   []fault
		sticky   bool     // the last fault stays
		part     []byte   // what an earlier run left
		requests []string // without the file's name
		want     string   // part of the error; "" when it must succeed
		left     string   // where something stays after an error
	}{
		{name: "cut short", faults: []fault{cutAfter(30_000), cutAfter(30_000)}, requests: []string{"", " from 30000", " from 60000"}},
		{name: "cut short again and again", faults: []fault{cutAfter(20_000)}, sticky: true,
			requests: []string{"", " from 20000", " from 40000", " from 60000", " from 80000"}},
		{name: "stalls", faults: []fault{stallAfter(50_000), stallAfter(0)}, requests: []string{"", " from 50000", " from 50000"}},
		{name: "stalls for ever", faults: []fault{stallAfter(0)}, sticky: true, requests: []string{"", "", ""},
			want: "no byte came for 100ms (after 3 attempts)", left: "partial"},
		{name: "breaks for ever", faults: []fault{cutAfter(0)}, sticky: true, requests: []string{"", "", ""}, want: "(after 3 attempts)", left: "partial"},
		{name: "ignores ranges", faults: []fault{cutAfter(30_000), ignoreRange}, requests: []string{"", " from 30000"}},
		{name: "refuses ranges", faults: []fault{cutAfter(30_000), status(416)}, requests: []string{"", " from 30000", ""}},
		{name: "answers another range", faults: []fault{cutAfter(30_000), func(w http.ResponseWriter, _ *http.Request, content []byte) {
			w.Header().Set("Content-Range", "bytes 20000-99999/100000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content[20_000:])
		}}, requests: []string{"", " from 30000", ""}},
		{name: "is busy", faults: []fault{status(503), status(500), status(429, "Retry-After", "0")}[:2], requests: []string{"", "", ""}},
		{name: "is busy for ever", faults: []fault{status(503)}, sticky: true, requests: []string{"", "", ""}, want: "503 Service Unavailable (after 3 attempts)", left: "partial"},
		{name: "has no such file", faults: []fault{status(404)}, requests: []string{""}, want: "404 Not Found; the mirror no longer has this version", left: "partial"},
		{name: "forbids", faults: []fault{status(403)}, requests: []string{""}, want: "403 Forbidden", left: "partial"},
		{name: "has other bytes", faults: []fault{send(other, false)}, requests: []string{""}, want: "refusing what the mirror sent: the content has digest sha256:", left: "partial"},
		{name: "has a shorter file", faults: []fault{send(other[:50_000], false)}, requests: []string{""}, want: "the file has 50000 bytes, want 100000", left: "partial"},
		{name: "has a longer file", faults: []fault{send(append(other, 1), true)}, requests: []string{""}, want: "more than the expected 100000 bytes came", left: "partial"},
		{name: "earlier part is sound", part: content[:70_000], requests: []string{" from 70000"}},
		{name: "earlier part is complete", part: content, requests: nil},
		{name: "earlier part is damaged", part: other[:70_000], requests: []string{" from 70000", ""}},
		{name: "earlier part is complete and damaged", part: other, requests: []string{""}},
		{name: "earlier part is too long", part: append(bytes.Clone(content), 1), requests: []string{""}},
		{name: "earlier part is damaged and so is the mirror", part: other[:70_000], faults: []fault{send(other, false)}, sticky: true,
			requests: []string{" from 70000", ""}, want: "refusing what the mirror sent", left: "partial"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, map[string][]byte{name: content})
			s.sticky = c.sticky
			s.fail(name, c.faults...)
			source, item := s.source(t), itemOf(name, content)
			if strings.HasPrefix(c.name, "stalls") {
				source.Stall = 100 * time.Millisecond
			}
			if c.part != nil {
				leavePart(t, source.Cache, item, c.part)
			}
			err := source.Fetch(t.Context(), []Item{item})
			var requests []string
			for _, request := range s.taken() {
				requests = append(requests, strings.TrimPrefix(request, name))
			}
			if !reflect.DeepEqual(requests, c.requests) {
				t.Errorf("requests %q, want %q", requests, c.requests)
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "cannot fetch a.deb: "+s.URL) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				for _, file := range listing(t, source.Cache) {
					if !strings.HasPrefix(file, c.left+"/") {
						t.Errorf("%s stays after an error", file)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(blobContent(t, source.Cache, item.SHA256), content) {
				t.Error("the content is wrong")
			}
			if files := listing(t, source.Cache); len(files) != 1 {
				t.Errorf("the cache holds %q", files)
			}
		})
	}
}

func leavePart(t *testing.T, cache *Cache, item Item, part []byte) {
	t.Helper()
	if err := cache.makeSections(SectionBlobs); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cache.dir, SectionPartial, item.SHA256.Hex()+".part"), part, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFetchSecondMirror(t *testing.T) {
	const name = "pool/a.deb"
	content := bytesOf(50_000)
	for what, bad := range map[string]fault{
		"has no such file": status(404), "has other bytes": send(bytesOf(50_001)[:50_000], false), "is down": status(500), "cuts short": cutAfter(100),
	} {
		first, second := newServer(t, nil), newServer(t, map[string][]byte{name: content})
		first.set(map[string][]byte{name: content})
		first.fail(name, bad)
		source := first.source(t)
		source.Mirror.Main = append(source.Mirror.Main, second.mirror(t).Main...)
		item := itemOf(name, content)
		if err := source.Fetch(t.Context(), []Item{item}); err != nil {
			t.Errorf("the first mirror %s: %v", what, err)
		}
		if a, b := len(first.taken()), len(second.taken()); a != 1 || b != 1 {
			t.Errorf("the first mirror %s: %d and %d requests", what, a, b)
		}
	}
}

func TestFetchRedirects(t *testing.T) {
	const name = "pool/a.deb"
	content := bytesOf(1000)
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, content, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ to, want string }{
		{"/debian/pool/b.deb", ""},
		{"file://" + local, "it redirects to file://"},
		{"/debian/pool/a.deb", "not followed"},
	} {
		s := newServer(t, map[string][]byte{name: nil, "pool/b.deb": content})
		s.sticky = true
		s.fail(name, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Location", c.to)
			w.WriteHeader(http.StatusFound)
		})
		source := s.source(t)
		err := source.Fetch(t.Context(), []Item{itemOf(name, content)})
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("redirected to %s: error %v, want %q", c.to, err, c.want)
		}
	}
}

func TestFetchFileURL(t *testing.T) {
	dir, content := t.TempDir(), bytesOf(100_000)
	if err := os.WriteFile(filepath.Join(dir, "a.deb"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	mirror, err := ParseMirror("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	source, item := &Source{Mirror: mirror, Cache: testCache(t)}, itemOf("a.deb", content)
	leavePart(t, source.Cache, item, content[:1000])
	if err := source.Fetch(t.Context(), []Item{item}); err != nil || !bytes.Equal(blobContent(t, source.Cache, item.SHA256), content) {
		t.Error(err)
	}
	err = source.Fetch(t.Context(), []Item{itemOf("b.deb", nil)})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a missing file gives %v", err)
	}
}

func TestFetchSecuritySuite(t *testing.T) {
	content := bytesOf(10)
	s := newServer(t, nil)
	s.set(map[string][]byte{"security/pool/a.deb": content})
	item := itemOf("pool/a.deb", content)
	item.Suite = "trixie-security"
	if err := s.source(t).Fetch(t.Context(), []Item{item}); err != nil {
		t.Error(err)
	}
}

func TestFetchWithoutMirror(t *testing.T) {
	content := bytesOf(10)
	source := &Source{Cache: testCache(t)}
	item := itemOf("pool/a.deb", content)
	err := source.Fetch(t.Context(), []Item{item})
	if err == nil || err.Error() != "cannot fetch a.deb: it is not in the cache, and no mirror is known" {
		t.Errorf("error %v", err)
	}
	source.Offline = true
	err = source.Fetch(t.Context(), []Item{item})
	if err == nil || err.Error() != "cannot fetch a.deb: it is not in the cache, and the work is to be done offline" {
		t.Errorf("error %v", err)
	}
	if err := source.Cache.AddBlob(item.SHA256, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := source.Fetch(t.Context(), []Item{item}); err != nil {
		t.Error(err)
	}
}

func TestFetchReplacesDamagedBlob(t *testing.T) {
	content := bytesOf(1000)
	s := newServer(t, map[string][]byte{"pool/a.deb": content})
	source, item := s.source(t), itemOf("pool/a.deb", content)
	leavePart(t, source.Cache, item, nil)
	if err := os.WriteFile(filepath.Join(source.Cache.dir, SectionBlobs, item.SHA256.Hex()), content[:500], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := source.Fetch(t.Context(), []Item{item}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(blobContent(t, source.Cache, item.SHA256), content) {
		t.Error("the damaged blob stays")
	}
}

// TestFetchTogether has several caches, as several processes would, want the same file at once.
func TestFetchTogether(t *testing.T) {
	const name = "pool/a.deb"
	content := bytesOf(200_000)
	s := newServer(t, map[string][]byte{name: content})
	release := make(chan struct{})
	s.fail(name, func(w http.ResponseWriter, r *http.Request, content []byte) {
		w.Write(content[:1000])
		w.(http.Flusher).Flush()
		<-release
		w.Write(content[1000:])
	})
	first := s.source(t)
	item := itemOf(name, content)
	var wait sync.WaitGroup
	var failed atomic.Int32
	for i := range 4 {
		source := *first
		if i > 0 {
			cache, err := OpenCache(first.Cache.Dir())
			if err != nil {
				t.Fatal(err)
			}
			defer cache.Close()
			source.Cache = cache
		}
		wait.Go(func() {
			if err := source.Fetch(t.Context(), []Item{item}); err != nil {
				t.Error(err)
				failed.Add(1)
			}
		})
	}
	close(release)
	wait.Wait()
	if requests := s.taken(); len(requests) != 1 && failed.Load() == 0 {
		t.Errorf("requests %q, want one for all", requests)
	}
	if files := listing(t, first.Cache); !reflect.DeepEqual(files, []string{"blobs/" + item.SHA256.Hex()}) {
		t.Errorf("the cache holds %q", files)
	}
}

// TestFetchCancelled breaks a transfer off and continues it in a new session.
func TestFetchCancelled(t *testing.T) {
	const name = "pool/a.deb"
	content := bytesOf(100_000)
	s := newServer(t, map[string][]byte{name: content})
	source, item := s.source(t), itemOf(name, content)
	why := errors.New("the user pressed Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	s.fail(name, func(w http.ResponseWriter, r *http.Request, content []byte) {
		w.Write(startPart(w, r, content)[:40_000])
		w.(http.Flusher).Flush()
		partReaches(r.Context(), source.Cache.dir, content, 40_000)
		cancel(why)
		<-r.Context().Done()
	})
	if err := source.Fetch(ctx, []Item{item}); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	if files := listing(t, source.Cache); len(files) != 1 || !strings.HasPrefix(files[0], "partial/") {
		t.Errorf("the cache holds %q", files)
	}
	if err := source.Fetch(t.Context(), []Item{item}); err != nil {
		t.Fatal(err)
	}
	requests := s.taken()
	if want := []string{name, name + " from 40000"}; !reflect.DeepEqual(requests, want) {
		t.Errorf("requests %q, want %q", requests, want)
	}
}

func TestFetchStopsAtFirstError(t *testing.T) {
	files := map[string][]byte{}
	var items []Item
	for i := range 50 {
		name := fmt.Sprintf("pool/%02d.deb", i)
		files[name] = bytesOf(100 + i)
		items = append(items, itemOf(name, files[name]))
	}
	delete(files, "pool/00.deb")
	s := newServer(t, files)
	source := s.source(t)
	source.Workers = 1
	err := source.Fetch(t.Context(), items)
	if err == nil || !strings.Contains(err.Error(), "cannot fetch 00.deb") {
		t.Errorf("error %v", err)
	}
	if requests := s.taken(); len(requests) > 2 {
		t.Errorf("%d requests after the first one failed", len(requests))
	}
}

func TestFetchHonoursRetryAfter(t *testing.T) {
	run := (&Source{Cache: testCache(t), Pause: func(int) time.Duration { return 0 }}).start()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := run.wait(ctx, 1, &statusError{code: 503, after: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Retry-After was not waited for: %v", err)
	}
	if err := run.wait(t.Context(), 1, &statusError{code: 503}); err != nil {
		t.Error(err)
	}
	answer := &http.Response{StatusCode: 429, Header: http.Header{"Retry-After": {"7"}}}
	var status *statusError
	if err := statusOf(answer); !errors.As(err, &status) || status.after != 7*time.Second {
		t.Errorf("%+v", err)
	}
}

func TestBackOff(t *testing.T) {
	var all []time.Duration
	for attempt := 1; attempt <= 10; attempt++ {
		all = append(all, backOff(attempt))
	}
	if all[0] < 250*time.Millisecond || all[0] > 500*time.Millisecond || slices.Max(all) > 16*time.Second || all[9] < 8*time.Second {
		t.Errorf("pauses %v", all)
	}
}

// TestFetchDiskFull uses a real file system of 1 MiB.
func TestFetchDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	cache, err := OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	small, large := bytesOf(600_000), bytesOf(2_000_000)
	s := newServer(t, map[string][]byte{"pool/small.deb": small, "pool/large.deb": large})
	source := s.source(t)
	source.Cache = cache

	err = source.Fetch(t.Context(), []Item{itemOf("pool/large.deb", large)})
	if err == nil || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "2 MB are needed and 1 MB are free") || len(s.taken()) != 0 {
		t.Errorf("a file that cannot fit gives %v", err)
	}

	// The disk fills up while the file comes.
	filler := filepath.Join(dir, "filler")
	s.fail("pool/small.deb", func(w http.ResponseWriter, r *http.Request, content []byte) {
		if err := os.WriteFile(filler, make([]byte, 700_000), 0o644); err != nil {
			t.Error(err)
		}
		w.Write(content)
	})
	item := itemOf("pool/small.deb", small)
	err = source.Fetch(t.Context(), []Item{item})
	if err == nil || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "is full; free some space or run roost cache prune") || len(s.taken()) != 1 {
		t.Errorf("a disk that fills up gives %v", err)
	}
	if _, err := cache.Blob(item.SHA256); !isMissing(err) {
		t.Errorf("half a file has its final name: %v", err)
	}
	if err := cache.AddBlob(item.SHA256, bytes.NewReader(small)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("storing on a full disk gives %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := source.Fetch(t.Context(), []Item{item}); err != nil {
		t.Fatalf("with space again: %v", err)
	}
	if requests := s.taken(); len(requests) != 1 || !strings.Contains(requests[0], " from ") {
		t.Errorf("requests %q, want one that continues", requests)
	}
	if !bytes.Equal(blobContent(t, cache, item.SHA256), small) {
		t.Error("the content is wrong")
	}
}
