package builder_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/builder/deb/debtest"
)

const inRelease, packagesIndex = "dists/trixie/InRelease", "dists/trixie/main/binary-amd64/Packages.xz"

// flip changes one bit of what the mirror serves under the names that contain part.
func (w *world) flip(t *testing.T, part string) {
	t.Helper()
	found := false
	for name, content := range w.files {
		if strings.Contains(name, part) {
			content = bytes.Clone(content)
			content[len(content)/2] ^= 1
			w.files[name], found = content, true
		}
	}
	if !found {
		t.Fatalf("the mirror has no %s", part)
	}
}

// TestHostileMirror locks and builds from a mirror that serves what nobody signed. Each is refused with what to do, leaves
// no lock and no release behind, and the honest mirror is believed at once after it.
func TestHostileMirror(t *testing.T) {
	w := newWorld(t)
	honest, honestKey := maps.Clone(w.files), w.key
	for _, c := range []struct {
		name   string
		change func()
		want   string
	}{
		{"InRelease changed", func() {
			w.files[inRelease] = bytes.Replace(w.files[inRelease], []byte("Origin: Test"), []byte("Origin: Best"), 1)
		}, "cannot take snapshot of trixie: cannot verify InRelease: signature by key"},
		{"InRelease of another key", func() {
			w.suite.Keys = []*debtest.Key{debtest.NewKey(t, "evil", time.Now().AddDate(-1, 0, 0), 0)}
			w.files = w.suite.Files(t)
		}, "is not in the keyring; nothing of it is used: try another mirror with --mirror, or a newer roost where the archive's keys have changed"},
		{"archive key expired", func() {
			w.key = debtest.NewKey(t, "archive", time.Now().AddDate(-1, 0, 0), 30*24*time.Hour)
			w.suite.Keys, w.suite.Date = []*debtest.Key{w.key}, time.Now().AddDate(-1, 0, 2)
			w.files = w.suite.Files(t)
		}, "(archive <archive@example.org>) expired on "},
		{"index changed", func() { w.flip(t, packagesIndex) }, "cannot fetch Packages.xz: " + w.mirror.URL},
		{".deb changed", func() { w.flip(t, "tools_1_amd64.deb") }, "another mirror may have the right file (--mirror)"},
		{".deb cut short", func() {
			for name := range w.files {
				if strings.Contains(name, "tools_1_amd64.deb") {
					w.files[name] = w.files[name][:100]
				}
			}
		}, "the file has 100 bytes, want "},
		{".deb gone", func() {
			for name := range w.files {
				if strings.Contains(name, "tools_1_amd64.deb") {
					delete(w.files, name)
				}
			}
		}, "the mirror no longer has this version, roost lock --update picks newer ones"},
	} {
		t.Run(c.name, func(t *testing.T) {
			suite := w.suite
			c.change()
			cache, shelf, lock := t.TempDir(), filepath.Join(t.TempDir(), "depot"), strings.TrimSuffix(w.recipe(), ".yaml")+".lock"
			if err := os.RemoveAll(lock); err != nil {
				t.Fatal(err)
			}
			shop := w.shop(t, cache)
			_, err := shop.Lock(t.Context(), w.recipe(), false)
			if strings.HasPrefix(c.name, ".deb") {
				if err != nil {
					t.Fatal(err)
				}
				_, err = shop.Build(t.Context(), w.order(shelf))
			} else if _, missing := os.Stat(lock); missing == nil {
				t.Error("a lock was written")
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if left := names(t, shelf); len(left) > 0 {
				t.Errorf("the depot holds %q", left)
			}

			w.files, w.key, w.suite = maps.Clone(honest), honestKey, suite
			shop = w.shop(t, cache)
			if _, err := shop.Lock(t.Context(), w.recipe(), false); err != nil {
				t.Fatalf("with an honest mirror: %v", err)
			}
			if _, err := shop.Build(t.Context(), w.order(shelf)); err != nil {
				t.Fatalf("with an honest mirror: %v", err)
			}
		})
	}
}

// TestMissingPackages: a recipe that names what no suite has is refused with the place of the word and a better one.
func TestMissingPackages(t *testing.T) {
	w := newWorld(t)
	shop := w.shop(t, filepath.Join(w.dir, "cache"))
	text := strings.Replace(worldRecipe, "packages: [base-files, tools, systemd-boot-efi]", "packages:\n- base-files\n- tols\n- tools=2\n- nothing-like-it", 1)
	if err := os.WriteFile(w.recipe(), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := shop.Lock(t.Context(), w.recipe(), false)
	if err == nil {
		t.Fatal("a lock was made")
	}
	for _, want := range []string{
		`small.yaml:7:3: no suite has a package tols: did you mean "tools"?`, "small.yaml:8:3: there is no such version of tools: the suites have 1 (trixie)",
		"small.yaml:9:3: no suite has a package nothing-like-it: check its name, or add the suite or component that has it to base.suites",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
