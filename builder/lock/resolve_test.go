package lock

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"roost/builder/deb"
	"roost/builder/recipe"
	"roost/images"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected results in testdata/resolve")

// TestResolve runs the archives in testdata/resolve. Each holds recipes with recipe.yaml on top, one index per suite as
// "suite NAME" in which fields that do not matter are left out, and the expected "result": groups and packages, or the
// error.
func TestResolve(t *testing.T) {
	files, err := filepath.Glob("testdata/resolve/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatalf("found %d archives: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fsys, index := fstest.MapFS{}, &Index{}
			var result *txtar.File
			for i := range archive.Files {
				f := &archive.Files[i]
				suite, isSuite := strings.CutPrefix(f.Name, "suite ")
				switch {
				case isSuite:
					index.Suites = append(index.Suites, IndexSuite{suite, time.Unix(1e9+int64(i), 0), images.DigestOf(f.Data), shortIndex(t, suite, f.Data)})
				case f.Name == "result":
					result = f
				default:
					fsys[f.Name] = &fstest.MapFile{Data: f.Data}
				}
			}
			r, err := recipe.Loader{FS: fsys}.Load("recipe.yaml")
			if err != nil {
				t.Fatal(err)
			}
			l, err := Resolve(context.Background(), r, index, nil)
			got := ""
			if err != nil {
				got = err.Error() + "\n"
			} else {
				got = show(l)
				if err := sound(r, index, l); err != nil {
					t.Errorf("the result is wrong: %v", err)
				}
			}
			if *rewrite {
				result.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(result.Data); got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

// shortIndex reads paragraphs that state only what matters and fills in the rest.
func shortIndex(t testing.TB, suite string, text []byte) []deb.Package {
	t.Helper()
	var full strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(paragraph, "Package: "), "\n")
		full.WriteString(paragraph + "\n")
		for field, value := range map[string]string{
			"Version": "1", "Architecture": "amd64", "Filename": "pool/main/x/" + name + ".deb", "Size": "1000", "Installed-Size": "3",
			"SHA256": images.DigestOf([]byte(paragraph)).Hex(), "Priority": "optional",
		} {
			if !strings.Contains("\n"+paragraph, "\n"+field+": ") {
				full.WriteString(field + ": " + value + "\n")
			}
		}
		full.WriteString("\n")
	}
	var list []deb.Package
	for p, err := range deb.Packages(strings.NewReader(full.String())) {
		if err != nil {
			t.Fatal(err)
		}
		p.Suite = suite
		list = append(list, p)
	}
	return list
}

func show(l *Lock) string {
	var b strings.Builder
	for _, g := range l.Groups {
		fmt.Fprintf(&b, "%s:", g.Name)
		for _, p := range g.Packages {
			fmt.Fprintf(&b, " %s=%s/%s", p.Name, p.Version, p.Suite)
		}
		b.WriteString("\n")
	}
	if l.Kernel != "" {
		fmt.Fprintf(&b, "boots %s\n", l.Kernel)
	}
	return b.String()
}

// sound checks a lock against the index by the plain meaning of the fields, without the solver: every relation of every
// package holds, every wish is there, and groups hold what their packages need.
func sound(r *recipe.Recipe, index *Index, l *Lock) error {
	u, err := newUniverse(r, index, nil)
	if err != nil {
		return err
	}
	there := map[string]int{}
	for i, g := range l.Groups {
		for _, p := range g.Packages {
			there[p.Name] = i + 1
		}
	}
	for _, w := range r.Packages {
		if there[w.Name] == 0 {
			return fmt.Errorf("%s is wanted and not there", w.Name)
		}
	}
	for i, g := range l.Groups {
		for _, p := range g.Packages {
			c := u.candidate(p.Name)
			if c == nil || c.Version != p.Version {
				return fmt.Errorf("%s %s is not the candidate", p.Name, p.Version)
			}
			needs, err := u.dependencies(c)
			if err != nil {
				return err
			}
			for _, d := range needs {
				if !slices.ContainsFunc(d.solutions, func(s *deb.Package) bool { return there[s.Name] > 0 && there[s.Name] <= i+1 }) {
					return fmt.Errorf("%s lacks %s in its group or below", p.Name, deb.Relations{d.relations})
				}
			}
			clashes, err := u.clashes(c)
			if err != nil {
				return err
			}
			for _, c := range clashes {
				if there[c.victim.Name] > 0 {
					return fmt.Errorf("%s %s %s", p.Name, c.verb, c.victim.Name)
				}
			}
		}
	}
	return nil
}

// TestRandom resolves small random worlds, full of alternatives and clashes, and compares with trying every subset of
// packages.
func TestRandom(t *testing.T) {
	solvable := 0
	const worlds = 3000
	for seed := range uint64(worlds) {
		random := rand.New(rand.NewPCG(seed, 7))
		n := 4 + random.IntN(8)
		pick := func() string { return fmt.Sprintf("p%d", random.IntN(n)) }
		var text bytes.Buffer
		for i := range n {
			fmt.Fprintf(&text, "Package: p%d\nVersion: %d\n", i, 1+random.IntN(3))
			var depends []string
			for range random.IntN(3) {
				var alternatives []string
				for range 1 + random.IntN(3) {
					a := pick()
					if random.IntN(4) == 0 {
						a += fmt.Sprintf(" (>= %d)", 1+random.IntN(3))
					}
					alternatives = append(alternatives, a)
				}
				depends = append(depends, strings.Join(alternatives, " | "))
			}
			if len(depends) > 0 {
				fmt.Fprintf(&text, "Depends: %s\n", strings.Join(depends, ", "))
			}
			if random.IntN(2) == 0 {
				fmt.Fprintf(&text, "Conflicts: %s\n", pick())
			}
			if random.IntN(3) == 0 {
				fmt.Fprintf(&text, "Breaks: %s (<< %d)\n", pick(), 2+random.IntN(2))
			}
			text.WriteString("\n")
		}
		index := &Index{Suites: []IndexSuite{{"trixie", time.Unix(1, 0), images.DigestOf(nil), shortIndex(t, "trixie", text.Bytes())}}}
		r := wishFor("none", []string{"p0", "p1"})
		r.Base.Suites = r.Base.Suites[:1]
		l, err := Resolve(context.Background(), r, index, nil)
		var conflict *Conflict
		switch possible := bruteForce(t, r, index, n); {
		case err == nil:
			solvable++
			if err := sound(r, index, l); err != nil || !possible {
				t.Fatalf("seed %d: %v, brute force says %v:\n%s%s", seed, err, possible, text.String(), show(l))
			}
		case !errors.As(err, &conflict) || possible:
			t.Fatalf("seed %d: %v, brute force says %v:\n%s", seed, err, possible, text.String())
		default:
			checkCore(t, r, index, len(conflict.Facts))
		}
	}
	if solvable < worlds/10 || solvable > worlds*9/10 {
		t.Errorf("%d of %d worlds have a solution: they do not test both answers", solvable, worlds)
	}
}

// checkCore resolves again and checks the facts behind an explanation: together they cannot hold, but without any one of
// them they can.
func checkCore(t *testing.T, r *recipe.Recipe, index *Index, told int) {
	t.Helper()
	u, err := newUniverse(r, index, nil)
	if err != nil {
		t.Fatal(err)
	}
	wishes, _, err := u.wishes()
	if err != nil {
		t.Fatal(err)
	}
	g := newGraph(u)
	g.want(wishes)
	core, ok := g.solver.solve()
	if ok || satisfiable(g.facts, core) {
		t.Fatalf("the solver's core of %d facts explains nothing", len(core))
	}
	core = minimal(g.facts, core)
	for i := range core {
		if !satisfiable(g.facts, slices.Delete(slices.Clone(core), i, i+1)) {
			t.Fatalf("fact %d of %d is superfluous", i, len(core))
		}
	}
	if told == 0 || satisfiable(g.facts, core) {
		t.Fatalf("the explanation of %d facts explains nothing", told)
	}
}

// bruteForce reports whether any set of packages fulfils the wishes for p0 and p1.
func bruteForce(t *testing.T, r *recipe.Recipe, index *Index, n int) bool {
	u, err := newUniverse(r, index, nil)
	if err != nil {
		t.Fatal(err)
	}
	number := map[string]int{}
	for i := range n {
		number[index.Suites[0].Packages[i].Name] = i
	}
	needs, clashing := make([][]int, n), make([]int, n)
	for i := range n {
		p := &index.Suites[0].Packages[i]
		dependencies, err := u.dependencies(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dependencies {
			mask := 0
			for _, s := range d.solutions {
				mask |= 1 << number[s.Name]
			}
			needs[i] = append(needs[i], mask)
		}
		clashes, err := u.clashes(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range clashes {
			clashing[i] |= 1 << number[c.victim.Name]
		}
	}
	for set := 3; set < 1<<n; set++ {
		good := set&3 == 3
		for i := 0; i < n && good; i++ {
			if set&(1<<i) != 0 {
				good = set&clashing[i] == 0 && !slices.ContainsFunc(needs[i], func(mask int) bool { return set&mask == 0 })
			}
		}
		if good {
			return true
		}
	}
	return false
}

// TestMinimalConflict checks that an explanation holds nothing superfluous: a long chain of innocent packages stays out.
func TestMinimalConflict(t *testing.T) {
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "Package: ok%d\nDepends: ok%d | other\n\n", i, i+1)
	}
	text.WriteString("Package: ok50\n\nPackage: other\n\nPackage: aa\nDepends: lib (>= 2)\n\nPackage: lib\nVersion: 2\n\nPackage: zz\nBreaks: lib (>= 2)\n")
	index := &Index{Suites: []IndexSuite{{"trixie", time.Unix(1, 0), images.DigestOf(nil), shortIndex(t, "trixie", []byte(text.String()))}}}
	r := wishFor("none", []string{"ok0", "zz", "aa"})
	r.Base.Suites = r.Base.Suites[:1]
	_, err := Resolve(context.Background(), r, index, nil)
	var conflict *Conflict
	if !errors.As(err, &conflict) {
		t.Fatalf("not a conflict: %v", err)
	}
	want := []string{
		"top:2:3: zz 1 (trixie) is wanted",
		"top:3:3: aa 1 (trixie) is wanted",
		"aa 1 (trixie) depends on lib (>= 2), which only lib 2 (trixie) satisfies",
		"zz 1 (trixie) breaks lib (>= 2), which lib 2 (trixie) is",
	}
	if !slices.Equal(conflict.Facts, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(conflict.Facts, "\n"), strings.Join(want, "\n"))
	}
}

