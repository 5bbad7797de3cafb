package lock

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"roost/images"
)

func sample(t testing.TB, text string) *Lock {
	t.Helper()
	index := &Index{Suites: []IndexSuite{{"trixie", time.Unix(1_700_000_000, 0), images.DigestOf(nil), shortIndex(t, "trixie", []byte(text))}}}
	r := wishFor("none", []string{"app"})
	r.Base.Suites = r.Base.Suites[:1]
	l, err := Resolve(context.Background(), r, index, nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := "h1:" + strings.Repeat("A", 43) + "="
	l.Programs = []Program{{Name: "kube", Wants: images.DigestOf([]byte("wants")), Toolchain: "go1.26.8", Go: "1.26.0", Modules: []Module{
		{Path: "a.org/a", Version: "v1.0.0", Sum: sum, GoMod: sum, Require: Direct, Replaces: true},
		{Path: "a.org/b", Version: "v0.1.0-rc.1+incompatible", GoMod: sum},
	}}, {Name: "pause", Wants: images.DigestOf([]byte("wants")), Toolchain: "go1.26.8", Go: "1.26"}}
	l.Containers = []Container{{Name: "r.org/x:1", Digest: images.DigestOf([]byte("manifest")), Size: 7}}
	return l
}

const sampleIndex = "Package: app\nDepends: lib, tool\nSize: 2500000\nInstalled-Size: 9000\n\nPackage: lib\nVersion: 1:2+x~y\n\nPackage: tool\nArchitecture: all\n"

func TestEncode(t *testing.T) {
	l := sample(t, sampleIndex)
	data := l.Encode()
	again, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Encode(), data) || again.Digest() != l.Digest() {
		t.Errorf("read and written again it is:\n%s\nnot:\n%s", again.Encode(), data)
	}
	for p := range l.Packages() {
		count := 0
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, `{"name":"`+p.Name+`","version"`) {
				count++
				if !strings.Contains(line, string(p.SHA256)) || !strings.Contains(line, `"version":"`+string(p.Version)+`"`) {
					t.Errorf("line of %s: %s", p.Name, line)
				}
			}
		}
		if count != 1 {
			t.Errorf("package %s is on %d lines of its own", p.Name, count)
		}
	}
}

