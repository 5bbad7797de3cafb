package builder_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"roost/builder"
	"roost/builder/archive"
	"roost/builder/deb/debtest"
	"roost/images/keys"
)

// world is a small archive with a mirror that serves it, and a recipe of it: an image with all parts of a real one, whose
// kernel is none and whose init says nothing. A build of it takes a second.
type world struct {
	dir    string // the recipe is in here
	set    *keys.Set
	key    *debtest.Key
	suite  debtest.Suite
	mirror *httptest.Server

	mu    sync.Mutex
	files map[string][]byte // what the mirror serves, by path
}

const worldRecipe = `name: small
version: 1.0
architecture: amd64
base: {minimum: none, suites: [{name: trixie, components: [main]}]}
packages: [base-files, tools, systemd-boot-efi]
kernel: {flavour: standard}
slot: {root: 64MiB, verity: 4MiB, state: 128MiB}
`

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces; CI has it")
	}
	w := &world{dir: t.TempDir(), key: debtest.NewKey(t, "archive", time.Now().AddDate(-1, 0, 0), 2*365*24*time.Hour)}
	w.suite = debtest.Suite{Codename: "trixie", Date: time.Now().Add(-time.Hour), Keys: []*debtest.Key{w.key}, Packages: worldPackages(t)}
	w.files = w.suite.Files(t)
	w.mirror = httptest.NewServer(http.StripPrefix("/debian/", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		content, ok := w.files[r.URL.Path]
		w.mu.Unlock()
		if !ok {
			http.NotFound(rw, r)
			return
		}
		http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(content))
	})))
	t.Cleanup(w.mirror.Close)
	program := filepath.Join(w.dir, "source", "appliance", "initrd")
	err := errors.Join(
		os.WriteFile(w.recipe(), []byte(worldRecipe), 0o644), os.MkdirAll(program, 0o755), keys.Init(filepath.Join(w.dir, "keys"), "Test"),
		os.WriteFile(filepath.Join(w.dir, "source", "go.mod"), []byte("module roost\n\ngo 1.26\n"), 0o644),
		os.WriteFile(filepath.Join(program, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644),
	)
	if err == nil {
		w.set, err = keys.Open(filepath.Join(w.dir, "keys"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) recipe() string { return filepath.Join(w.dir, "small.yaml") }

// shop is a workshop with its cache in dir that trusts the world's archive.
func (w *world) shop(t *testing.T, dir string) *builder.Workshop {
	t.Helper()
	cache, err := archive.OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	mirror, err := archive.ParseMirror(w.mirror.URL + "/debian")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := os.ReadFile("../recipes/ids.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shipped := fstest.MapFS{"ids.yaml": {Data: ids}, "keys/test.gpg": {Data: w.key.Public(t)}}
	return &builder.Workshop{Cache: cache, Mirror: mirror, Shipped: shipped, Module: filepath.Join(w.dir, "source")}
}

func (w *world) order(depot string) builder.Order {
	return builder.Order{Recipe: w.recipe(), Keys: w.set, Depot: depot}
}

// smallDisk mounts a file system of size bytes, which resize changes.
func smallDisk(t *testing.T, size int) (dir string, resize func(size int)) {
	t.Helper()
	dir = t.TempDir()
	resize = func(size int) {
		if err := unix.Mount("roost-test", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("roost-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, resize
}

// worldPackages are the packages of the world. Their programs are this computer's own.
func worldPackages(t *testing.T) []debtest.Package {
	t.Helper()
	link := func(name, target string) debtest.File {
		return debtest.File{Name: name, Linkname: target, Type: '2', Mode: 0o777}
	}
	loader := debtest.Package{Control: "Package: systemd-boot-efi\nVersion: 1\nArchitecture: amd64"}
	for _, name := range []string{"linuxx64.efi.stub", "systemd-bootx64.efi"} {
		loader.Files = append(loader.Files, fromHost(t, "/usr/lib/systemd/boot/efi/"+name, 0o644))
	}
	tools := debtest.Package{Control: "Package: tools\nVersion: 1\nArchitecture: amd64"}
	have := map[string]bool{}
	for _, name := range strings.Fields("sh unshare setpriv mount cat rm mkdir ln mv chmod chown grep ls ldconfig") {
		for i, file := range withLibraries(t, name) {
			real, err := filepath.EvalSymlinks(file)
			if err != nil {
				t.Fatal(err)
			}
			f := fromHost(t, real, 0o755)
			f.Name = "usr/bin/" + name
			if i > 0 {
				f.Name = strings.TrimPrefix(file, "/")
			}
			if !strings.HasPrefix(f.Name, "usr/") {
				f.Name = "usr/" + f.Name
			}
			if !have[f.Name] {
				have[f.Name] = true
				tools.Files = append(tools.Files, f)
			}
		}
	}
	tools.Files = append(tools.Files, link("usr/sbin/depmod", "../bin/kmod"), debtest.File{
		Name: "usr/bin/kmod", Mode: 0o755, Body: "#!/bin/sh\nfor index in dep alias softdep; do : >/usr/lib/modules/$1/modules.$index; done\n",
	})
	const modules = "usr/lib/modules/6.12.1-test/"
	return []debtest.Package{
		{Control: "Package: base-files\nVersion: 1\nArchitecture: amd64", Files: []debtest.File{
			link("bin", "usr/bin"), link("lib", "usr/lib"), link("sbin", "usr/sbin"), link("lib64", "usr/lib64"),
			{Name: "usr/bin/"}, {Name: "usr/sbin/"}, {Name: "usr/lib/"}, {Name: "usr/lib64/"},
			{Name: "usr/lib/os-release", Body: "ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME=\"Debian\"\n"},
			{Name: "etc/passwd", Body: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"},
			{Name: "etc/group", Body: "root:x:0:\nadm:x:4:\nshadow:x:42:\nnogroup:x:65534:\n"},
		}},
		{Control: "Package: linux-image-amd64\nVersion: 6.12.1\nArchitecture: amd64\nDepends: linux-image-6.12.1-test"},
		{Control: "Package: linux-image-6.12.1-test\nVersion: 6.12.1\nArchitecture: amd64", Files: []debtest.File{
			{Name: "boot/vmlinuz-6.12.1-test", Body: strings.Repeat("kernel", 9000)}, {Name: modules + "modules.order"}, {Name: modules + "modules.builtin"},
		}},
		loader, tools,
	}
}

func fromHost(t *testing.T, name string, mode int64) debtest.File {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Skipf("needs what make host installs: %v", err)
	}
	return debtest.File{Name: strings.TrimPrefix(name, "/"), Body: string(content), Mode: mode}
}

// withLibraries returns the file of a program of this computer and those of its libraries.
func withLibraries(t *testing.T, name string) []string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s on this computer: %v", name, err)
	}
	files := []string{program}
	out, _ := exec.Command("ldd", program).Output() // fails for what needs no library
	for _, word := range strings.Fields(string(out)) {
		if path.IsAbs(word) {
			files = append(files, word)
		}
	}
	return files
}
