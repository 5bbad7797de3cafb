package archive

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"roost/builder/deb"
)

// TestRealMirror takes a snapshot of trixie from the mirror that this host uses, fetches packages, and does both again
// without network.
func TestRealMirror(t *testing.T) {
	if os.Getenv("ROOST_TEST_NET") == "" {
		t.Skip("needs a Debian mirror: set ROOST_TEST_NET=1")
	}
	mirror, err := FindMirror("", os.Getenv, os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	source := &Source{Mirror: mirror, Cache: testCache(t)}
	request := Request{
		Suites: []string{"trixie", "trixie-updates", "trixie-security"}, Components: []string{"main", "non-free-firmware"},
		Architecture: "amd64", Keyring: trixieKeys(t),
	}
	cold := timed(t, "cold snapshot", func() (*Snapshot, error) { return source.Snapshot(t.Context(), request) })
	warm := timed(t, "warm snapshot", func() (*Snapshot, error) { return source.Snapshot(t.Context(), request) })
	var items []Item
	for i, suite := range cold.Suites {
		t.Log(suite.Name, suite.Release.Version, suite.Release.Date, len(suite.Packages), suite.Signers)
		if len(suite.Packages) == 0 {
			t.Errorf("%s has no packages", suite.Name)
		}
		if !slices.Equal(suite.Packages, warm.Suites[i].Packages) {
			t.Errorf("%s: the packages differ when they come from the cache", suite.Name)
		}
		for _, p := range suite.Packages {
			if slices.Contains([]string{"bash", "coreutils", "libc6", "systemd", "firmware-realtek", "linux-image-cloud-amd64", "tzdata", "python3.13-minimal"}, p.Name) {
				items = append(items, Item{Suite: p.Suite, Path: p.Filename, Size: p.Size, SHA256: p.SHA256})
			}
		}
	}
	timed(t, "packages", func() (int, error) { return len(items), source.Fetch(t.Context(), items) })

	offline := &Source{Cache: source.Cache, Offline: true, Transport: noNetwork{}}
	if _, err := offline.Snapshot(t.Context(), request); err != nil {
		t.Error(err)
	}
	if err := offline.Fetch(t.Context(), items); err != nil {
		t.Error(err)
	}
	for _, item := range items {
		openBlob(t, source.Cache, item)
	}
}

func timed[T any](t *testing.T, what string, f func() (T, error)) T {
	t.Helper()
	start := time.Now()
	v, err := f()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Logf("%s took %v", what, time.Since(start).Round(time.Millisecond))
	return v
}

// openBlob reads a fetched package to its end, as dpkg-deb does.
func openBlob(t *testing.T, cache *Cache, item Item) {
	t.Helper()
	path, err := cache.Blob(item.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pkg, err := deb.Open(f, item.Size)
	if err != nil {
		t.Fatalf("%s: %v", item.Path, err)
	}
	plain, err := pkg.DataTar()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	ours := sha256.New()
	start := time.Now()
	size, err := io.Copy(ours, plain)
	if err != nil {
		t.Fatalf("%s: %v", item.Path, err)
	}
	t.Logf("%s: %.0f MB/s", item.Path, float64(size)/1e6/time.Since(start).Seconds())
	theirs := sha256.New()
	command := exec.Command("dpkg-deb", "--fsys-tarfile", path)
	command.Stdout = theirs
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours.Sum(nil), theirs.Sum(nil)) {
		t.Errorf("%s: the data differs from what dpkg-deb reads", item.Path)
	}
}
