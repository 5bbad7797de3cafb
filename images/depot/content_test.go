package depot_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
)

// TestLyingContent publishes root blobs that decompress to something else than the document states. Their digests in the
// manifest are right, so only Content can notice.
func TestLyingContent(t *testing.T) {
	r := imagestest.Release("edge", "1")
	root := imagestest.Content(r, images.KindRoot)
	compress := func(data []byte, o ...zstd.EOption) []byte {
		w, err := zstd.NewWriter(nil, o...)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(data, nil)
	}
	flipped := bytes.Clone(root)
	flipped[len(flipped)/2] ^= 4
	var wide bytes.Buffer // a stream, whose frame asks for its whole window
	w, err := zstd.NewWriter(&wide, zstd.WithWindowSize(128<<20))
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if _, err := w.Write(root); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		blob []byte
		want error
	}{
		"bomb":             {compress(make([]byte, 64<<20)), depot.ErrCorrupt},
		"one byte more":    {compress(append(bytes.Clone(root), 0)), depot.ErrCorrupt},
		"one byte less":    {compress(root[:len(root)-1]), depot.ErrCorrupt},
		"other content":    {compress(flipped), depot.ErrCorrupt},
		"a second frame":   {append(compress(root), compress([]byte("more"))...), depot.ErrCorrupt},
		"not zstd":         {root, errAny},
		"cut short":        {compress(root)[:20], errAny},
		"window too large": {wide.Bytes(), zstd.ErrWindowSizeExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			p := depottest.Publication(t, r, nil)
			if err := os.WriteFile(p.Parts[images.KindRoot], c.blob, 0o600); err != nil {
				t.Fatal(err)
			}
			published, err := depottest.Open(t, "oci:"+filepath.Join(tempDir(t), "layout")).Publish(context.Background(), p)
			if err != nil {
				t.Fatal(err)
			}
			body, part, err := published.Content(context.Background(), images.KindRoot)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, body)
			if err == nil || (c.want != errAny && !errors.Is(err, c.want)) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if n > part.Size {
				t.Errorf("yielded %d bytes of %d", n, part.Size)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestConcurrentPublish has many publishers write one layout at once, as a build beside a running registry does.
func TestConcurrentPublish(t *testing.T) {
	for range 2 { // the collisions are a matter of luck
		concurrentPublish(t)
	}
}

func concurrentPublish(t *testing.T) {
	dir := filepath.Join(tempDir(t), "layout")
	key := releasetest.Key(t)
	depottest.Open(t, "oci:"+dir)
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		p := depottest.Publication(t, imagestest.Release("edge", images.Version(fmt.Sprint(i/4))), key) // each version four times
		wg.Go(func() {
			d, err := depot.Open(context.Background(), "oci:"+dir, depot.Options{Create: true})
			if err == nil {
				_, err = d.Publish(context.Background(), p)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	entries, err := depottest.Open(t, "oci:"+dir).List(context.Background())
	if err != nil || len(entries) != len(errs)/4 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if problems, err := depot.Check(dir, true); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "partial")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// FuzzArchive opens whatever a USB stick may hold and reads all it claims to hold.
func FuzzArchive(f *testing.F) {
	dir := f.TempDir()
	d, err := depot.Open(context.Background(), "oci:"+filepath.Join(dir, "layout"), depot.Options{Create: true})
	if err != nil {
		f.Fatal(err)
	}
	r, err := d.Publish(context.Background(), depottest.Publication(f, imagestest.Release("edge", "1"), nil))
	if err != nil {
		f.Fatal(err)
	}
	if err := depot.Export(context.Background(), filepath.Join(dir, "good"), depot.CopyOptions{}, r); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, "good"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(tarOf(f, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", `{"schemaVersion":2,"manifests":[]}`))
	f.Add(tarOf(f, "../../etc/passwd", "x", "blobs/sha256/../../x", "y", "index.json", "{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := depot.Open(context.Background(), "archive:"+file, depot.Options{})
		if err != nil {
			return
		}
		defer d.Close()
		entries, err := d.List(context.Background())
		if err != nil {
			t.Fatalf("opened but not listed: %v", err)
		}
		for _, e := range entries {
			r, err := d.Get(context.Background(), string(e.Digest))
			if err != nil {
				continue
			}
			for _, kind := range images.Kinds() {
				body, x, err := r.Part(context.Background(), kind)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(body); err == nil && images.DigestOf(got) != x.Digest {
					t.Errorf("part %s: wrong content without an error", kind)
				}
			}
		}
	})
}

// tarOf returns an archive of names and contents in turn.
func tarOf(t testing.TB, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i+1 < len(members); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: members[i], Mode: 0o644, Size: int64(len(members[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, members[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
