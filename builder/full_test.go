package builder_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"roost/builder"
	"roost/builder/archive"
	"roost/images"
	"roost/images/depot"
	"roost/images/release"
)

// fullDisk is a disk that is too small for a piece of work, and grows until it is done.
type fullDisk struct {
	dir         string
	resize      func(size int)
	first, step int
	work        func(ctx context.Context) error
	remedy      []string // one of them is in each error
	between     func()   // looks at what a failed attempt left
	failures    int
}

// fill does the work again and again on a disk that grows by a step each time: it fails with an error that says what is full
// and what to do, and in the end it works.
func (d *fullDisk) fill(t *testing.T) {
	t.Helper()
	for size := d.first; ; size += d.step {
		if size > 256<<20 {
			t.Fatal("it does not work with 256 MB either")
		}
		d.resize(size)
		err := d.work(t.Context())
		if err == nil {
			break
		}
		d.failures++
		helps := false
		for _, remedy := range d.remedy {
			helps = helps || strings.Contains(err.Error(), remedy)
		}
		if !errors.Is(err, unix.ENOSPC) || !helps {
			t.Errorf("on a disk of %d bytes: %v", size, err)
		}
		if n := strings.Count(err.Error(), "no space left on device"); n != 1 {
			t.Errorf("on a disk of %d bytes the cause is named %d times: %v", size, n, err)
		}
		d.between()
	}
	if d.failures < 3 {
		t.Errorf("it failed %d times: the disk was never full in the middle", d.failures)
	}
}

// TestFullDisk builds with a cache on a full disk, publishes to a full disk, makes media on one and verifies with one for
// temporary files. Each is tried again as the disk grows, at dozens of sizes, so that every stage fails once. What comes
// out in the end is what comes out on a large disk, and nothing half made ever bears its final name.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	large := w.shop(t, filepath.Join(w.dir, "cache"))
	if _, err := large.Lock(t.Context(), w.recipe(), false); err != nil {
		t.Fatal(err)
	}
	shelf := filepath.Join(w.dir, "depot")
	want, err := large.Build(t.Context(), w.order(shelf))
	if err != nil {
		t.Fatal(err)
	}

	t.Run("cache", func(t *testing.T) { fullCache(t, w, want) })
	t.Run("depot", func(t *testing.T) { fullDepot(t, w, large, want) })
	d, err := depot.Open(t.Context(), shelf, depot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Get(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("disk", func(t *testing.T) {
		fullMedium(t, w, func(ctx context.Context, path string) error { return builder.WriteDisk(ctx, r, path, 0) })
	})
	t.Run("ISO", func(t *testing.T) {
		fullMedium(t, w, func(ctx context.Context, path string) error { return builder.WriteISO(ctx, r, path) })
	})
	t.Run("verify", func(t *testing.T) { fullTemporary(t, w, r) })
}

func fullCache(t *testing.T, w *world, want *builder.Built) {
	dir, resize := smallDisk(t, 64<<10)
	failed := map[string]bool{} // by what could not be done: stages overlap
	var got *builder.Built
	disk := fullDisk{dir: dir, resize: resize, first: 64 << 10, step: 768 << 10, remedy: []string{"free some"}}
	disk.work = func(ctx context.Context) (err error) {
		if got, err = w.shop(t, dir).Build(ctx, w.order("")); err != nil {
			what, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "cannot "), " ")
			failed[what] = true
		}
		return err
	}
	disk.between = func() {
		cache, err := archive.OpenCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		if damaged, err := cache.Verify(t.Context()); err != nil || len(damaged) > 0 {
			t.Errorf("a failed build left %v in the cache, %v", damaged, err)
		}
		for _, sub := range []string{"trees/tmp", archive.SectionPartial} {
			if left := names(t, filepath.Join(dir, sub)); len(left) > 0 && !strings.HasSuffix(left[0], ".part") {
				t.Errorf("a failed build left %q in %s", left, sub)
			}
		}
	}
	disk.fill(t)
	for _, what := range []string{"fetch", "assemble", "pack"} {
		if !failed[what] {
			t.Errorf("the disk was never full when it had to %s, only when it had to %v", what, failed)
		}
	}
	if got.Release.Root.Digest != want.Release.Root.Digest || got.Release.UKI.Digest != want.Release.UKI.Digest {
		t.Error("what was built in the end is another release")
	}
}

