// Package test holds what concerns the whole tree: the rules of the house as tests, scripts that drive the roost
// command, simulations, and boots of real machines.
package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// mayImport says which of our packages a package may import. A key ending in /... stands for every package below it that
// has no entry of its own; in a value it stands for the package itself and everything below it. "main" is the roost
// command. Test files of a package follow the same rule, but may also import fakes that stand beside what they fake.
var mayImport = map[string][]string{
	"main": {"..."},

	"images":            {},
	"images/imagestest": {"images"},
	"images/durable":    {},
	"images/release":    {"images"},
	"images/depot":      {"images", "images/release", "images/durable"},
	"images/depot/...":  {"images", "images/release", "images/durable", "images/depot/..."},
	"images/disk/...":   {"images", "images/disk/...", "images/rootfs", "images/uki"},
	"images/rootfs/...": {"images", "images/rootfs"},
	"images/uki":        {"images"},
	"images/uki/...":    {"images", "images/uki"},
	"images/keys":       {"images"},
	"images/...":        {"images"},

	"recipes": {"builder/recipe", "builder/lock"}, // its test checks each lock against its recipe

	"builder":           {"images/...", "builder/..."},
	"builder/recipe":    {"images"},
	"builder/deb":       {"images", "builder/deb/xz"},
	"builder/deb/xz":    {},
	"builder/archive":   {"images", "images/durable", "builder/deb"},
	"builder/lock":      {"images", "builder/recipe", "builder/deb"},
	"builder/program":   {"images", "builder/archive", "builder/recipe", "builder/lock", "builder/cores"},
	"builder/container": {"images", "builder/archive", "builder/recipe", "builder/lock"},
	"builder/tree":      {"images"},
	"builder/cores":     {},
	"builder/assemble":  {"images", "images/durable", "builder/recipe", "builder/lock", "builder/deb", "builder/archive", "builder/tree", "builder/cores", "recipes"},
	"builder/pack":      {"images/...", "builder/archive", "builder/recipe", "builder/lock", "builder/tree", "builder/cores"},

	"pxe/...": {"images/...", "pxe/..."},

	"updater":         {"images/...", "updater/..."},
	"updater/slot":    {"images/..."},
	"updater/boot":    {"images/..."},
	"updater/kept":    {"images/..."},
	"updater/install": {"images/...", "updater/slot", "updater/boot"},

	"appliance":            {"appliance/...", "updater/...", "images/...", "pxe/..."},
	"appliance/roostd":     {"appliance", "appliance/api"},
	"appliance/initrd":     {"images/disk", "images/rootfs", "images/uki", "updater/boot"},
	"appliance/api":        {"images"},
	"appliance/store":      {"appliance/api"},
	"appliance/config":     {"appliance/api", "appliance/store", "images", "images/durable"},
	"appliance/fault":      {"appliance/api", "appliance/store", "images"},
	"appliance/host":       {"appliance/api", "appliance/store", "images"},
	"appliance/service":    {"appliance/api", "appliance/store", "images"},
	"appliance/kubernetes": {"appliance/api", "appliance/service", "images", "images/durable"},
	"appliance/ceph":       {"appliance/api", "appliance/service", "images/durable"},
	"appliance/openstack":  {"appliance/api", "appliance/service", "images", "images/durable"},
	"appliance/volume":     {},
	"appliance/volumed":    {"appliance/volume"},
	"appliance/software":   {"appliance/api", "appliance/store", "images/...", "updater/..."},
	"appliance/trust":      {"appliance/api", "appliance/store", "images", "images/keys", "images/durable"},
	"appliance/inventory":  {"appliance/api"},
	"appliance/linux":      {"appliance/api", "images", "images/durable"},
	"appliance/bmc":        {"appliance/api"},
	"appliance/server":     {"appliance/api", "appliance/store", "appliance/config", "appliance/fault", "appliance/host", "appliance/service", "appliance/software", "appliance/trust", "appliance/console", "images"},
	"appliance/console":    {"appliance/api", "appliance/store"},
	"appliance/client":     {"appliance/api", "images", "images/durable"},
	"appliance/command":    {"appliance/api", "appliance/ceph", "appliance/client", "appliance/kubernetes", "appliance/openstack", "appliance/trust", "images", "images/depot"},

	"test/lab": {"images/...", "pxe/...", "appliance/client", "appliance/api"},
	"test/...": {"..."},
	"test":     {"..."},
}

