package depot_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release"
	"roost/images/release/releasetest"
)

// allowAll is the Allow of a registry that takes every push.
func allowAll(*http.Request, bool, string) error { return nil }

// tempDir is t.TempDir in memory where there is such a place: these tests sync thousands of times.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "depot-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newRegistry serves a new directory and returns its host and the directory.
func newRegistry(t *testing.T) (host, dir string) {
	t.Helper()
	dir = filepath.Join(tempDir(t), "registry")
	g, err := depot.NewRegistry(dir, depot.RegistryConfig{Allow: allowAll})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), dir
}

// TestContract runs one suite on every kind of depot that can be written.
func TestContract(t *testing.T) {
	kinds := map[string]func(t *testing.T) string{
		"layout": func(t *testing.T) string { return "oci:" + filepath.Join(tempDir(t), "layout") },
		"registry": func(t *testing.T) string {
			host, _ := newRegistry(t)
			return "docker://" + host
		},
	}
	for kind, ref := range kinds {
		t.Run(kind, func(t *testing.T) {
			for name, test := range contract {
				t.Run(name, func(t *testing.T) { test(t, ref(t)) })
			}
		})
	}
}

var contract = map[string]func(t *testing.T, ref string){
	"publish, list, get, verify": func(t *testing.T, ref string) {
		key := releasetest.Key(t)
		for _, version := range []images.Version{"1.10", "1.9", "1.10~rc1"} {
			depottest.Publish(t, ref, imagestest.Release("edge", version), key)
		}
		d := depottest.Open(t, ref)
		entries, err := d.List(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var versions []string
		for _, e := range entries {
			versions = append(versions, string(e.Version))
			if e.Err != nil || e.Name != "edge" || e.Architecture != "amd64" || e.Created.Year() != 2026 {
				t.Errorf("entry %+v", e)
			}
		}
		if got := strings.Join(versions, " "); got != "1.9 1.10~rc1 1.10" {
			t.Errorf("listed %s", got)
		}
		for _, reference := range []string{"edge:1.10", "1.10", "", string(entries[2].Digest)} {
			r, err := d.Get(context.Background(), reference)
			if err != nil {
				t.Errorf("get %q: %v", reference, err)
				continue
			}
			v, err := release.Verify(r.Bundle, release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Name: "edge"})
			if err != nil || v.Release.Version != "1.10" {
				t.Errorf("verify %q: %v", reference, err)
			}
			checkParts(t, r)
			if where := r.Reference(); where.Kind == depot.KindRegistry {
				again, err := depottest.Open(t, where.String()).Get(context.Background(), "")
				if err != nil || again.Manifest.Digest != r.Manifest.Digest {
					t.Errorf("get %s: %v", where, err)
				}
			}
		}
	},
	"what is not there": func(t *testing.T, ref string) {
		depottest.Publish(t, ref, imagestest.Release("edge", "1"), nil)
		d := depottest.Open(t, ref)
		for _, reference := range []string{"2", "core:1", "edge:2", string(images.DigestOf([]byte("x")))} {
			if _, err := d.Get(context.Background(), reference); !errors.Is(err, depot.ErrNotFound) {
				t.Errorf("get %q: got %v, want ErrNotFound", reference, err)
			}
		}
	},
	"several names": func(t *testing.T, ref string) {
		depottest.Publish(t, ref, imagestest.Release("edge", "1"), nil)
		depottest.Publish(t, ref, imagestest.Release("core", "1"), nil)
		d := depottest.Open(t, ref)
		if _, err := d.Get(context.Background(), ""); err == nil || !strings.Contains(err.Error(), "several names") {
			t.Errorf("got %v", err)
		}
		if r, err := d.Get(context.Background(), "core:1"); err != nil || r.Document.Name != "core" {
			t.Errorf("get core:1: %v", err)
		}
	},
	"publish twice": func(t *testing.T, ref string) {
		key := releasetest.Key(t)
		first := depottest.Publish(t, ref, imagestest.Release("edge", "1"), key)
		second := depottest.Publish(t, ref, imagestest.Release("edge", "1"), key)
		if first.Manifest.Digest != second.Manifest.Digest || len(second.Bundle.Signatures) != 1 {
			t.Errorf("%s with %d signatures after %s", second.Manifest.Digest, len(second.Bundle.Signatures), first.Manifest.Digest)
		}
		third := depottest.Publish(t, ref, imagestest.Release("edge", "1"), releasetest.Key(t))
		if len(third.Bundle.Signatures) != 2 {
			t.Errorf("%d signatures after another key signed, want 2", len(third.Bundle.Signatures))
		}
		if papers, err := third.Papers(context.Background()); err != nil || len(papers) != 2 {
			t.Errorf("papers: %v, %v", papers, err)
		}
		if entries, err := depottest.Open(t, ref).List(context.Background()); err != nil || len(entries) != 1 {
			t.Errorf("entries: %v, %v", entries, err)
		}
	},
	"papers": func(t *testing.T, ref string) {
		r := depottest.Publish(t, ref, imagestest.Release("edge", "1"), nil)
		papers, err := r.Papers(context.Background())
		if err != nil || string(papers[images.MediaTypeSBOM]) != depottest.SBOM || string(papers[images.MediaTypeInToto]) != depottest.Provenance {
			t.Errorf("got %q, %v", papers, err)
		}
	},
	"unsigned": func(t *testing.T, ref string) {
		depottest.Publish(t, ref, imagestest.Release("edge", "1"), nil)
		r, err := depottest.Open(t, ref).Get(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := release.Verify(r.Bundle, release.Policy{Keys: []*ecdsa.PublicKey{&releasetest.Key(t).PublicKey}}); !errors.Is(err, release.ErrUnsigned) {
			t.Errorf("got %v, want ErrUnsigned", err)
		}
	},
	"tag moves": func(t *testing.T, ref string) {
		old := depottest.Publish(t, ref, imagestest.Release("edge", "1"), nil)
		rebuilt := imagestest.Release("edge", "1")
		rebuilt.Kernel = "6.12.1-test"
		depottest.Publish(t, ref, rebuilt, nil)
		d := depottest.Open(t, ref)
		if r, err := d.Get(context.Background(), "1"); err != nil || r.Document.Kernel != "6.12.1-test" {
			t.Errorf("the tag names %+v, %v", r, err)
		}
		if _, err := depot.Copy(context.Background(), old, d, depot.CopyOptions{}); !errors.Is(err, depot.ErrExists) {
			t.Errorf("copy under a version that is taken: %v, want ErrExists", err)
		}
		if r, err := d.Get(context.Background(), "1"); err != nil || r.Document.Kernel != "6.12.1-test" {
			t.Errorf("after the refusal the tag names %+v, %v", r, err)
		}
		if r, err := d.Get(context.Background(), "edge:"+string(old.Manifest.Digest)); err != nil || r.Document.Kernel != "6.12.0-test" {
			t.Errorf("the older release is gone: %v", err)
		}
		if r, err := depot.Copy(context.Background(), old, d, depot.CopyOptions{Replace: true}); err != nil || r.Manifest.Digest != old.Manifest.Digest {
			t.Errorf("copy with Replace: %v", err)
		}
		if r, err := d.Get(context.Background(), "1"); err != nil || r.Manifest.Digest != old.Manifest.Digest {
			t.Errorf("after the replacement: %v", err)
		}
	},
	"remove": func(t *testing.T, ref string) {
		key := releasetest.Key(t)
		first := depottest.Publish(t, ref, imagestest.Release("edge", "1"), key)
		depottest.Publish(t, ref, imagestest.Release("edge", "2"), key)
		d := depottest.Open(t, ref)
		for range 2 { // the second time there is nothing left to do
			if err := d.Remove(context.Background(), first); err != nil {
				t.Fatal(err)
			}
		}
		for _, reference := range []string{"edge:1", string(first.Manifest.Digest)} {
			if _, err := d.Get(context.Background(), reference); !errors.Is(err, depot.ErrNotFound) {
				t.Errorf("get %s after removal: %v", reference, err)
			}
		}
		left, err := d.Get(context.Background(), "")
		if err != nil || left.Document.Version != "2" || len(left.Bundle.Signatures) != 1 {
			t.Errorf("left: %+v, %v", left, err)
		}
	},
	"copy and export": func(t *testing.T, ref string) {
		key := releasetest.Key(t)
		r := depottest.Publish(t, ref, imagestest.Release("edge", "1"), key)
		file := filepath.Join(tempDir(t), "edge.roost")
		if err := depot.Export(context.Background(), file, depot.CopyOptions{}, r); err != nil {
			t.Fatal(err)
		}
		archived, err := depottest.Open(t, "archive:"+file).Get(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		checkParts(t, archived)
		host, _ := newRegistry(t)
		for _, to := range []string{"oci:" + filepath.Join(tempDir(t), "copy"), "docker://" + host + "/site/edge"} {
			last := depot.Progress{}
			copied, err := depot.Copy(context.Background(), archived, depottest.Open(t, to), depot.CopyOptions{Progress: func(p depot.Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if last.Done != last.Total || last.Total == 0 {
				t.Errorf("progress ended at %+v", last)
			}
			again, err := depottest.Open(t, to).Get(context.Background(), "1")
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []*depot.Release{copied, again} {
				if _, err := release.Verify(c.Bundle, release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Name: "edge"}); err != nil || c.Manifest.Digest != r.Manifest.Digest {
					t.Errorf("copy in %s: %v", to, err)
				}
				checkParts(t, c)
				if papers, err := c.Papers(context.Background()); err != nil || len(papers) != 2 {
					t.Errorf("papers in %s: %v, %v", to, papers, err)
				}
			}
		}
	},
}

// checkParts reads every part as transported and as used.
func checkParts(t *testing.T, r *depot.Release) {
	t.Helper()
	for _, kind := range images.Kinds() {
		body, x, err := r.Part(context.Background(), kind)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, body); images.DigestOf(got) != x.Digest {
			t.Errorf("part %s has digest %s, want %s", kind, images.DigestOf(got), x.Digest)
		}
		content, part, err := r.Content(context.Background(), kind)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, content); !bytes.Equal(got, imagestest.Content(r.Document, kind)) || int64(len(got)) != part.Size {
			t.Errorf("content of %s: %d bytes, want %d", kind, len(got), part.Size)
		}
	}
	if _, _, err := r.Part(context.Background(), "other"); !errors.Is(err, depot.ErrNotFound) {
		t.Errorf("unknown part: %v", err)
	}
}

func readAll(t *testing.T, r io.ReadCloser) []byte {
	t.Helper()
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestExportIsReproducible(t *testing.T) {
	key := releasetest.Key(t)
	dir := tempDir(t)
	r := depottest.Publish(t, "oci:"+filepath.Join(dir, "layout"), imagestest.Release("edge", "1"), key)
	var files [2][]byte
	for i, name := range []string{"a", "b"} {
		file := filepath.Join(dir, name)
		if err := depot.Export(context.Background(), file, depot.CopyOptions{}, r); err != nil {
			t.Fatal(err)
		}
		files[i] = mustRead(t, file)
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("two exports differ")
	}
	if names, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(names) > 0 {
		t.Errorf("leftovers: %v, %v", names, err)
	}
}

func mustRead(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestTruncatedArchive cuts an archive at every 512 bytes: it is refused when opened, or when the missing part is read.
func TestTruncatedArchive(t *testing.T) {
	dir := tempDir(t)
	r := depottest.Publish(t, "oci:"+filepath.Join(dir, "layout"), imagestest.Release("edge", "1"), releasetest.Key(t))
	whole := filepath.Join(dir, "whole")
	if err := depot.Export(context.Background(), whole, depot.CopyOptions{}, r); err != nil {
		t.Fatal(err)
	}
	data := mustRead(t, whole)
	cut := filepath.Join(dir, "cut")
	for n := 0; n < len(bytes.TrimRight(data, "\x00")); n += 512 {
		if err := os.WriteFile(cut, data[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if d, err := depot.Open(context.Background(), "archive:"+cut, depot.Options{}); err == nil {
			_ = d.Close()
			t.Errorf("archive of %d of %d bytes was opened", n, len(data))
		}
	}
}

// TestDamagedArchive flips one byte in each part of an archive.
func TestDamagedArchive(t *testing.T) {
	dir := tempDir(t)
	r := depottest.Publish(t, "oci:"+filepath.Join(dir, "layout"), imagestest.Release("edge", "1"), releasetest.Key(t))
	file := filepath.Join(dir, "file")
	if err := depot.Export(context.Background(), file, depot.CopyOptions{}, r); err != nil {
		t.Fatal(err)
	}
	good := mustRead(t, file)
	for _, kind := range images.Kinds() {
		bad := bytes.Clone(good)
		i := bytes.Index(bad, releasetest.Blob(t, r.Document, kind))
		if i < 0 {
			t.Fatalf("part %s is not in the archive as it is", kind)
		}
		bad[i+7] ^= 0x10
		if err := os.WriteFile(file, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		damaged, err := depottest.Open(t, "archive:"+file).Get(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		body, _, err := damaged.Part(context.Background(), kind)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(body); !errors.Is(err, depot.ErrCorrupt) {
			t.Errorf("part %s: got %v, want ErrCorrupt", kind, err)
		}
		to := depottest.Open(t, "oci:"+filepath.Join(tempDir(t), "copy"))
		if _, err := depot.Copy(context.Background(), damaged, to, depot.CopyOptions{}); !errors.Is(err, depot.ErrCorrupt) {
			t.Errorf("copy with damaged %s: got %v, want ErrCorrupt", kind, err)
		}
		if entries, err := to.List(context.Background()); err != nil || len(entries) != 0 {
			t.Errorf("a damaged release was listed: %v, %v", entries, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := tempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "something"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"oci:" + dir:                      "neither empty nor an OCI layout",
		"archive:" + dir + "/something":   "no archive of an OCI layout",
		"archive:" + dir + "/missing":     "no such file",
		"edge":                            "want oci:DIR",
		"docker://127.0.0.1:1/Upper/case": "no repository name",
	} {
		if _, err := depot.Open(context.Background(), ref, depot.Options{Create: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("open %s: got %v, want %q", ref, err, want)
		}
	}
	if _, err := depot.Open(context.Background(), "oci:"+filepath.Join(dir, "new"), depot.Options{}); err == nil || !strings.Contains(err.Error(), "no OCI layout directory") {
		t.Errorf("missing layout without Create: %v", err)
	}
	archive := filepath.Join(dir, "archive")
	r := depottest.Publish(t, "oci:"+filepath.Join(tempDir(t), "layout"), imagestest.Release("edge", "1"), nil)
	if err := depot.Export(context.Background(), archive, depot.CopyOptions{}, r); err != nil {
		t.Fatal(err)
	}
	if _, err := depottest.Open(t, archive).Publish(context.Background(), depottest.Publication(t, imagestest.Release("edge", "2"), nil)); err == nil || !errors.Is(err, depot.ErrReadOnly) {
		t.Errorf("publish to an archive: %v", err)
	}
}

func TestCheck(t *testing.T) {
	dir := filepath.Join(tempDir(t), "layout")
	r := depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "1"), releasetest.Key(t))
	for _, deep := range []bool{false, true} {
		if problems, err := depot.Check(dir, deep); err != nil || len(problems) > 0 {
			t.Fatalf("whole layout: %v, %v", problems, err)
		}
	}
	blob := filepath.Join(dir, "blobs/sha256", r.Manifest.Parts[images.KindRoot].Digest.Hex())
	data := mustRead(t, blob)
	data[3] ^= 1
	if err := os.WriteFile(blob, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if problems, err := depot.Check(dir, false); err != nil || len(problems) > 0 {
		t.Errorf("a flipped bit is for the deep check only: %v, %v", problems, err)
	}
	if problems, err := depot.Check(dir, true); err != nil || len(problems) != 1 || !errors.Is(problems[0].Err, depot.ErrCorrupt) || problems[0].Tag != "edge:1" {
		t.Errorf("flipped bit: %v, %v", problems, err)
	}
	if err := os.Truncate(blob, 1); err != nil {
		t.Fatal(err)
	}
	if problems, err := depot.Check(dir, false); err != nil || len(problems) != 1 {
		t.Errorf("short blob: %v, %v", problems, err)
	}
}

func TestPrune(t *testing.T) {
	dir := filepath.Join(tempDir(t), "layout")
	key := releasetest.Key(t)
	first := depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "1"), key)
	second := depottest.Publish(t, "oci:"+dir, imagestest.Release("edge", "2"), key)
	blobs := func() int {
		entries, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	all := blobs()
	if freed, err := depot.Prune(dir, 0); err != nil || freed != 0 || blobs() != all {
		t.Errorf("all is named: freed %d, %v", freed, err)
	}
	if err := depottest.Open(t, "oci:"+dir).Remove(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	if freed, err := depot.Prune(dir, time.Hour); err != nil || freed != 0 {
		t.Errorf("all is young: freed %d, %v", freed, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "partial", strings.Repeat("0", 64)), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if freed, err := depot.Prune(dir, 0); err != nil || freed < 20000 || blobs() >= all {
		t.Errorf("freed %d, %d of %d blobs left, %v", freed, blobs(), all, err)
	}
	checkParts(t, second)
	if problems, err := depot.Check(dir, true); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
	manifest := filepath.Join(dir, "blobs/sha256", second.Manifest.Digest.Hex())
	if err := os.WriteFile(manifest, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := blobs()
	if _, err := depot.Prune(dir, 0); !errors.Is(err, depot.ErrCorrupt) || blobs() != before {
		t.Errorf("pruned a damaged layout: %v", err)
	}
}
