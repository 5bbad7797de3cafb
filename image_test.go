package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"roost/builder/archive"
	"roost/builder/pack"
	"roost/builder/tree"
	"roost/images"
	"roost/images/depot"
	"roost/images/keys"
)

// smallRelease packs a small tree, signs it and publishes it: all parts of a release, made as real ones are. It returns the
// depot, an OCI layout directory, and the key set.
func smallRelease(t *testing.T) (shelf, set string) {
	t.Helper()
	dir := t.TempDir()
	shelf, set = filepath.Join(dir, "depot"), filepath.Join(dir, "keys")
	cache, err := archive.OpenCache(filepath.Join(dir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	store, err := tree.OpenStore(filepath.Join(dir, "trees"))
	if err != nil {
		t.Fatal(err)
	}
	const kernel, efi = "6.12.1-test", "/usr/lib/systemd/boot/efi/"
	if _, err := os.Stat(efi); err != nil {
		t.Skipf("needs what make host installs: %v", err)
	}
	files := map[string]string{"/usr/lib/os-release": "ID=roost\nIMAGE_ID=roost-small\nIMAGE_VERSION=1.0\n", "/usr/bin/tool": strings.Repeat("tool", 90000)}
	for _, index := range []string{"dep", "alias", "softdep"} {
		files["/usr/lib/modules/"+kernel+"/modules."+index] = "# nothing\n"[:len("# nothing\n")*len(index)/7]
	}
	d := tree.NewDraft()
	for name, content := range files {
		blob, err := store.PutBytes([]byte(content))
		if err == nil {
			err = d.Put(tree.Entry{Path: name, Type: tree.File, Mode: 0o644, Blob: blob, Size: int64(len(content))})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	made, err := d.Tree()
	if err != nil {
		t.Fatal(err)
	}
	image, err := store.PutBytes(bytes.Repeat([]byte("kernel"), 9000))
	if err := errors.Join(err, keys.Init(set, "Test"), os.WriteFile(filepath.Join(dir, "init"), []byte("#!init\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	pair, err := keys.Open(set)
	if err != nil {
		t.Fatal(err)
	}
	signer, cert := pair.SecureBootDB()
	a, err := pack.Image(t.Context(), pack.Input{
		Name: "small", Version: "1.0", Architecture: "amd64", Created: time.Unix(1_790_000_000, 0), Lock: images.DigestOf(nil), Tree: made, Store: store,
		Kernel: pack.Kernel{Version: kernel, Image: image}, Init: filepath.Join(dir, "init"), Stub: efi + "linuxx64.efi.stub", Loader: efi + "systemd-bootx64.efi",
		Slot: 64 << 20, Verity: 4 << 20, State: 128 << 20, Memory: 1 << 30, Update: images.Update{Tries: 2, GateSeconds: 300}, Signer: signer, Cert: cert, Cache: cache,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := depot.Publication{Document: a.Release, Parts: map[images.Kind]string{}, Papers: map[string][]byte{}, Signer: pair.Release()}
	for kind, f := range a.Blobs() {
		p.Parts[kind] = f.Path
	}
	contents := `{"schema":1,"components":[{"name":"debian","packages":1,"size":1000}]}`
	if p.Papers[images.MediaTypeSBOM], err = os.ReadFile(a.SBOM.Path); err != nil {
		t.Fatal(err)
	}
	p.Papers[images.MediaTypeContents] = []byte(contents)
	place, err := depot.Open(t.Context(), shelf, depot.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	if _, err := place.Publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return shelf, set
}

// TestDamagedRelease flips a bit of each file of a depot, cuts it in half, empties it, takes it away, and lets each verb of
// roost image at what is left. A verb that needs the file says what is wrong and what to do, and makes nothing; a verb that
// does not need it makes the same as of the sound release.
func TestDamagedRelease(t *testing.T) {
	shelf, set := smallRelease(t)
	out, err := os.MkdirTemp("/dev/shm", "roost-test-") // what is made is on the disk before it has its name: a hundred times
	if err != nil {
		out = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(out) })
	verbs := map[string][]string{
		"inspect": {"image", "inspect", shelf}, "verify": {"image", "verify", shelf, "--key", filepath.Join(set, "release.pub"), "--cert", filepath.Join(set, "db.crt")},
		"disk": {"image", "disk", shelf, filepath.Join(out, "made")}, "iso": {"image", "iso", shelf, filepath.Join(out, "made")},
	}
	// attempt runs a verb and returns what it said, or printed and made.
	attempt := func(verb string) (status int, result string) {
		if err := errors.Join(os.RemoveAll(out), os.Mkdir(out, 0o755)); err != nil {
			t.Fatal(err)
		}
		var printed bytes.Buffer
		status = run(context.WithoutCancel(t.Context()), verbs[verb], strings.NewReader(""), &printed, &printed)
		made, err := os.ReadDir(out)
		if err != nil || status != 0 && len(made) > 0 {
			t.Errorf("a failed %s left %v, %v", verb, made, err)
		}
		if len(made) > 0 {
			result = fileSum(t, filepath.Join(out, made[0].Name()))
		}
		return status, result + printed.String()
	}
	sound := map[string]string{}
	for verb := range verbs {
		status, result := attempt(verb)
		if status != 0 {
			t.Fatalf("%s of the sound release: %s", verb, result)
		}
		sound[verb] = result
	}
	files, needed := neededBy(t, shelf)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(content)
		flipped[len(flipped)/2] ^= 4
		for damage, left := range map[string][]byte{"a flipped bit": flipped, "half of it": content[:len(content)/2], "nothing in it": {}, "no such file": nil} {
			err := os.WriteFile(file, left, 0o644)
			if left == nil {
				err = os.Remove(file)
			}
			if err != nil {
				t.Fatal(err)
			}
			for verb := range verbs {
				want, known := needed[filepath.Base(file)]
				status, result := attempt(verb)
				switch {
				case status == 0 && result != sound[verb] && (verb != "inspect" || filepath.Base(file) != "index.json"): // may list no papers
					t.Errorf("%s: %s: %s of it goes wrong in silence: %s", file, damage, verb, result)
				case status == 0 && known && strings.Contains(want, verb):
					t.Errorf("%s: %s: %s does not notice", file, damage, verb)
				case status != 0 && known && !strings.Contains(want, verb):
					t.Errorf("%s: %s: %s does not need it, and says %s", file, damage, verb, result)
				case status != 0 && known && (!strings.Contains(result, "the depot is damaged; build the release again into an empty one, or take another copy") || strings.Count(result, "\n") != 1):
					t.Errorf("%s: %s: %s says %q", file, damage, verb, result)
				}
			}
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// neededBy lists the files of a depot that holds one release, and says of each blob which verbs cannot do without it.
func neededBy(t *testing.T, shelf string) (files []string, needed map[string]string) {
	t.Helper()
	d, err := depot.Open(t.Context(), shelf, depot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Get(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	papers, err := r.Papers(t.Context())
	if err != nil || len(papers) != 2 {
		t.Fatalf("%d papers, %v", len(papers), err)
	}
	needed = map[string]string{r.Manifest.Digest.Hex(): "inspect verify disk iso", r.Manifest.Config.Digest.Hex(): "inspect verify disk iso"}
	for _, kind := range images.Kinds() {
		needed[r.Manifest.Parts[kind].Digest.Hex()] = "verify disk iso"
	}
	for _, s := range r.Bundle.Signatures {
		needed[images.DigestOf(s.Payload).Hex()] = "inspect verify disk iso"
	}
	for _, paper := range papers {
		needed[images.DigestOf(paper).Hex()] = "inspect verify"
	}
	for _, pattern := range []string{"oci-layout", "index.json", "blobs/sha256/*"} {
		found, err := filepath.Glob(filepath.Join(shelf, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("the depot has no %s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	if len(needed) != 9 || len(files) < 2+len(needed) {
		t.Fatalf("%d blobs are known of %d files", len(needed), len(files))
	}
	return files, needed
}

// fileSum is a digest of what a file holds, holes skipped.
func fileSum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, block := sha256.New(), make([]byte, 1<<20)
	for at := int64(0); ; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return fmt.Sprintf("%x %d ", h.Sum(nil), at)
		}
		if err != nil {
			t.Fatal(err)
		}
		n, err := f.ReadAt(block, data)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		fmt.Fprintln(h, data)
		h.Write(block[:n])
		at = data + int64(n)
	}
}
