package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/images"
)

// TestMain lets the test binary be the process that TestFetchKilled kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("ROOST_TEST_FETCH_INTO"); dir != "" {
		if err := fetchAsChild(dir, os.Getenv("ROOST_TEST_FETCH_FROM"), os.Getenv("ROOST_TEST_FETCH_ITEMS")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fetchAsChild(dir, from, list string) error {
	mirror, err := ParseMirror(from)
	if err != nil {
		return err
	}
	cache, err := OpenCache(dir)
	if err != nil {
		return err
	}
	var items []Item
	for _, text := range strings.Fields(list) {
		var item Item
		if _, err := fmt.Sscanf(strings.ReplaceAll(text, ",", " "), "%s %d %s", &item.Path, &item.Size, &item.SHA256); err != nil {
			return err
		}
		items = append(items, item)
	}
	source := &Source{Mirror: mirror, Cache: cache, Workers: 2}
	return errors.Join(source.Fetch(context.Background(), items), cache.Close())
}

// TestFetchKilled kills a fetching process when the server has sent a certain number of pieces, again and again. After each
// kill every blob must be whole, and the next process must continue where it was.
func TestFetchKilled(t *testing.T) {
	const pieces, piece = 8, 20_000
	dir := t.TempDir()
	files := map[string][]byte{}
	var list []string
	for i := range 4 {
		name, content := fmt.Sprintf("pool/%d.deb", i), bytesOf(pieces*piece+i)
		files[name] = content
		list = append(list, fmt.Sprintf("%s,%d,%s", name, len(content), images.DigestOf(content)))
	}
	s := newServer(t, files)
	s.sticky = true
	sent := make(chan bool)
	for name := range files {
		s.fail(name, func(w http.ResponseWriter, r *http.Request, content []byte) {
			for part := startPart(w, r, content); len(part) > 0; {
				n := min(piece, len(part))
				w.Write(part[:n])
				w.(http.Flusher).Flush()
				part = part[n:]
				written := len(content) - len(part)
				if written < len(content) && !partReaches(r.Context(), dir, content, written) {
					return
				}
				select {
				case sent <- true:
				case <-r.Context().Done():
					return
				}
			}
		})
	}
	for kills := 0; ; kills++ {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "ROOST_TEST_FETCH_INTO="+dir, "ROOST_TEST_FETCH_FROM="+s.URL+"/debian",
			"ROOST_TEST_FETCH_ITEMS="+strings.Join(list, " "))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan string, 1)
		go func() {
			scanner := bufio.NewScanner(out)
			var text []string
			for scanner.Scan() {
				text = append(text, scanner.Text())
			}
			ended <- strings.Join(text, "\n")
		}()
		text := ""
		for pass, done := 0, false; !done; {
			select {
			case <-sent:
				if pass++; pass == 5+kills { // a few more each time, so that there is an end
					_ = child.Process.Kill()
				}
			case text = <-ended:
				done = true
			}
		}
		err = child.Wait()
		checkBlobs(t, dir)
		if err == nil {
			t.Logf("done after %d kills", kills)
			if kills < 2 {
				t.Error("the process was not killed often enough to prove anything")
			}
			break
		}
		if text != "" {
			t.Fatalf("the process failed by itself: %s", text)
		}
	}
	if !slices.ContainsFunc(s.taken(), func(request string) bool { return strings.Contains(request, " from ") }) {
		t.Error("nothing was continued")
	}
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(names) != len(files) {
		t.Errorf("the cache holds %q, %v", names, err)
	}
}

func checkBlobs(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, SectionBlobs, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := verifyBlob(name, images.Digest("sha256:"+filepath.Base(name))); err != nil {
			t.Errorf("blob %s: %v", filepath.Base(name), err)
		}
	}
}

// partReaches waits until the client has written size bytes of content, and reports whether it did before it was gone.
func partReaches(ctx context.Context, dir string, content []byte, size int) bool {
	poll := time.NewTicker(time.Millisecond) // nothing signals that another process has written
	defer poll.Stop()
	for {
		info, err := os.Stat(filepath.Join(dir, SectionPartial, images.DigestOf(content).Hex()+".part"))
		if err == nil && info.Size() >= int64(size) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-poll.C:
		}
	}
}
