package archive

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"roost/images"
)

func TestDefaultDir(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"ROOST_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"},
		{map[string]string{"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/roost"},
		{map[string]string{"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/roost"},
		{map[string]string{}, ""},
	} {
		got, err := DefaultDir(func(name string) string { return c.env[name] })
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%v: %q, %v, want %q", c.env, got, err, c.want)
		}
	}
}

// put stores a blob and sets its last use.
func put(t *testing.T, cache *Cache, content string, used time.Time) images.Digest {
	t.Helper()
	d := images.DigestOf([]byte(content))
	if err := cache.AddBlob(d, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	path, err := cache.Blob(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, used, used); err != nil {
		t.Fatal(err)
	}
	return d
}

// listing names the files of the cache below its directory.
func listing(t *testing.T, cache *Cache) []string {
	t.Helper()
	files, err := cache.files()
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, f := range files {
		names = append(names, f.section+"/"+filepath.Base(f.path))
	}
	return names
}

func TestCacheBlobs(t *testing.T) {
	cache := testCache(t)
	d := put(t, cache, "hello", time.Now().Add(-48*time.Hour))
	path, err := cache.Blob(d)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if info, _ := os.Stat(path); time.Since(info.ModTime()) > time.Minute {
		t.Errorf("the use was not recorded: %v", info.ModTime())
	}
	other := images.DigestOf([]byte("other"))
	if _, err := cache.Blob(other); !isMissing(err) {
		t.Errorf("a missing blob gives %v", err)
	}
	var wrong *DigestError
	if err := cache.AddBlob(other, strings.NewReader("not that")); !errors.As(err, &wrong) || wrong.Want != other {
		t.Errorf("a wrong blob gives %v", err)
	}
	for _, bad := range []images.Digest{"", "sha256:../../etc/passwd", "md5:00"} {
		if _, err := cache.Blob(bad); err == nil {
			t.Errorf("digest %q was looked up", bad)
		}
	}
	if got, want := listing(t, cache), []string{"blobs/" + d.Hex()}; !reflect.DeepEqual(got, want) {
		t.Errorf("cache holds %q, want %q", got, want)
	}
}

func TestCacheEntries(t *testing.T) {
	cache := testCache(t)
	write := func(text string, fail error) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return errors.Join(err, fail)
		}
	}
	if err := cache.PutEntry("layers", "k", write("one", nil)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := cache.PutEntry("layers", "k", write("half", broken)); !errors.Is(err, broken) {
		t.Errorf("a failed write gives %v", err)
	}
	path, err := cache.Entry("layers", "k")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "one" {
		t.Errorf("after a failed write the entry is %q", got)
	}
	for _, key := range []string{"", ".", "..", "../x", "a/b", ".hidden", "-x", "é", strings.Repeat("x", 201)} {
		if err := cache.PutEntry("layers", key, write("", nil)); err == nil {
			t.Errorf("key %q was accepted", key)
		}
		if err := cache.PutEntry(key, "k", write("", nil)); err == nil {
			t.Errorf("section %q was accepted", key)
		}
	}
	if got, want := listing(t, cache), []string{"layers/k"}; !reflect.DeepEqual(got, want) {
		t.Errorf("cache holds %q, want %q", got, want)
	}
}

func TestCachePrune(t *testing.T) {
	now := time.Date(2026, 9, 12, 8, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for _, c := range []struct {
		name  string
		prune Prune
		want  string // names of what stays: a (10 days old), b (5), c (1), and the part files new and old
	}{
		{"nothing", Prune{}, "a b c new"},
		{"age", Prune{UnusedFor: 3 * day}, "c new"},
		{"size", Prune{MaxBytes: 3 * 4096}, "b c new"},
		{"size and age", Prune{UnusedFor: 6 * day, MaxBytes: 2 * 4096}, "c new"},
		{"everything", Prune{MaxBytes: -1}, ""},
		{"one section", Prune{MaxBytes: -1, Section: SectionPartial}, "a b c"},
		{"dry run", Prune{MaxBytes: -1, DryRun: true}, "a b c new old"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := testCache(t)
			names := map[string]string{}
			for name, age := range map[string]time.Duration{"a": 10 * day, "b": 5 * day, "c": day} {
				names["blobs/"+put(t, cache, strings.Repeat(name, 4000), now.Add(-age)).Hex()] = name
			}
			for name, age := range map[string]time.Duration{"new": 0, "old": 2 * day} {
				path := filepath.Join(cache.dir, SectionPartial, name)
				if err := errors.Join(os.WriteFile(path, make([]byte, 4000), 0o644), os.Chtimes(path, now.Add(-age), now.Add(-age))); err != nil {
					t.Fatal(err)
				}
				names["partial/"+name] = name
			}
			before, err := cache.Usage()
			if err != nil || len(before) != 2 || before[0].Files != 3 || !before[0].Oldest.Equal(now.Add(-10*day)) || !before[0].Newest.Equal(now.Add(-day)) {
				t.Fatalf("usage before: %+v, %v", before, err)
			}
			removed, err := cache.Prune(c.prune, now)
			if err != nil {
				t.Fatal(err)
			}
			var stay []string
			for _, file := range listing(t, cache) {
				stay = append(stay, names[file])
			}
			count := 0
			for _, u := range removed {
				count += u.Files
			}
			if c.prune.DryRun {
				count = 0
			}
			if got := sorted(stay); got != c.want || count+len(stay) != 5 {
				t.Errorf("%q stay, want %q; removed %+v", got, c.want, removed)
			}
		})
	}
}

func sorted(names []string) string {
	order := map[string]int{"a": 0, "b": 1, "c": 2, "new": 3, "old": 4}
	all := make([]string, 5)
	for _, name := range names {
		all[order[name]] = name
	}
	return strings.Join(strings.Fields(strings.Join(all, " ")), " ")
}

func TestCachePruneRefusesWhileInUse(t *testing.T) {
	cache := testCache(t)
	d := put(t, cache, "hello", time.Now())
	second, err := OpenCache(cache.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Prune(Prune{MaxBytes: -1}, time.Now()); err == nil || !strings.Contains(err.Error(), "another process is using it") {
		t.Errorf("pruning a cache in use gives %v", err)
	}
	if _, err := cache.Prune(Prune{MaxBytes: -1}, time.Now()); err == nil {
		t.Error("being refused once cost the second cache its own protection")
	}
	if _, err := cache.Blob(d); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Prune(Prune{MaxBytes: -1}, time.Now()); err != nil {
		t.Error(err)
	}
	if names := listing(t, cache); len(names) != 0 {
		t.Errorf("%q stay", names)
	}
	third, err := OpenCache(cache.Dir())
	if err != nil {
		t.Fatalf("the lock was not given back: %v", err)
	}
	third.Close()
}

func TestCacheVerify(t *testing.T) {
	cache := testCache(t)
	good, bad := put(t, cache, "good", time.Now()), put(t, cache, "bad", time.Now())
	if damaged, err := cache.Verify(t.Context()); len(damaged) != 0 || err != nil {
		t.Errorf("a sound cache: %v, %v", damaged, err)
	}
	path, err := cache.Blob(bad)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("bed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if damaged, err := cache.Verify(t.Context()); !reflect.DeepEqual(damaged, []images.Digest{bad}) || err != nil {
		t.Errorf("damaged %v, %v", damaged, err)
	}
	if got, want := listing(t, cache), []string{"blobs/" + good.Hex()}; !reflect.DeepEqual(got, want) {
		t.Errorf("cache holds %q, want %q", got, want)
	}
}