// TestKeep changes a recipe after the archive moved on: locked versions stay, unless they cannot.
func TestKeep(t *testing.T) {
	old := shortIndex(t, "trixie", []byte("Package: app\nDepends: lib\n\nPackage: lib\n"))
	updates := shortIndex(t, "trixie-updates", []byte("Package: lib\nVersion: 2\n\nPackage: tool\nDepends: lib (>= 2)\n\nPackage: leaf\n"))
	both := &Index{Suites: []IndexSuite{{"trixie", time.Unix(1, 0), images.DigestOf(nil), old}, {"trixie-updates", time.Unix(2, 0), images.DigestOf(nil), updates}}}
	before := &Index{Suites: []IndexSuite{both.Suites[0], {"trixie-updates", time.Unix(1, 0), images.DigestOf(nil), nil}}}
	resolve := func(index *Index, keep *Lock, packages ...string) *Lock {
		t.Helper()
		r := wishFor("none", packages)
		r.Base.Suites = r.Base.Suites[:2]
		l, err := Resolve(context.Background(), r, index, keep)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := resolve(before, nil, "app")
	for _, c := range []struct {
		packages []string
		keep     *Lock
		want     string
	}{
		{[]string{"app"}, nil, "app=1 lib=2"},
		{[]string{"app"}, first, "app=1 lib=1"},
		{[]string{"app", "leaf"}, first, "app=1 leaf=1 lib=1"},
		{[]string{"app", "tool"}, first, "app=1 lib=2 tool=1"}, // the kept lib has no room beside tool
	} {
		if got := strings.Join(names(resolve(both, c.keep, c.packages...)), " "); got != c.want {
			t.Errorf("%v keeping %v: %s, want %s", c.packages, c.keep != nil, got, c.want)
		}
	}
	kernels := &Index{Suites: []IndexSuite{{"trixie", time.Unix(1, 0), images.DigestOf(nil), shortIndex(t, "trixie", []byte(
		"Package: linux-image-amd64\nDepends: linux-image-6.2-amd64\n\nPackage: linux-image-6.2-amd64\n\nPackage: linux-image-6.1-amd64\n\nPackage: linux-image-6.1-rt-amd64\n"))}}}
	for locked, want := range map[string]string{"": "linux-image-6.2-amd64", "linux-image-6.1-amd64": "linux-image-6.1-amd64", "linux-image-6.0-amd64": "linux-image-6.2-amd64", "linux-image-6.1-rt-amd64": "linux-image-6.2-amd64"} {
		r := wishFor("none", nil)
		r.Base.Suites, r.Kernel.Flavour = r.Base.Suites[:1], "standard"
		if l, err := Resolve(context.Background(), r, kernels, &Lock{Kernel: locked}); err != nil || l.Kernel != want {
			t.Errorf("keeping kernel %q: %+v, %v, want %s", locked, l, err, want)
		}
	}
	if l := resolve(both, first, "app"); l.Epoch != 2 || l.SourceDate().Unix() != 2 {
		t.Errorf("epoch %d, want that of the newest suite", l.Epoch)
	}
}

// FuzzResolve resolves whatever an index may say: it ends with a sound lock or an error that is no panic.
func FuzzResolve(f *testing.F) {
	files, _ := filepath.Glob("testdata/resolve/*.txtar")
	for _, file := range files {
		if archive, err := txtar.ParseFile(file); err == nil {
			for _, part := range archive.Files {
				if strings.HasPrefix(part.Name, "suite ") {
					f.Add(string(part.Data))
				}
			}
		}
	}
	digest := images.DigestOf(nil)
	f.Fuzz(func(t *testing.T, text string) {
		suite := IndexSuite{Name: "trixie", Date: time.Unix(1, 0), InRelease: digest}
		for p := range deb.Packages(strings.NewReader(strings.ReplaceAll(text+"\n", "\n\n", "\nVersion: 1\nArchitecture: amd64\nFilename: pool/x.deb\nSize: 1\nSHA256: "+digest.Hex()+"\n\n"))) {
			if p.Name == "" || len(suite.Packages) > 200 {
				break
			}
			p.Suite = "trixie"
			suite.Packages = append(suite.Packages, p)
		}
		if len(suite.Packages) == 0 {
			return
		}
		index := &Index{Suites: []IndexSuite{suite}}
		r := wishFor("required", []string{suite.Packages[0].Name, suite.Packages[len(suite.Packages)/2].Name})
		r.Base.Suites = r.Base.Suites[:1]
		l, err := Resolve(context.Background(), r, index, nil)
		if err != nil {
			return
		}
		if err := sound(r, index, l); err != nil {
			t.Fatal(err)
		}
	})
}
