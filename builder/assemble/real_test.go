package assemble

import (
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"roost/builder/archive"
	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/builder/tree"
)

// realConfig is the shipped recipe edge with its packages fetched from a mirror.
func realConfig(t *testing.T) Config {
	t.Helper()
	if os.Getenv("ROOST_TEST_NET") == "" {
		t.Skip("needs a Debian mirror: set ROOST_TEST_NET=1")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces; CI has it")
	}
	shipped := os.DirFS("../../recipes")
	r, err := recipe.Loader{Shipped: shipped}.Load("../../recipes/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../recipes/edge.lock")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile("../../recipes/ids.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIDs(text)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := archive.DefaultDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := archive.OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	mirror, err := archive.FindMirror("", os.Getenv, os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	var items []archive.Item
	for p := range l.Packages() {
		items = append(items, archive.Item{Suite: p.Suite, Path: p.File, Size: p.Size, SHA256: p.SHA256})
	}
	if err := (&archive.Source{Cache: cache, Mirror: mirror}).Fetch(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	r.Programs = nil
	return Config{Deb: cache.Blob, Lock: l, Recipe: r, IDs: ids}
}

// logTo shows progress in the test's log.
func logTo(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// TestRealReproducible assembles edge twice, in two stores at two times, and compares. The first result is then looked at by
// its own programs.
func TestRealReproducible(t *testing.T) {
	config := realConfig(t)
	config.Log = logTo(t)
	var results [2]Result
	for i := range results {
		store, err := tree.OpenStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		config.Store = store
		started := time.Now()
		if results[i], err = Tree(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		r := results[i]
		t.Logf("%d entries, %d bytes, %s in %v", r.Tree.Len(), r.Tree.Size(), r.Tree.Digest(), time.Since(started))
	}
	if changed, removed := results[0].Tree.Changes(results[1].Tree); len(changed)+len(removed) > 0 {
		t.Errorf("the second build differs: changed %v, removed %v", changed, removed)
	}
	if got := results[0].Kernel.Version; got == "" {
		t.Error("no kernel")
	}
	a := &assembly{config}
	started := time.Now()
	again, err := Tree(t.Context(), config)
	if took := time.Since(started); err != nil || again.Tree.Digest() != results[0].Tree.Digest() || took > time.Second {
		t.Errorf("a build with nothing changed took %v and gave %v", took, err)
	}
	a.Lock = withoutLast(config.Lock, "ethtool")
	started = time.Now()
	if _, err := Tree(t.Context(), a.Config); err != nil {
		t.Error(err)
	}
	t.Logf("a build with another leaf package took %v", time.Since(started))
	_, err = a.run(t.Context(), results[1].Tree, job{name: "look at the image", script: checkScript, report: func(line string) { t.Log(line) }})
	if err != nil {
		t.Error(err)
	}
}

// withoutLast is l without the package name, which nothing needs, in its top group.
func withoutLast(l *lock.Lock, name string) *lock.Lock {
	changed := *l
	changed.Groups = slices.Clone(l.Groups)
	top := &changed.Groups[len(changed.Groups)-1]
	top.Packages = slices.DeleteFunc(slices.Clone(top.Packages), func(p lock.Package) bool { return p.Name == name })
	return &changed
}

// checkScript asks the image's own programs whether it is sound. Every program must find its libraries.
const checkScript = `
systemctl --root=/ is-enabled ssh.service
[ "$(systemctl --root=/ get-default)" != "" ]
ldconfig -p | grep -q libc.so.6
mkdir -p /var/lib && ln -s /usr/lib/sysimage/dpkg /var/lib/dpkg && dpkg --audit && dpkg -s systemd >/dev/null
[ -s /usr/lib/udev/hwdb.bin ]
[ "$(ls /etc/ssl/certs | wc -l)" -gt 100 ]
getent passwd admin | grep -q :1000:
systemd-analyze --man=no verify default.target
systemd-tmpfiles --create --prefix=/var
[ "$(stat -c %a /var/tmp)" = 1777 ]
modprobe --show-depends -S $(ls /usr/lib/modules) dm_verity >/dev/null
modprobe --show-depends -S $(ls /usr/lib/modules) virtio_net >/dev/null
for f in /usr/bin/* /usr/sbin/*; do
	if ! out=$(ldd $f 2>&1); then continue; fi
	case $out in *"not found"*) echo "$f: $out"; exit 1;; esac
done
`
