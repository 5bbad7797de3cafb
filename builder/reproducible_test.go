package builder_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"roost/builder/archive"
	"roost/images"
	"roost/images/depot"
	"roost/images/keys"
	"roost/images/uki"
	"roost/images/uki/authenticode"
)

// site is one of the places where the same lock is built: a checkout, what the build keeps, and what surrounds it.
type site struct {
	roost, source, keys, dir string
	recipe                   string   // name of a shipped one
	arguments                []string // more for roost build
	environment              []string // more than the test's own
	shell                    string   // what happens before roost starts
}

// run runs roost in the site's checkout and returns what it printed.
func (s site) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-ec", s.shell + "\nexec \"$@\"", "sh", s.roost}, args...)...)
	cmd.Dir, cmd.Env = s.source, append(os.Environ(), s.environment...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("roost %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// build builds the recipe, makes its media, and returns the SHA-256 of all that must not depend on the site, by name.
func (s site) build(t *testing.T) map[string]string {
	t.Helper()
	started := time.Now()
	shelf, disk, iso := filepath.Join(s.dir, "depot"), filepath.Join(s.dir, "disk.raw"), filepath.Join(s.dir, "disc.iso")
	out := s.run(t, append([]string{"build", "recipes/" + s.recipe + ".yaml", "--keys", s.keys, "--depot", shelf}, s.arguments...)...)
	t.Logf("built in %v\n%s", time.Since(started).Round(time.Second), out)
	s.run(t, "image", "disk", shelf, disk)
	s.run(t, "image", "iso", shelf, iso)
	sums := map[string]string{"disk image": sumSparse(t, disk), "ISO image": sumSparse(t, iso)}

	d, err := depot.Open(t.Context(), shelf, depot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Get(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	sums["manifest"] = string(r.Manifest.Digest)
	for _, kind := range images.Kinds() {
		body, part, err := r.Content(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		sums[string(kind)] = string(part.Digest)
		if kind == images.KindUKI {
			maps.Copy(sums, insideUKI(t, body))
		}
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	papers, err := r.Papers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for mediaType, paper := range papers {
		sums[mediaType] = string(images.DigestOf(paper))
	}
	return sums
}

// insideUKI returns the initrd of a UKI, and all of it but its signature, which is what Authenticode's digest covers.
func insideUKI(t *testing.T, body io.Reader) map[string]string {
	t.Helper()
	pe, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	image, err := uki.Open(bytes.NewReader(pe), int64(len(pe)))
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := io.ReadAll(image.Initrd())
	if err != nil {
		t.Fatal(err)
	}
	unsigned, err := authenticode.Digest(pe)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"initrd": string(images.DigestOf(initrd)), "UKI without signature": string(unsigned)}
}

// sumSparse returns a digest of a file's size and of every block that is not zero, reading no holes.
func sumSparse(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, block, zero := sha256.New(), make([]byte, 1<<20), make([]byte, 1<<20)
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(info.Size())))
	for at := int64(0); ; at += int64(len(block)) {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return hex.EncodeToString(h.Sum(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		at = data / int64(len(block)) * int64(len(block))
		n, err := f.ReadAt(block, at)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(block[:n], zero[:n]) {
			h.Write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
			h.Write(block[:n])
		}
	}
}

// TestReproducible builds the shipped edge twice through the command and compares every byte of what comes out, media
// included. The second build shares the downloaded packages and Go modules with the first, and nothing else: another
// checkout, cache, compiler cache, directory for temporary files, umask, locale, time zone, host name, number of
// processors, no network, and later. Then the image is looked at by its own programs, and built again with nothing changed.
func TestReproducible(t *testing.T) {
	first := buildTwice(t, "edge")
	started := time.Now()
	first.run(t, "build", "recipes/edge.yaml", "--keys", first.keys, "--depot", filepath.Join(first.dir, "depot"))
	t.Logf("built with nothing changed in %v", time.Since(started))
}

// TestRecipesReproducible does so with every other recipe that ships. Kubernetes is compiled twice from nothing: this takes an
// hour and more.
func TestRecipesReproducible(t *testing.T) {
	if os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("takes long: set ROOST_TEST_SOAK=1")
	}
	recipes, err := filepath.Glob("../recipes/*.lock")
	if err != nil || len(recipes) < 2 {
		t.Fatalf("found recipes %v, %v", recipes, err)
	}
	for _, lock := range recipes {
		if name := strings.TrimSuffix(filepath.Base(lock), ".lock"); name != "edge" {
			t.Run(name, func(t *testing.T) { buildTwice(t, name) })
		}
	}
}

// buildTwice builds a shipped recipe here and elsewhere, compares, and has the image's own programs look at it.
func buildTwice(t *testing.T, recipe string) site {
	t.Helper()
	if os.Getenv("ROOST_TEST_NET") == "" {
		t.Skip("needs a Debian mirror: set ROOST_TEST_NET=1")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces; CI has it")
	}
	source, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first := site{roost: filepath.Join(dir, "roost"), source: source, keys: filepath.Join(dir, "keys"), dir: filepath.Join(dir, "1"), recipe: recipe}
	command(t, source, "go", "build", "-o", first.roost, ".")
	if err := errors.Join(keys.Init(first.keys, "Test"), os.Mkdir(first.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	want := first.build(t)
	got := elsewhere(t, first, filepath.Join(dir, "another place", "deeper")).build(t)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s differs: %s, then %s", name, want[name], got[name])
		}
	}
	if len(want) != 12 || len(got) != len(want) {
		t.Errorf("%d things were compared with %d, want 12", len(want), len(got))
	}
	inspect(t, first)
	return first
}

// elsewhere is a site that has nothing in common with first but the command, the keys, and what was downloaded.
func elsewhere(t *testing.T, first site, dir string) site {
	t.Helper()
	s := site{roost: first.roost, recipe: first.recipe, keys: first.keys, source: filepath.Join(dir, "checkout"), dir: filepath.Join(dir, "out"), arguments: []string{"--offline"}}
	cache := filepath.Join(dir, "cache")
	for _, sub := range []string{s.source, s.dir, cache, filepath.Join(dir, "tmp"), filepath.Join(dir, "home")} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.shell = "umask 077; hostname elsewhere"
	s.environment = []string{
		"ROOST_CACHE=" + cache, "GOCACHE=" + filepath.Join(dir, "go-build"), "GOMODCACHE=" + command(t, first.source, "go", "env", "GOMODCACHE"),
		"GOPROXY=off", "TMPDIR=" + filepath.Join(dir, "tmp"), "HOME=" + filepath.Join(dir, "home"),
		"TZ=Asia/Kathmandu", "LC_ALL=tr_TR.UTF-8", "LANG=tr_TR.UTF-8", "USER=somebody", "GOMAXPROCS=3", "SOURCE_DATE_EPOCH=1",
	}
	command(t, first.source, "sh", "-c", `umask 077; tar --exclude=./.git --exclude=./out -c . | tar -C "$1" --no-same-permissions -xm`, "sh", s.source)
	common, err := archive.DefaultDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(common, archive.SectionBlobs), filepath.Join(cache, archive.SectionBlobs)); err != nil {
		t.Fatal(err)
	}
	return s
}

// inspect unpacks the root image that lies in the disk image of s, and asks the image's own programs whether it is sound.
func inspect(t *testing.T, s site) {
	t.Helper()
	d, err := depot.Open(t.Context(), filepath.Join(s.dir, "depot"), depot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Get(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := r.Content(t.Context(), images.KindRoot)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	image, root := filepath.Join(s.dir, "root.erofs"), filepath.Join(s.dir, "root")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, body); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	command(t, s.dir, "fsck.erofs", "--extract="+root, image)
	command(t, s.dir, "unshare", "--mount", "--uts", "--net", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-ec",
		`mount --bind /dev "$1/dev"; mount -t proc proc "$1/proc"; exec chroot "$1" /bin/sh -exc "$2"`, "sh", root, checkScript)
}

// command runs a program and returns what it printed, without the last newline.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, errs.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// checkScript asks an image whether it is sound. Every program must find its libraries.
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
set +x
for f in /usr/bin/* /usr/sbin/*; do
	if ! out=$(ldd $f 2>&1); then continue; fi
	case $out in *"not found"*) echo "$f: $out"; exit 1;; esac
done
`