func fullDepot(t *testing.T, w *world, shop *builder.Workshop, want *builder.Built) {
	dir, resize := smallDisk(t, 16<<10)
	shelf := filepath.Join(dir, "depot")
	var got *builder.Built
	disk := fullDisk{dir: dir, resize: resize, first: 16 << 10, step: 192 << 10, remedy: []string{"free some space there, or name another place with --depot, and build again"}}
	disk.work = func(ctx context.Context) (err error) {
		got, err = shop.Build(ctx, w.order(shelf))
		return err
	}
	disk.between = func() {
		d, err := depot.Open(t.Context(), shelf, depot.Options{})
		if err != nil {
			return // not even made
		}
		defer d.Close()
		list, err := d.List(t.Context())
		if err != nil || len(list) > 0 {
			t.Errorf("after a failed publication the depot lists %v, %v", list, err)
		}
		for _, name := range names(t, filepath.Join(shelf, "blobs/sha256")) {
			content, err := os.ReadFile(filepath.Join(shelf, "blobs/sha256", name))
			if err != nil || images.DigestOf(content).Hex() != name {
				t.Errorf("blob %s is not what its name says: %v", name, err)
			}
		}
	}
	disk.fill(t)
	if got.Digest != want.Digest {
		t.Errorf("published %s in the end, want %s", got.Digest, want.Digest)
	}
	if left := names(t, filepath.Join(shelf, "partial")); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

func fullMedium(t *testing.T, w *world, write func(ctx context.Context, path string) error) {
	beside := filepath.Join(t.TempDir(), "beside")
	if err := write(t.Context(), beside); err != nil {
		t.Fatal(err)
	}
	dir, resize := smallDisk(t, 16<<10)
	path := filepath.Join(dir, "medium")
	if err := os.WriteFile(path, []byte("earlier"), 0o644); err != nil {
		t.Fatal(err)
	}
	disk := fullDisk{dir: dir, resize: resize, first: 16 << 10, step: 1 << 20, remedy: []string{"the disk of " + dir + " is full; free some space and run this again"}}
	disk.work = func(ctx context.Context) error { return write(ctx, path) }
	disk.between = func() {
		if content, err := os.ReadFile(path); err != nil || string(content) != "earlier" || len(names(t, dir)) != 1 {
			t.Errorf("a failed run left %q; the file of that name is lost: %v", names(t, dir), err)
		}
	}
	disk.fill(t)
	if sumSparse(t, path) != sumSparse(t, beside) {
		t.Error("the medium differs from one on a large disk")
	}
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("%q is there", left)
	}
}

func fullTemporary(t *testing.T, w *world, r *depot.Release) {
	public, err := w.set.ReleasePublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	var trust release.Policy
	if trust.Keys, err = release.ParseKeys(public); err != nil {
		t.Fatal(err)
	}
	dir, resize := smallDisk(t, 16<<10)
	t.Setenv("TMPDIR", dir)
	disk := fullDisk{dir: dir, resize: resize, first: 16 << 10, step: 1 << 20, remedy: []string{dir + " is full; free some space, or name another directory for temporary files in TMPDIR"}}
	disk.work = func(ctx context.Context) error {
		_, err := builder.Verify(ctx, r, trust, nil)
		return err
	}
	disk.between = func() {
		if left := names(t, dir); len(left) > 0 {
			t.Errorf("%q is left", left)
		}
	}
	disk.fill(t)
}

// names lists a directory; one that is not there is empty.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if list, err = f.Readdirnames(-1); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return list
}