func TestDecodeWrong(t *testing.T) {
	good := string(sample(t, sampleIndex).Encode())
	for _, c := range []struct{ name, old, new, want string }{
		{"cut", "\"programs\"", "", "line 17"},
		{"trailing", "\n}\n", "\n}\n{}", "behind its end"},
		{"unknown field", `"schema"`, `"shema"`, "unknown field"},
		{"schema", `"schema": 1`, `"schema": 2`, "schema is 2"},
		{"type", `"epoch": 1700000000`, `"epoch": "x"`, "line 6"},
		{"epoch", `"epoch": 1700000000`, `"epoch": 0`, "epoch is 0"},
		{"architecture", `"architecture": "amd64"`, `"architecture": "vax"`, "not known"},
		{"digest", `"sha256":"sha256:`, `"sha256":"sha256:0`, "digest"},
		{"version", `"1:2+x~y"`, `"1:2_x"`, "version"},
		{"suite", `"suite":"trixie"`, `"suite":"sid"`, "not in the lock"},
		{"path upwards", "pool/main/x/lib.deb", "pool/../../etc/lib.deb", "no path in the pool"},
		{"absolute path", "pool/main/x/lib.deb", "/etc/lib.deb", "no path in the pool"},
		{"not a package", "pool/main/x/lib.deb", "pool/main/x/lib", "no path in the pool"},
		{"name with slash", `"name":"lib"`, `"name":"l/ib"`, "name is wrong"},
		{"order", `"name":"lib"`, `"name":"zlib"`, "not sorted"},
		{"twice", `"name":"lib"`, `"name":"app"`, "there twice"},
		{"foreign", `"architecture":"all"`, `"architecture":"arm64"`, "for \"arm64\""},
		{"size", `"size":2500000`, `"size":-1`, "size is wrong"},
		{"kernel", `"suites"`, `"kernel": "linux", "suites"`, "not among the packages"},
		{"program", `"name": "kube"`, `"name": ""`, "program"},
		{"order of programs", `"name": "kube"`, `"name": "zube"`, "program"},
		{"toolchain", `"toolchain": "go1.26.8"`, `"toolchain": "gccgo"`, "toolchain"},
		{"language", `"go": "1.26.0"`, `"go": "1.26.0\nreplace a => ../b"`, "language"},
		{"module path", `"a.org/b"`, `"a.org/b\nreplace"`, "module"},
		{"module path upwards", `"a.org/b"`, `"../b"`, "module"},
		{"module version", `"v1.0.0"`, `"latest"`, "module"},
		{"module sum", `"sum":"h1:A`, `"sum":"h1: A`, "module"},
		{"module order", `"a.org/b"`, `"a.org/A"`, "not sorted"},
		{"module use", `"require":"direct"`, `"require":"maybe"`, "module"},
		{"container", `"size":7`, `"size":0`, "container"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Fatalf("%s: %q is not in the file", c.name, c.old)
		}
		if _, err := Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "cannot read lock: ") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// FuzzDecode: whatever is accepted is safe to use and survives writing and reading.
func FuzzDecode(f *testing.F) {
	good := sample(f, sampleIndex).Encode()
	f.Add(good)
	f.Add([]byte("{}"))
	f.Add(bytes.Replace(good, []byte("pool/"), []byte("../"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(data)
		if err != nil {
			return
		}
		for p := range l.Packages() {
			if strings.Contains(p.File, "..") && strings.Contains("/"+p.File+"/", "/../") {
				t.Fatalf("path %q leaves the pool", p.File)
			}
		}
		again, err := Decode(l.Encode())
		if err != nil || again.Digest() != l.Digest() {
			t.Fatalf("does not survive writing: %v", err)
		}
	})
}

func TestDiff(t *testing.T) {
	old := sample(t, sampleIndex+"\nPackage: unused\n")
	next := sample(t, "Package: app\nDepends: lib, extra\nSize: 2500000\nInstalled-Size: 9000\n\nPackage: lib\nVersion: 1:3\nInstalled-Size: 1003\n\nPackage: extra\nVersion: 0.1\nSize: 20000\nInstalled-Size: 5000000\n")
	// app's paragraph changed, and with it its digest: the same version with another content.
	var b bytes.Buffer
	if err := WriteDiff(&b, Diff(old, next)); err != nil {
		t.Fatal(err)
	}
	want := `rebuilt   app    1 → 1          ±0
added     extra  0.1            +5.12 GB
upgraded  lib    1:2+x~y → 1:3  +1.0 MB
removed   tool   1              -3 kB
1 added, 1 removed, 1 upgraded, 1 rebuilt; 2.5 MB to fetch, +5.12 GB installed
`
	if got := b.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	b.Reset()
	if err := WriteDiff(&b, Diff(old, old)); err != nil || b.String() != "nothing changed\n" {
		t.Errorf("no change prints %q, %v", b.String(), err)
	}
	if n := len(Diff(nil, old)); n != 3+2+1+1 {
		t.Errorf("a first lock adds %d packages and pins, want 3, kube's toolchain and modules, pause's toolchain, an image", n)
	}
	changed := sample(t, sampleIndex+"\nPackage: unused\n")
	changed.Programs[0].Modules[0].Version = "v1.1.0"
	changed.Programs, changed.Containers = changed.Programs[:1], nil
	b.Reset()
	if err := WriteDiff(&b, Diff(old, changed)); err != nil {
		t.Fatal(err)
	}
	want = `changed  kube: a.org/a     v1.0.0 → v1.1.0
removed  pause: toolchain  go1.26.8
removed  r.org/x:1         ` + string(images.DigestOf([]byte("manifest"))) + `
2 removed, 1 changed; 0 B to fetch, ±0 installed
`
	if got := b.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if kind := Diff(next, old)[2].Kind(); kind != "downgraded" {
		t.Errorf("lib is %s", kind)
	}
}

func TestStale(t *testing.T) {
	l := sample(t, sampleIndex)
	r := wishFor("none", []string{"app"})
	r.Base.Suites = r.Base.Suites[:1]
	if err := Stale(r, l); err != nil {
		t.Errorf("fresh lock: %v", err)
	}
	r.Version = "2"
	if err := Stale(r, l); err != nil {
		t.Errorf("another release version needs no new lock: %v", err)
	}
	r.Packages[0].Name = "other"
	if err := Stale(r, l); err == nil || !strings.Contains(err.Error(), "run \"roost lock ") {
		t.Errorf("changed packages: %v", err)
	}
	r.Name = "core"
	if err := Stale(r, l); err == nil || !strings.Contains(err.Error(), "for recipe test, not core") {
		t.Errorf("another recipe: %v", err)
	}
}