const module = "roost"

// source is one Go file of ours.
type source struct {
	path string // from the root of the tree
	pkg  string // directory, "main" for the root
	test bool
	file *ast.File
	set  *token.FileSet
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	root := ".."
	walk := func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "out" || isModule(p)) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, root+"/"))
		pkg := path.Dir(rel)
		if pkg == "." {
			pkg = "main"
		}
		all = append(all, source{path: rel, pkg: pkg, test: strings.HasSuffix(name, "_test.go"), file: f, set: set})
		return nil
	}
	if err := filepath.WalkDir(root, walk); err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("found no source")
	}
	return all
}

// isModule reports whether a directory below the root is a Go module of its own (tools and stubs).
func isModule(dir string) bool {
	found, err := filepath.Glob(filepath.Join(dir, "go.mod"))
	return err == nil && len(found) > 0
}

// TestRooms checks that imports between our packages point the way the rooms allow.
func TestRooms(t *testing.T) {
	for _, s := range sources(t) {
		allowed, ok := rule(s.pkg)
		if !ok {
			t.Errorf("%s: package %s has no room; add it to mayImport or put the file where it belongs", s.path, s.pkg)
			continue
		}
		for _, spec := range s.file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			target, ours := strings.CutPrefix(name, module+"/")
			fake := strings.HasSuffix(s.pkg, "test")
			if !ours || target == s.pkg || (s.test || fake) && testMay(s.pkg, target) {
				continue
			}
			if !slices.ContainsFunc(allowed, func(a string) bool { return covers(a, target) }) {
				t.Errorf("%s: package %s may not import %s", s.path, s.pkg, target)
			}
		}
	}
}

// testMay allows a test the fakes and corpora of other packages (xxxtest beside xxx), and key sets to sign with.
func testMay(pkg, target string) bool {
	return strings.HasSuffix(target, "test") || target == "images/keys" || strings.HasPrefix(target, pkg+"/")
}

// rule finds the entry of a package: its own, or the longest /... above it.
func rule(pkg string) ([]string, bool) {
	if parent, fake := strings.CutSuffix(pkg, "/"+path.Base(path.Dir(pkg))+"test"); fake {
		allowed, ok := rule(parent) // a fake beside what it fakes
		return append([]string{parent}, allowed...), ok
	}
	if r, ok := mayImport[pkg]; ok {
		return r, true
	}
	for dir := pkg; dir != "."; dir = path.Dir(dir) {
		if r, ok := mayImport[dir+"/..."]; ok {
			return r, true
		}
	}
	return nil, false
}

func covers(pattern, pkg string) bool {
	prefix, all := strings.CutSuffix(pattern, "...")
	if !all {
		return pattern == pkg
	}
	return strings.HasPrefix(pkg+"/", prefix)
}

// TestRoomsRule plants violations, so that a rule that stopped working is seen.
func TestRoomsRule(t *testing.T) {
	for _, test := range []struct {
		pkg, target string
		want        bool
	}{
		{"images", "builder", false},
		{"images/disk", "updater/slot", false},
		{"updater/slot", "images/disk", true},
		{"appliance/host", "appliance/software", false},
		{"appliance/initrd", "appliance/store", false},
		{"pxe/dhcp", "pxe/lease", true},
		{"pxe", "appliance/api", false},
		{"updater/boot/boottest", "updater/boot", true},
		{"updater/boot/boottest", "appliance/api", false},
		{"main", "pxe", true},
	} {
		allowed, ok := rule(test.pkg)
		if !ok {
			t.Fatalf("no rule for %s", test.pkg)
		}
		if got := slices.ContainsFunc(allowed, func(a string) bool { return covers(a, test.target) }); got != test.want {
			t.Errorf("%s may import %s: %v, want %v", test.pkg, test.target, got, test.want)
		}
	}
}

