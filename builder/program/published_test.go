package program

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"roost/builder/lock"
	"roost/builder/recipe"
)

// publish puts a module version into a module proxy that is a directory (go help goproxy).
func publish(t *testing.T, proxy, module, version string, files map[string]string) {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range files {
		w, err := z.Create(module + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(proxy, module, "@v")
	write(t, filepath.Join(dir, version+".zip"), b.String())
	write(t, filepath.Join(dir, version+".mod"), files["go.mod"])
	write(t, filepath.Join(dir, version+".info"), `{"Version":"`+version+`"}`)
}

// modules sets a test up with a proxy that has a module of two commands, which replaces another by a directory of its
// own as Kubernetes does, and a newer version of it.
func modules(t *testing.T) (proxy string) {
	t.Helper()
	proxy = t.TempDir()
	big := map[string]string{
		"go.mod":       "module a.test/big\n\ngo 1.26.0\n\nrequire (\n\ta.test/nested v0.0.0\n\ta.test/plain v1.0.0\n)\n\nreplace a.test/nested => ./staging/nested\n",
		"version/v.go": "package version\n\nvar Number = \"unset\"\n",
		"cmd/ex/main.go": "// Package main is a command.\npackage main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\n\t\"a.test/big/version\"\n\t\"a.test/nested\"\n)\n\n" +
			"func main() { fmt.Println(\"ex\", version.Number, nested.Word, os.Args[1:]); helper() }\n",
		"cmd/ex/helper.go":    "package main\n\nfunc helper() {}\n",
		"cmd/ex/main_test.go": "package main\n\nfunc broken( {}\n",
		"cmd/ex/doc.go":       "//go:build ignore\n\npackage documentation\n",
		"cmd/wye/main.go":     "package main\n\nimport (\n\t\"fmt\"\n\n\t\"a.test/plain\"\n)\n\nfunc main() { fmt.Println(\"wye\", plain.Word) }\n",
		"cmd/embeds/main.go":  "package main\n\nimport _ \"embed\"\n\n//go:embed x\nvar x string\n\nfunc main() { println(x) }\n",
		"library/library.go":  "package library\n",
	}
	publish(t, proxy, "a.test/big", "v1.0.0", big)
	publish(t, proxy, "a.test/nested", "v0.1.0", map[string]string{"go.mod": "module a.test/nested\n\ngo 1.26\n", "n.go": "package nested\n\nconst Word = \"nested\"\n"})
	publish(t, proxy, "a.test/plain", "v1.0.0", map[string]string{"go.mod": "module a.test/plain\n\ngo 1.26\n", "p.go": "package plain\n\nconst Word = \"plain\"\n"})
	t.Setenv("GOPROXY", "file://"+proxy)
	t.Setenv("GONOSUMDB", "*")
	t.Setenv("GOSUMDB", "off")
	cache := t.TempDir()
	t.Setenv("GOMODCACHE", cache)
	t.Cleanup(func() { // the go command makes it read-only
		cmd := exec.Command("go", "clean", "-modcache")
		cmd.Env = append(os.Environ(), "GOMODCACHE="+cache)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return proxy
}

func both() recipe.Program {
	return recipe.Program{
		Name: "both", Modules: []recipe.Module{{Path: "a.test/big", Version: "v1.0.0", Nested: "v0.1.0"}},
		Commands: []string{"a.test/big/cmd/ex", "a.test/big/cmd/wye"},
		Stamps:   []recipe.Setting{{Key: "a.test/big/version.Number", Value: "v9"}}, Target: "/usr/bin/both",
	}
}

// call runs a program under a name and returns what it says, and whether it ended well.
func call(t *testing.T, program, name string, args ...string) (string, bool) {
	t.Helper()
	link := filepath.Join(t.TempDir(), name)
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(link, text, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(link, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

// TestPublished pins a program of two commands, builds it, calls it by its names, and builds it again without a network
// and in another cache.
func TestPublished(t *testing.T) {
	proxy := modules(t)
	p := both()
	pin, err := Pin(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range pin.Modules {
		names = append(names, m.Path+" "+m.Version+" "+m.Require)
		if m.Sum == "" || m.GoMod == "" || m.Replaces != (m.Path == "a.test/nested") {
			t.Errorf("module %+v", m)
		}
	}
	if got := strings.Join(names, ", "); got != "a.test/big v1.0.0 direct, a.test/nested v0.1.0 direct, a.test/plain v1.0.0 indirect" &&
		got != "a.test/big v1.0.0 direct, a.test/nested v0.1.0 direct, a.test/plain v1.0.0 direct" {
		t.Errorf("pinned %s", got)
	}
	if pin.Go != "1.26.0" || !strings.HasPrefix(pin.Toolchain, "go1.") {
		t.Errorf("pinned language %s and toolchain %s", pin.Go, pin.Toolchain)
	}
	bin, err := CompileLocked(t.Context(), openCache(t), p, pin, "amd64", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		args []string
		want string
		ok   bool
	}{
		{"ex", []string{"one"}, "ex v9 nested [one]", true},
		{"wye", nil, "wye plain", true},
		{"both", []string{"ex", "two"}, "ex v9 nested [two]", true},
		{"other", nil, "ex, wye", false},
		{"other", []string{"zed"}, "ex, wye", false},
	} {
		if got, ok := call(t, bin.Path, test.name, test.args...); ok != test.ok || !strings.HasSuffix(got, test.want) {
			t.Errorf("%s %v says %q, %v", test.name, test.args, got, ok)
		}
	}
	if err := os.RemoveAll(proxy); err != nil {
		t.Fatal(err)
	}
	again, err := CompileLocked(t.Context(), openCache(t), p, pin, "amd64", true)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(bin.Path)
	second, err := os.ReadFile(again.Path)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("a second build differs: %v", err)
	}
}

// TestPublishedSingle builds one command as it is, and a text of the recipe.
func TestPublishedSingle(t *testing.T) {
	modules(t)
	for _, test := range []struct {
		program recipe.Program
		want    string
		modules int
	}{
		{recipe.Program{Name: "wye", Modules: both().Modules, Package: "a.test/big/cmd/wye"}, "wye plain", 3},
		{recipe.Program{Name: "own", Modules: []recipe.Module{{Path: "a.test/plain", Version: "v1.0.0"}},
			Main: "package main\n\nimport \"a.test/plain\"\n\nfunc main() { println(plain.Word) }\n"}, "plain", 1},
		{recipe.Program{Name: "alone", Main: "package main\n\nfunc main() { println(\"alone\") }\n"}, "alone", 0},
	} {
		pin, err := Pin(t.Context(), test.program)
		if err != nil {
			t.Errorf("%s: %v", test.program.Name, err)
			continue
		}
		if len(pin.Modules) != test.modules {
			t.Errorf("%s: pinned %+v", test.program.Name, pin.Modules)
		}
		bin, err := CompileLocked(t.Context(), openCache(t), test.program, pin, "amd64", true)
		if err != nil {
			t.Errorf("%s: %v", test.program.Name, err)
			continue
		}
		if got, ok := call(t, bin.Path, "x"); !ok || got != test.want {
			t.Errorf("%s says %q", test.program.Name, got)
		}
	}
}

// TestPublishedWrong holds that each mistake is refused in words that name it.
func TestPublishedWrong(t *testing.T) {
	modules(t)
	for _, test := range []struct {
		name string
		edit func(p *recipe.Program)
		want string
	}{
		{"no such version", func(p *recipe.Program) { p.Modules[0].Version = "v1.9.0" }, "a.test/big"},
		{"no such command", func(p *recipe.Program) { p.Commands[0] = "a.test/big/cmd/none" }, "no such directory"},
		{"library", func(p *recipe.Program) { p.Commands[0] = "a.test/big/library" }, "no function main"},
		{"foreign command", func(p *recipe.Program) { p.Commands[0] = "b.test/cmd/x" }, "none of the program's modules"},
		{"embedded files", func(p *recipe.Program) { p.Commands[0] = "a.test/big/cmd/embeds" }, "embeds files"},
		{"nested left out", func(p *recipe.Program) { p.Modules[0].Nested = "" }, "a.test/nested"},
	} {
		p := both()
		p.Modules = append([]recipe.Module{}, p.Modules...)
		p.Commands = append([]string{}, p.Commands...)
		test.edit(&p)
		if _, err := Pin(t.Context(), p); err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "cannot lock program both") {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// TestPinnedSum holds that a module which is not what the lock says is not built.
func TestPinnedSum(t *testing.T) {
	modules(t)
	pin, err := Pin(t.Context(), both())
	if err != nil {
		t.Fatal(err)
	}
	pin.Modules = append([]lock.Module{}, pin.Modules...)
	for i := range pin.Modules {
		if pin.Modules[i].Path == "a.test/plain" {
			pin.Modules[i].Sum = "h1:" + strings.Repeat("A", 43) + "="
		}
	}
	_, err = CompileLocked(t.Context(), openCache(t), both(), pin, "amd64", false)
	if err == nil || !strings.Contains(err.Error(), "checksum mismatch") {
		t.Errorf("built from another module than the lock's: %v", err)
	}
}

func TestNewerGo(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{{"1.26", "1.25.9", true}, {"1.26.0", "1.26", false}, {"1.26.1", "1.26", true}, {"1.9", "1.10", false}, {"", "1.1", false}} {
		if got := newerGo(test.a, test.b); got != test.want {
			t.Errorf("%q newer than %q: %v", test.a, test.b, got)
		}
	}
}

// FuzzAsPackage: what comes out of a main package is Go again, and of package command.
func FuzzAsPackage(f *testing.F) {
	f.Add([]byte("package main\n\nfunc main() {}\n"))
	f.Add([]byte("//go:build linux\n\n// x\npackage /* y */ main\nvar main2 = 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		changed, _, err := asPackage(text)
		if err != nil || changed == nil {
			return
		}
		if again, _, err := asPackage(changed); err != nil || again != nil {
			t.Errorf("%q became %q: %v", text, changed, err)
		}
	})
}
