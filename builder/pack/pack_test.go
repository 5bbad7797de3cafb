package pack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"roost/builder/archive"
	"roost/builder/pack"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
	"roost/images/keys"
	"roost/images/uki"
)

const (
	release  = "6.12.1-test"
	home     = "/usr/lib/modules/" + release
	efi      = "/usr/lib/systemd/boot/efi/"
	zeroHash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

var created = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

// workshop is a cache, a store and keys, for packing small trees.
type workshop struct {
	t     testing.TB
	dir   string
	store *tree.Store
	cache *archive.Cache
	set   *keys.Set
}

func newWorkshop(t testing.TB) *workshop {
	t.Helper()
	dir := t.TempDir()
	w := &workshop{t: t, dir: dir}
	var err error
	if w.store, err = tree.OpenStore(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	w.emptyCache("cache")
	if w.set, err = keys.Open(madeKeys()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "init"), []byte("#!init\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// madeKeys is the directory of a key set that the tests share: making RSA keys takes longer than packing.
var madeKeys = sync.OnceValue(func() string {
	dir := filepath.Join(scratch, "keys")
	if err := keys.Init(dir, "Test"); err != nil {
		panic(err)
	}
	return dir
})

var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "pack-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

func (w *workshop) emptyCache(name string) {
	w.t.Helper()
	cache, err := archive.OpenCache(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cache.Close() })
	w.cache = cache
}

func (w *workshop) blob(content string) images.Digest {
	w.t.Helper()
	d, err := w.store.PutBytes([]byte(content))
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// files returns a small tree with kernel modules, two packages and a file of the recipe.
func files() map[string]string {
	m := map[string]string{
		"/usr/lib/os-release": "ID=roost\nIMAGE_ID=roost-test\nIMAGE_VERSION=1.0\nVERSION_ID=1.0\n",
		"/usr/bin/tool":       strings.Repeat("tool", 5000),
		"/etc/motd":           "hello\n",
		home + "/modules.dep": "kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko\nkernel/net/net_failover.ko: kernel/net/failover.ko\n" +
			"kernel/net/failover.ko:\nkernel/fs/ext4.ko: kernel/fs/jbd2.ko\nkernel/fs/jbd2.ko:\nkernel/lib/crc32c-fast.ko:\nkernel/lib/crc32c_slow.ko:\nkernel/sound/snd.ko:\n",
		home + "/modules.alias":   "# Aliases\nalias virtio:d00000001v* virtio_net\nalias crc32c crc32c_fast\nalias crc32c crc32c_slow\nalias snd-card-* snd\n",
		home + "/modules.softdep": "# Soft dependencies\nsoftdep ext4 pre: crc32c\nsoftdep snd pre: nothing\n",
	}
	for _, name := range []string{"net/virtio_net", "net/net_failover", "net/failover", "fs/ext4", "fs/jbd2", "lib/crc32c-fast", "lib/crc32c_slow", "sound/snd"} {
		m[home+"/kernel/"+name+".ko"] = "module " + name + strings.Repeat(".", 300)
	}
	return m
}

func (w *workshop) input(files map[string]string) pack.Input {
	w.t.Helper()
	d := tree.NewDraft()
	for path, content := range files {
		if err := d.Put(tree.Entry{Path: path, Type: tree.File, Mode: 0o644, Blob: w.blob(content), Size: int64(len(content))}); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := d.Put(tree.Entry{Path: "/usr/bin/link", Type: tree.Symlink, Mode: 0o777, Target: "tool"}); err != nil {
		w.t.Fatal(err)
	}
	t, err := d.Tree()
	if err != nil {
		w.t.Fatal(err)
	}
	signer, cert := w.set.SecureBootDB()
	return pack.Input{
		Name: "test", Version: "1.0", Architecture: "amd64", Created: created, Lock: zeroHash, Tree: t, Store: w.store,
		Packages: []pack.Package{
			{Name: "tool", Version: "1:2.0+dfsg-1~deb13u1", Architecture: "amd64", Source: "tools", SourceVersion: "2.0", Digest: zeroHash, Files: []string{"/usr/bin/tool", "/usr/bin/link"}},
			{Name: "empty", Version: "1", Architecture: "all", Source: "empty", SourceVersion: "1", Digest: zeroHash},
		},
		Kernel: pack.Kernel{Version: release, Image: w.blob(strings.Repeat("kernel", 9000))}, Arguments: []string{"quiet"},
		Init: filepath.Join(w.dir, "init"), Stub: efi + "linuxx64.efi.stub", Loader: efi + "systemd-bootx64.efi",
		Slot: 64 << 20, Verity: 1 << 20, State: 1 << 30, Memory: 2 << 30,
		Update: images.Update{Tries: 2, GateSeconds: 300}, Gates: []images.Gate{{Name: "ssh", Kind: "unit", Unit: "ssh.service"}},
		Signer: signer, Cert: cert, Cache: w.cache,
	}
}

func (w *workshop) pack(in pack.Input) *pack.Artifacts {
	w.t.Helper()
	a, err := pack.Image(context.Background(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// TestEveryToolAccepts lets the field's own tools judge every artefact.
func TestEveryToolAccepts(t *testing.T) {
	w := newWorkshop(t)
	a := w.pack(w.input(files()))
	run(t, "fsck.erofs", a.Root.Path)
	run(t, "veritysetup", "verify", a.Root.Path, a.Verity.Path, a.Release.RootHash)
	cert := filepath.Join(madeKeys(), "db.crt")
	run(t, "sbverify", "--cert", cert, a.UKI.Path)
	run(t, "sbverify", "--cert", cert, a.Loader.Path)
	for _, f := range [][2]pack.File{{a.Root, a.RootZstd}, {a.Verity, a.VerityZstd}} {
		plain := run(t, "zstd", "-dc", f[1].Path)
		if images.DigestOf([]byte(plain)) != f[0].Digest {
			t.Error("zstd unpacks a transport copy to something else")
		}
	}
	for name, f := range map[string]pack.File{"UKI": a.UKI, "loader": a.Loader, "root": a.Root, "verity": a.Verity, "root.zst": a.RootZstd, "SBOM": a.SBOM} {
		b, err := os.ReadFile(f.Path)
		if err != nil || images.DigestOf(b) != f.Digest || int64(len(b)) != f.Size {
			t.Errorf("%s has other bytes than its digest and size say (%v)", name, err)
		}
	}
	got, err := images.DecodeRelease(a.Document)
	if err != nil {
		t.Fatal(err)
	}
	if got.CommandLine != "roothash="+got.RootHash+" panic=10 console=tty0 console=ttyS0,115200 quiet" || got.Kernel != release {
		t.Errorf("release document: %+v", got)
	}
	if got.Needs.Disk < 2*got.Needs.Slot+2*got.Needs.Verity+2*got.Needs.ESP+1<<30 {
		t.Errorf("the smallest disk is said to be %d bytes", got.Needs.Disk)
	}
}

// TestUKI reads the UKI back: what the release document says is what the machine boots.
func TestUKI(t *testing.T) {
	w := newWorkshop(t)
	in := w.input(files())
	a := w.pack(in)
	f, err := os.Open(a.UKI.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := uki.Open(f, a.UKI.Size)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := image.CommandLine(); err != nil || line != a.Release.CommandLine {
		t.Errorf("command line %q, %v", line, err)
	}
	if text, err := image.OSRelease(); err != nil || text+"\n" != files()["/usr/lib/os-release"] {
		t.Errorf("os-release %q, %v", text, err)
	}
	if image.Initrd().Size() != a.Initrd.Size || image.Kernel().Size() != int64(len("kernel")*9000) {
		t.Error("kernel or initrd have other sizes in the UKI")
	}
}

// unpack reads a newc archive: "mode content" by name, and what is behind it. It fails where a parent comes after what is in it, which the kernel
// would not forgive.
func unpack(t *testing.T, archive string) (files map[string]string, rest string) {
	t.Helper()
	files, rest = map[string]string{}, archive
	for {
		if len(rest) < 110 || rest[:6] != "070701" {
			t.Fatalf("no header %d bytes before the end", len(rest))
		}
		field := func(i int) int {
			n, err := strconv.ParseInt(rest[6+8*i:14+8*i], 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		size, mode, nameSize := field(6), field(1), field(11)
		name := rest[110 : 110+nameSize-1]
		rest = rest[(110+nameSize+3)/4*4:]
		if name == "TRAILER!!!" {
			return files, rest
		}
		if _, ok := files[filepath.Dir(name)]; filepath.Dir(name) != "." && !ok {
			t.Errorf("%s comes before its directory", name)
		}
		files[name] = fmt.Sprintf("%o %s", mode, rest[:size])
		rest = rest[(size+3)/4*4:]
	}
}

// TestInitrd unpacks the initrd and looks at what is in it.
func TestInitrd(t *testing.T) {
	w := newWorkshop(t)
	tests := []struct {
		name  string
		rules []recipe.Rule
		want  string // modules, sorted
	}{
		{"default", nil, "crc32c-fast crc32c_slow ext4 failover jbd2 net_failover virtio_net"},
		{"one with what it needs", []recipe.Rule{{Keep: true, Pattern: "virtio-net"}}, "crc32c-fast crc32c_slow ext4 failover jbd2 net_failover virtio_net"},
		{"by path", []recipe.Rule{{Keep: true, Pattern: "kernel/sound/**"}}, "crc32c-fast crc32c_slow ext4 jbd2 snd"},
		{"nothing but what init asks for", []recipe.Rule{{Keep: false, Pattern: "**"}}, "crc32c-fast crc32c_slow ext4 jbd2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := w.input(files())
			in.InitrdModules = tt.rules
			a := w.pack(in)
			archive, err := os.ReadFile(a.Initrd.Path)
			if err != nil {
				t.Fatal(err)
			}
			files, rest := unpack(t, string(archive))
			if text := files["etc/initrd-release"]; !strings.Contains(text, "\nIMAGE_VERSION=1.0\n") || !strings.HasSuffix(text, fmt.Sprintf("\nROOST_CREATED=%d\n", created.Unix())) {
				t.Errorf("initrd-release is %q", text)
			}
			rest = strings.TrimLeft(rest, "\x00")
			if (len(archive)-len(rest))%4 != 0 {
				t.Error("the second archive does not start at a multiple of 4")
			}
			packed := filepath.Join(t.TempDir(), "main.zst")
			if err := os.WriteFile(packed, []byte(rest), 0o600); err != nil {
				t.Fatal(err)
			}
			files, rest = unpack(t, run(t, "zstd", "-dc", packed))
			modules, rest := unpack(t, rest)
			if rest != "" {
				t.Errorf("%d bytes behind the last archive", len(rest))
			}
			maps.Copy(files, modules)
			var got []string
			for name := range files {
				if strings.HasSuffix(name, ".ko") {
					got = append(got, strings.TrimSuffix(filepath.Base(name), ".ko"))
				}
			}
			if text := strings.Join(slices.Sorted(slices.Values(got)), " "); text != tt.want {
				t.Errorf("modules are %q, want %q", text, tt.want)
			}
			if files["init"] != "100755 #!init\n" || files["dev/console"] != "20600 " {
				t.Errorf("init is %q, the console %q", files["init"], files["dev/console"])
			}
			for name := range files {
				if dir := filepath.Dir(name); dir != "." && files[dir] != "40755 " {
					t.Errorf("%s comes without its directory", name)
				}
			}
			if n := strings.Count(files["lib/modules/"+release+"/modules.dep"], "\n"); n != len(got) {
				t.Errorf("modules.dep has %d lines for %d modules", n, len(got))
			}
			for _, index := range []string{"modules.alias", "modules.softdep"} {
				if text := files["lib/modules/"+release+"/"+index]; strings.Contains(text, "snd") != slices.Contains(got, "snd") {
					t.Errorf("%s does not name the modules that are there", index)
				}
			}
		})
	}
}

// TestReproducible packs twice, with nothing in common but the input.
func TestReproducible(t *testing.T) {
	w := newWorkshop(t)
	a := w.pack(w.input(files()))
	w.emptyCache("other")
	procs := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(procs)
	b := w.pack(w.input(files()))
	for name, pair := range map[string][2]pack.File{
		"root": {a.Root, b.Root}, "verity": {a.Verity, b.Verity}, "initrd": {a.Initrd, b.Initrd}, "unsigned UKI": {a.UnsignedUKI, b.UnsignedUKI},
		"UKI": {a.UKI, b.UKI}, "loader": {a.Loader, b.Loader}, "SBOM": {a.SBOM, b.SBOM}, "provenance": {a.Provenance, b.Provenance},
		"root.zst": {a.RootZstd, b.RootZstd}, "verity.zst": {a.VerityZstd, b.VerityZstd},
	} {
		if pair[0].Digest != pair[1].Digest {
			t.Errorf("%s differs between two builds", name)
		}
		if pair[0].Path == pair[1].Path {
			t.Fatalf("%s was not built twice", name)
		}
	}
	if !bytes.Equal(a.Document, b.Document) {
		t.Error("release documents differ between two builds")
	}
}

// TestCache changes one input at a time and sees which artefacts are made anew.
func TestCache(t *testing.T) {
	w := newWorkshop(t)
	in := w.input(files())
	before := w.pack(in)
	count := func() int {
		entries, err := os.ReadDir(filepath.Join(w.dir, "cache", "artifacts"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	made := count()
	if again := w.pack(in); again.UKI != before.UKI || count() != made {
		t.Error("packing again made something new")
	}
	changed := files()
	changed["/etc/motd"] = "changed\n"
	after := w.pack(w.input(changed))
	if after.Root.Digest == before.Root.Digest || after.UKI.Digest == before.UKI.Digest || after.SBOM.Digest == before.SBOM.Digest {
		t.Error("a changed file does not show in the artefacts")
	}
	if after.Initrd != before.Initrd || after.Loader != before.Loader {
		t.Error("a changed file made initrd or loader anew")
	}
	if err := os.Truncate(before.Root.Path, 100); err != nil {
		t.Fatal(err)
	}
	if healed := w.pack(in); healed.Root != before.Root {
		t.Error("a cut root image was not made again")
	} else if info, err := os.Stat(healed.Root.Path); err != nil || info.Size() != healed.Root.Size {
		t.Errorf("a cut root image stayed: %v", err)
	}
}

func TestImageRefuses(t *testing.T) {
	w := newWorkshop(t)
	dir := filepath.Join(t.TempDir(), "other")
	if err := keys.Init(dir, "Other"); err != nil {
		t.Fatal(err)
	}
	other, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*pack.Input)
		want   string
	}{
		{"no kernel", func(in *pack.Input) { in.Kernel = pack.Kernel{} }, "no kernel"},
		{"no key", func(in *pack.Input) { in.Signer = nil }, "roost keys init"},
		{"foreign certificate", func(in *pack.Input) { _, in.Cert = other.SecureBootDB() }, "certificate"},
		{"full slot", func(in *pack.Input) { in.Slot = 1 << 12 }, "do not fit the slot"},
		{"no init", func(in *pack.Input) { in.Init = "/nonexistent" }, "initrd"},
		{"no time", func(in *pack.Input) { in.Created = time.Time{} }, "time"},
		{"two root hashes", func(in *pack.Input) { in.Arguments = []string{"roothash=" + strings.Repeat("0", 64)} }, "exactly one roothash"},
		{"no modules", func(in *pack.Input) { in.Kernel.Version = "5.0" }, "modules.dep"},
		{"compressed module", func(in *pack.Input) {
			f := files()
			f[home+"/modules.dep"] = "kernel/net/virtio_net.ko.xz:\n"
			f[home+"/kernel/net/virtio_net.ko.xz"] = "x"
			in.Tree = w.input(f).Tree
		}, "is compressed"},
		{"tree of another version", func(in *pack.Input) { in.Version = "1.1" }, "another release"},
		{"no os-release", func(in *pack.Input) {
			f := files()
			delete(f, "/usr/lib/os-release")
			in.Tree = w.input(f).Tree
		}, "os-release"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := w.input(files())
			tt.change(&in)
			if _, err := pack.Image(context.Background(), in); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Image returned %v, want an error with %q", err, tt.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.emptyCache("cancelled")
	if _, err := pack.Image(ctx, w.input(files())); err == nil {
		t.Error("a cancelled build ended well")
	}
}

// TestSBOM checks the promise that every file belongs to something.
func TestSBOM(t *testing.T) {
	w := newWorkshop(t)
	in := w.input(files())
	a := w.pack(in)
	text, err := os.ReadFile(a.SBOM.Path)
	if err != nil {
		t.Fatal(err)
	}
	judgeSBOM(t, text)
	var doc struct {
		SPDXVersion string
		Packages    []struct {
			SPDXID, Name  string
			FilesAnalyzed bool
			ExternalRefs  []struct{ ReferenceLocator string }
		}
		Files         []struct{ SPDXID, FileName string }
		Relationships []struct{ SPDXElementID, RelationshipType, RelatedSPDXElement string }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	name := map[string]string{}
	for _, p := range doc.Packages {
		name[p.SPDXID] = p.Name
		if p.Name == "tool" && p.ExternalRefs[0].ReferenceLocator != "pkg:deb/debian/tool@1:2.0%2Bdfsg-1~deb13u1?arch=amd64&upstream=tools%402.0" {
			t.Errorf("purl %s", p.ExternalRefs[0].ReferenceLocator)
		}
	}
	owner := map[string]string{}
	for _, r := range doc.Relationships {
		if r.RelationshipType == "CONTAINS" && owner[r.RelatedSPDXElement] != "" {
			t.Errorf("%s has two owners", r.RelatedSPDXElement)
		}
		owner[r.RelatedSPDXElement] = name[r.SPDXElementID]
	}
	if len(doc.Files) != len(files()) {
		t.Errorf("%d files, want %d", len(doc.Files), len(files()))
	}
	for _, f := range doc.Files {
		want := "test-recipe"
		if f.FileName == "./usr/bin/tool" {
			want = "tool"
		}
		if owner[f.SPDXID] != want {
			t.Errorf("%s belongs to %q, want %q", f.FileName, owner[f.SPDXID], want)
		}
	}
}

func TestProvenance(t *testing.T) {
	w := newWorkshop(t)
	in := w.input(files())
	in.Materials = []pack.Material{{URI: "pkg:golang/toolchain@go1.26", Digest: zeroHash}}
	a := w.pack(in)
	text, err := os.ReadFile(a.Provenance.Path)
	if err != nil {
		t.Fatal(err)
	}
	judgeProvenance(t, text)
	for _, want := range []string{
		`"_type":"https://in-toto.io/Statement/v1"`, `"predicateType":"https://slsa.dev/provenance/v1"`,
		fmt.Sprintf(`{"name":"uki.efi","digest":{"sha256":%q}}`, a.UKI.Digest.Hex()), `"uri":"pkg:golang/toolchain@go1.26"`, `pkg:deb/debian/tool@`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("provenance lacks %s:\n%s", want, text)
		}
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.Bytes())
	}
	return string(out)
}