// Limits measured in the code bases we hold up as models.
const (
	maxFunctionLines = 120
	p90FunctionLines = 40
	maxFileLines     = 800
	maxExported      = 50
	maxChain         = 8
)

// TestBudget checks sizes: functions, files, exported names.
func TestBudget(t *testing.T) {
	exported := map[string]int{}
	var lengths []int
	for _, s := range sources(t) {
		line := func(p token.Pos) int { return s.set.Position(p).Line }
		if n := line(s.file.FileEnd); n > maxFileLines {
			t.Errorf("%s: %d lines, at most %d", s.path, n, maxFileLines)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok {
				n := line(f.End()) - line(f.Pos()) + 1
				if !s.test {
					lengths = append(lengths, n)
				}
				if n > maxFunctionLines {
					t.Errorf("%s: function %s has %d lines, at most %d", s.path, f.Name.Name, n, maxFunctionLines)
				}
			}
			if !s.test {
				exported[s.pkg] += exportedNames(d)
			}
		}
	}
	for pkg, n := range exported {
		if n > maxExported {
			t.Errorf("package %s exports %d names, at most %d", pkg, n, maxExported)
		}
	}
	sort.Ints(lengths)
	if p90 := lengths[len(lengths)*9/10]; p90 > p90FunctionLines {
		t.Errorf("nine of ten functions have up to %d lines, at most %d", p90, p90FunctionLines)
	}
}

// exportedNames counts top-level exported names; constants of one block that share a type count once, methods not.
func exportedNames(d ast.Decl) int {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil && d.Name.IsExported() {
			return 1
		}
	case *ast.GenDecl:
		n := 0
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					n++
				}
			case *ast.ValueSpec:
				if d.Tok == token.VAR && spec.Names[0].IsExported() {
					n += len(spec.Names)
				}
			}
		}
		if d.Tok == token.CONST && n == 0 && len(d.Specs) > 0 && anyExported(d) {
			n = 1
		}
		return n
	}
	return 0
}

func anyExported(d *ast.GenDecl) bool {
	return slices.ContainsFunc(d.Specs, func(s ast.Spec) bool {
		v, ok := s.(*ast.ValueSpec)
		return ok && slices.ContainsFunc(v.Names, func(n *ast.Ident) bool { return n.IsExported() })
	})
}

// TestNoInit refuses init functions and drawers without a subject.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init function; wire by hand in one visible order", s.path)
			}
		}
		for _, drawer := range []string{"util", "utils", "common", "helpers", "types", "base", "misc"} {
			if path.Base(s.pkg) == drawer {
				t.Errorf("%s: a package named %s has no subject", s.path, drawer)
			}
		}
	}
}

// TestChain checks that the longest import path inside the module stays short.
func TestChain(t *testing.T) {
	imports := map[string][]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		imports[s.pkg] = append(imports[s.pkg], "")
		for _, spec := range s.file.Imports {
			if target, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module+"/"); ours {
				imports[s.pkg] = append(imports[s.pkg], target)
			}
		}
	}
	depth := map[string]int{}
	var measure func(pkg string) int
	measure = func(pkg string) int {
		if d, ok := depth[pkg]; ok || pkg == "" {
			return d
		}
		d := 0
		for _, target := range imports[pkg] {
			d = max(d, measure(target))
		}
		depth[pkg] = d + 1
		return d + 1
	}
	for pkg := range imports {
		if d := measure(pkg); d > maxChain {
			t.Errorf("import chain of %s is %d long, at most %d", pkg, d, maxChain)
		}
	}
}
