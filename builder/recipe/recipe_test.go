package recipe

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"roost/images"
)

const minimal = "name: edge\nversion: \"1\"\narchitecture: amd64\nbase: {suites: [{name: trixie, components: [main]}]}\n"

func load(t *testing.T, files map[string]string) *Recipe {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, data := range files {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		fsys[name] = &fstest.MapFile{Data: []byte(data), Mode: mode}
	}
	r, err := Loader{FS: fsys}.Load("recipe.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestDocumented loads the recipe printed in the package documentation, so that the manual cannot go stale.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "// # Fields\n//\n")
	text, _, _ = strings.Cut(text, "//\n// A template has")
	text = strings.ReplaceAll(strings.TrimPrefix(text, "//\t"), "\n//\t", "\n")
	r := load(t, map[string]string{
		"recipe.yaml":          strings.Replace(text, "{package: podman, suite: trixie-backports}", "{package: podman, suite: trixie}", 1),
		"files/roost/a":        "A",
		"files/roost/bin/b.sh": "B",
		"keys/vendor.pub":      "K",
	})
	if r.Name != "edge" || len(r.Programs) != 4 || len(r.Containers) != 4 || len(r.Files) != 8 || r.Slot.Root != 8*GiB || r.Kernel.Flavour != "standard" {
		t.Errorf("read as %+v", r)
	}
}

// TestComponents reads what a component declares, and what of it a lock depends on.
func TestComponents(t *testing.T) {
	files := map[string]string{"recipe.yaml": minimal + "include: [parts/tool.yaml]\n", "parts/tool.pub": "K", "parts/tool.yaml": `
component: {name: tool, of: tool}
packages: [socat]
programs:
  - {name: tool, modules: [{path: a.org/m, version: v1.0.0, nested: v0.1.0}], commands: [a.org/m/cmd/x, a.org/m/y], stamps: {a.org/m.V: v1}, target: /usr/sbin/tool}
  - {name: pause, main: "package main\nfunc main() {}\n"}
oci:
  - {name: "r.local/pause:1", program: pause, user: "1:2"}
  - {name: "r.local/own:1", from: "oci:own:1"}
  - {name: "r.local/far:1", from: "docker://far.org/f:1", signedBy: tool.pub}
state:
  - {path: /var/lib/tool, mode: 0700, owner: tool, rollback: drop}
ports:
  - {port: 80, unit: tool.service}
files:
  - {path: /etc/tool, template: "{{hostname}}"}
`}
	r := load(t, files)
	if len(r.Components) != 1 || r.Components[0].Layer != "parts/tool.yaml" || r.Components[0].Of != "tool" {
		t.Errorf("components: %+v", r.Components)
	}
	if got := r.Programs[0].Links(); !reflect.DeepEqual(got, []string{"/usr/sbin/x", "/usr/sbin/y"}) {
		t.Errorf("links: %v", got)
	}
	if got := r.Containers; got[0].User != "1:2" || got[1].From != "oci:parts/own:1" || string(got[2].SignedBy) != "K" {
		t.Errorf("containers: %+v", got)
	}
	if got := r.Containers[0].File(); got != "/usr/lib/roost/containers/r.local_pause_1.tar" {
		t.Errorf("the image lies at %s", got)
	}
	if u := r.Units.Define[0]; u.Name != containersUnit || strings.Count(u.Content, "ExecStart=") != 3 || !reflect.DeepEqual(r.Units.Enable, []string{containersUnit}) {
		t.Errorf("units: %+v", r.Units)
	}
	if s := r.State[0]; s.Mode != 0o700 || s.Group != "tool" || s.Rollback != RollbackDrop {
		t.Errorf("state: %+v", s)
	}
	if p := r.Ports[0]; p.Number != 80 || p.Protocol != "tcp" || p.Unit != "tool.service" {
		t.Errorf("port: %+v", p)
	}
	if !r.Files[0].Template || string(r.Files[0].Content) != "{{hostname}}" {
		t.Errorf("file: %+v", r.Files[0])
	}
	for _, test := range []struct {
		old, new     string
		wants, whole bool // which digest must change
	}{
		{"v1.0.0", "v1.0.1", true, true},
		{"v0.1.0", "v0.1.1", true, true},
		{"a.org/m/y", "a.org/m/z", true, true},
		{"oci:own:1", "oci:own:2", true, true},
		{"a.org/m.V: v1", "a.org/m.V: v2", false, true},
		{"rollback: drop", "rollback: keep", false, true},
		{"port: 80", "port: 81", false, true},
		{"\"1:2\"", "\"1:3\"", false, true},
		{"{{hostname}}", "{{address}}", false, true},
	} {
		changed := map[string]string{}
		for name, text := range files {
			changed[name] = strings.Replace(text, test.old, test.new, 1)
		}
		next := load(t, changed)
		if wants, whole := next.WantsDigest() != r.WantsDigest(), next.Digest() != r.Digest(); wants != test.wants || whole != test.whole {
			t.Errorf("%s for %s: wants changed %v, recipe changed %v", test.new, test.old, wants, whole)
		}
	}
}

func TestDefaults(t *testing.T) {
	r := load(t, map[string]string{"recipe.yaml": minimal})
	want := &Recipe{
		Name: "edge", Version: "1", Architecture: "amd64",
		Base:   Base{"debian", "required", []Suite{{"trixie", "debian", []string{"main"}, 500}}},
		Slot:   Slot{8 * GiB, 96 * MiB, GiB},
		Needs:  Needs{2 * GiB},
		Update: Update{Tries: 2, GateSeconds: 300},
		source: "recipe.yaml",
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
}

// TestLayers merges a diamond: both parts include base, which counts once and lies lowest.
func TestLayers(t *testing.T) {
	r := load(t, map[string]string{
		"recipe.yaml": "include: [parts/a.yaml, parts/b.yaml]\nversion: 2.10\npackages: [dash, top, both=2]\nunits: {enable: [m.service]}\n" +
			"sysctl: {a.b: 3}\nupdate: {tries: 3}\nfiles: [{path: /etc/x, content: top}]\ngates: [{name: g, kind: units}]\n",
		"parts/base.yaml": minimal + "packages: [bash, both]\nkernel: {flavour: cloud, arguments: [quiet]}\nfiles: [{path: /etc/y, content: base}]\n",
		"parts/a.yaml": "include: base.yaml\npackages: [dash]\nunits: {mask: [m.service], enable: [n.service]}\nsysctl: {a.b: 1, c.d: 2}\n" +
			"files: [{path: /etc/x, source: a.sh}]\nprograms: [{name: p, directory: src, package: ., target: /usr/bin/p}]\n",
		"parts/a.sh":   "echo a\n",
		"parts/b.yaml": "include: base.yaml\nkernel: {flavour: standard, arguments: [ro]}\nupdate: {gateSeconds: 60}\ngates: [{name: g, kind: controller}, {name: h, kind: units}]\n",
	})
	if want := []string{"parts/base.yaml", "parts/a.yaml", "recipe.yaml"}; !reflect.DeepEqual(r.Layers, want) {
		t.Errorf("layers %v, want %v", r.Layers, want)
	}
	var packages []string
	for _, p := range r.Packages {
		packages = append(packages, p.Name+"="+p.Version+"@"+r.Layers[p.Layer])
	}
	if got, want := strings.Join(packages, " "), "bash=@parts/base.yaml both=2@parts/base.yaml dash=@parts/a.yaml top=@recipe.yaml"; got != want {
		t.Errorf("packages %s, want %s", got, want)
	}
	checks := map[string][2]any{
		"version":   {r.Version, images.Version("2.10")},
		"flavour":   {r.Kernel.Flavour, "standard"},
		"arguments": {r.Kernel.Arguments, []string{"quiet", "ro"}},
		"units":     {r.Units, Units{Enable: []string{"m.service", "n.service"}, Disable: r.Units.Disable, Mask: []string{}}},
		"sysctl":    {[]string{r.Sysctl[0].Key, r.Sysctl[0].Value, r.Sysctl[1].Key}, []string{"a.b", "3", "c.d"}},
		"update":    {r.Update, Update{Tries: 3, GateSeconds: 60}},
		"files":     {[]string{r.Files[0].Path, string(r.Files[0].Content), string(r.Files[1].Content)}, []string{"/etc/x", "top", "base"}},
		"gates":     {r.Gates, []images.Gate{{Name: "g", Kind: "units"}, {Name: "h", Kind: "units"}}},
		"program":   {r.Programs[0].Directory, "parts/src"},
	}
	for name, c := range checks {
		if !reflect.DeepEqual(c[0], c[1]) {
			t.Errorf("%s: got %v, want %v", name, c[0], c[1])
		}
	}
	if at := r.Packages[3].At.String(); at != "recipe.yaml:3:18" {
		t.Errorf("package top stands at %s", at)
	}
}

func TestSource(t *testing.T) {
	r := load(t, map[string]string{
		"recipe.yaml":   minimal + "files:\n- {path: /opt/x, source: x, owner: \"7:8\"}\n- {path: /etc/run, source: x/run.sh}\n- {path: /etc/mode, source: x/run.sh, mode: 0600}\n",
		"x/a":           "A",
		"x/run.sh":      "R",
		"x/deep/down/b": "B",
	})
	var got []string
	for _, f := range r.Files {
		kind := "file"
		if f.Directory {
			kind = "directory"
		}
		got = append(got, strings.Join([]string{f.Path, kind, os.FileMode(f.Mode).String(), f.Owner, f.Group, string(f.Content)}, " "))
	}
	want := []string{
		"/etc/mode file -rw------- root root R",
		"/etc/run file -rwxr-xr-x root root R",
		"/opt/x directory -rwxr-xr-x 7 8 ",
		"/opt/x/a file -rw-r--r-- 7 8 A",
		"/opt/x/deep directory -rwxr-xr-x 7 8 ",
		"/opt/x/deep/down directory -rwxr-xr-x 7 8 ",
		"/opt/x/deep/down/b file -rw-r--r-- 7 8 B",
		"/opt/x/run.sh file -rwxr-xr-x 7 8 R",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestHost loads from the host's file system, by relative and absolute name and from beside the working directory.
func TestHost(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"r/recipe.yaml": "include: [../common/base.yaml, \"roost:base.yaml\"]\npackages: [bash]\n", "common/base.yaml": minimal} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shipped := fstest.MapFS{"base.yaml": {Data: []byte("include: parts/x.yaml\n")}, "parts/x.yaml": {Data: []byte("packages: [dash]\n")}}
	t.Chdir(dir)
	var digests []images.Digest
	for _, name := range []string{"r/recipe.yaml", filepath.Join(dir, "r/recipe.yaml")} {
		r, err := Loader{Shipped: shipped}.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"roost:parts/x.yaml", "recipe.yaml"}; !reflect.DeepEqual(r.Layers, want) {
			t.Errorf("layers %v, want %v", r.Layers, want)
		}
		if r.Source() != name {
			t.Errorf("source %s, want %s", r.Source(), name)
		}
		digests = append(digests, r.Digest())
	}
	if digests[0] != digests[1] {
		t.Error("the digest depends on how the recipe was named")
	}
	for name, want := range map[string]string{"r/none.yaml": "no such file", "r": "it is a directory", "roost:none.yaml": "does not exist"} {
		if _, err := (Loader{Shipped: shipped}).Load(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestDigests changes one thing at a time and states which digests must notice.
func TestDigests(t *testing.T) {
	base := load(t, map[string]string{"recipe.yaml": minimal + "packages: [bash]\nfiles: [{path: /etc/a, source: a}]\n", "a": "1"})
	for _, c := range []struct {
		name, yaml, a string
		whole, wants  bool
	}{
		{"comment", "# new\n" + minimal + "packages:\n  - bash # shell\nfiles: [{path: /etc/a, source: a}]\n", "1", false, false},
		{"source content", minimal + "packages: [bash]\nfiles: [{path: /etc/a, source: a}]\n", "2", true, false},
		{"release version", strings.Replace(minimal, `"1"`, `"2"`, 1) + "packages: [bash]\nfiles: [{path: /etc/a, source: a}]\n", "1", true, false},
		{"package", minimal + "packages: [bash, dash]\nfiles: [{path: /etc/a, source: a}]\n", "1", true, true},
		{"pin", minimal + "packages: [bash]\npins: [{package: bash, version: \"5*\"}]\nfiles: [{path: /etc/a, source: a}]\n", "1", true, true},
		{"kernel", minimal + "packages: [bash]\nkernel: {flavour: cloud}\nfiles: [{path: /etc/a, source: a}]\n", "1", true, true},
		{"module rule", minimal + "packages: [bash]\nkernel: {modules: [{drop: x}]}\nfiles: [{path: /etc/a, source: a}]\n", "1", true, false},
	} {
		r := load(t, map[string]string{"recipe.yaml": c.yaml, "a": c.a})
		if got := r.Digest() != base.Digest(); got != c.whole {
			t.Errorf("%s: digest changed: %v, want %v", c.name, got, c.whole)
		}
		if got := r.WantsDigest() != base.WantsDigest(); got != c.wants {
			t.Errorf("%s: digest of wants changed: %v, want %v", c.name, got, c.wants)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{"1KiB": 1 << 10, "96MiB": 96 << 20, "8GiB": 8 << 30, "2TiB": 2 << 40, "0KiB": 0} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", s, got, err, want)
		}
	}
	for s, fix := range map[string]string{
		"": "whole number", "8": "whole number", "-1GiB": "whole number", "8G": `"8GiB"`, "8gb": `"8GiB"`, "8 GiB": `"8GiB"`, "8XiB": "whole number",
		"99999999999999999999GiB": "whole number", "9999999999GiB": "any disk", "0x10MiB": "whole number",
	} {
		if got, err := ParseSize(s); err == nil || !strings.Contains(err.Error(), fix) {
			t.Errorf("%q: %d, %v; want an error with %s", s, got, err, fix)
		}
	}
	for size, want := range map[Size]string{8 * GiB: "8GiB", 1536 * MiB: "1536MiB", 1: "1B", 2 * TiB: "2TiB", 0: "0B"} {
		if got := size.String(); got != want {
			t.Errorf("%d prints as %s, want %s", size, got, want)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, file string
		want          bool
	}{
		{"/usr/share/doc", "/usr/share/doc", true},
		{"/usr/share/doc", "/usr/share/doc/a/b", true},
		{"/usr/share/doc", "/usr/share/docs", false},
		{"/usr/share/doc/**", "/usr/share/doc", false},
		{"/usr/share/doc/**", "/usr/share/doc/a/b", true},
		{"/usr/share/doc/*/copyright", "/usr/share/doc/bash/copyright", true},
		{"/usr/share/doc/*/copyright", "/usr/share/doc/a/b/copyright", false},
		{"/usr/**/copyright", "/usr/share/doc/a/b/copyright", true},
		{"/usr/**/copyright", "/usr/copyright", true},
		{"/usr/**/x/**/y", "/usr/a/x/b/x/c/y", true},
		{"/usr/**/x/**/y", "/usr/a/x/b/x/c/z", false},
		{"**/virtio_*.ko*", "kernel/drivers/net/virtio_net.ko.xz", true},
		{"**", "a", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"*a*b", "xxaxxbxxb", true},
		{"*a*b", "xxaxxbxxbc", false},
		{"/a", "/", false},
	} {
		if got := Match(c.pattern, c.file); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.file, got)
		}
	}
}

func TestDecide(t *testing.T) {
	rules := []Rule{{false, "/usr/share/doc/**"}, {true, "/usr/share/doc/*/copyright"}, {false, "/usr/share/doc/x/**"}}
	for file, want := range map[string]bool{"/usr/bin/a": true, "/usr/share/doc/a/README": false, "/usr/share/doc/a/copyright": true, "/usr/share/doc/x/copyright": false} {
		if got := Decide(rules, file, true); got != want {
			t.Errorf("%s: keep %v", file, got)
		}
	}
	modules := []Rule{{true, "kernel/drivers/gpu/drm/*.ko"}, {true, "virtio-*"}, {true, "kernel/fs/**"}, {false, "kernel/fs/ntfs3/**"}, {false, "virtio_gpu"}}
	for file, want := range map[string]bool{
		"kernel/drivers/net/virtio_net.ko.xz": true, "kernel/drivers/virtio/virtio-rng.ko": true, "kernel/fs/ext4/ext4.ko.xz": true,
		"kernel/fs/ntfs3/ntfs3.ko.xz": false, "kernel/drivers/gpu/drm/virtio/virtio-gpu.ko.xz": false, "kernel/sound/soundcore.ko.xz": false,
		"kernel/drivers/gpu/drm/drm.ko.xz": true, "kernel/drivers/gpu/drm/drm.ko": true,
	} {
		if got := DecideModule(modules, file, false); got != want {
			t.Errorf("%s: keep %v", file, got)
		}
	}
}

// FuzzLoad feeds any bytes as a recipe: no input may panic, every refusal has a place, and what is accepted is stable.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(minimal))
	archives, _ := filepath.Glob("testdata/wrong/*.txtar")
	for _, a := range archives {
		if data, err := os.ReadFile(a); err == nil {
			_, text, _ := strings.Cut(string(data), "-- recipe.yaml --\n")
			text, _, _ = strings.Cut(text, "\n-- ")
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := Loader{FS: fstest.MapFS{"recipe.yaml": {Data: data}, "base.yaml": {Data: []byte(minimal)}}}
		r, err := l.Load("recipe.yaml")
		if err != nil {
			faults, ok := err.(Faults)
			if !ok || len(faults) == 0 || len(faults) > MaxFaults {
				t.Fatalf("not a list of faults: %v", err)
			}
			for _, f := range faults {
				if f.At.File == "" || f.At.Line < 1 || f.At.Column < 1 || f.At.Line > 2+strings.Count(string(data), "\n")+strings.Count(string(data), "\r") {
					t.Fatalf("no such place: %v", f)
				}
			}
			return
		}
		again, err := l.Load("recipe.yaml")
		if err != nil || again.Digest() != r.Digest() {
			t.Fatalf("read differently the second time: %v", err)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("/usr/**/x*", "/usr/a/xb")
	f.Fuzz(func(t *testing.T, pattern, file string) {
		if Match(pattern, file) && !Match("**/"+pattern, "a/"+file) {
			t.Errorf("%q matches %q, but not one level down behind **", pattern, file)
		}
	})
}
