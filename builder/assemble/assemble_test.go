package assemble

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
)

func TestPlainPackages(t *testing.T) {
	b := newBench(t).group("base", pkg{name: "late-alias", files: []tarFile{text("./lib/old-place", "x")}}, aliases,
		pkg{name: "a", files: []tarFile{text("./usr/share/a", "a"), hardlink("./usr/share/a2", "./usr/share/a"), folder("./srv/a/", 0o750, 7, 8)},
			members: map[string]string{"conffiles": "/etc/a.conf\n"}})
	r := b.build()
	for p, want := range map[string]string{
		"/usr/lib/old-place": "x",
		"/lib":               "-> usr/lib",
		"/usr/share/a2":      "a",
		"/srv/a":             "directory 0750 7:8",
		"/tmp":               "directory 1777 0:0",
		"/root":              "directory 0700 0:0",
		"/efi":               "directory 0755 0:0",
		"/etc/machine-id":    "",
		"/var":               "directory 0755 0:0",
		"/var/lib":           "nothing",
		"/etc/hosts":         hosts,
	} {
		if got := b.read(r.Tree, p); got != want {
			t.Errorf("%s is %q, want %q", p, got, want)
		}
	}
	var names []string
	for _, p := range r.Packages {
		names = append(names, p.Name+" "+p.Version+" "+strings.Join(p.Files, ","))
	}
	want := []string{"a 1 /usr/share/a,/usr/share/a2", "base-files 1 /bin,/etc/group,/etc/passwd,/lib,/lib64,/sbin,/usr/lib/os-release", "late-alias 1 /lib,/usr/lib/old-place"}
	if !slices.Equal(names, want) {
		t.Errorf("packages\n%s, want\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	status := b.read(r.Tree, databaseHome+"/status")
	if n := strings.Count(status, "Status: install ok installed\n"); n != 3 {
		t.Errorf("%d packages are installed in\n%s", n, status)
	}
}

func TestFileConflicts(t *testing.T) {
	one := pkg{name: "one", files: []tarFile{text("./usr/share/f", "1")}}
	two := pkg{name: "two", files: []tarFile{text("./usr/share/f", "2")}}
	same := pkg{name: "same", files: []tarFile{text("./usr/share/f", "1")}}
	replacer := two
	replacer.control = "Replaces: one (<< 2)\n"
	tooOld := two
	tooOld.control = "Replaces: one (<< 1)\n"
	for name, c := range map[string]struct {
		groups [][]pkg
		want   string // content, or the error's text
	}{
		"conflict":              {[][]pkg{{one, two}}, "cannot unpack two: /usr/share/f is also in one"},
		"across groups":         {[][]pkg{{one}, {two}}, "cannot unpack two: /usr/share/f is also in one"},
		"equal files":           {[][]pkg{{one, same}}, "1"},
		"replaces":              {[][]pkg{{one, replacer}}, "2"},
		"replaced comes second": {[][]pkg{{replacer, one}}, "2"},
		"replaces other":        {[][]pkg{{one, tooOld}}, "also in one"},
		"replaces across":       {[][]pkg{{one}, {replacer}}, "2"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t).group("base", aliases)
			for _, g := range c.groups {
				b.group("g", g...)
			}
			r, err := Tree(context.Background(), b.config)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = b.read(r.Tree, "/usr/share/f")
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			for _, p := range r.Packages {
				if p.Name == "one" && c.want == "2" && len(p.Files) != 0 {
					t.Errorf("package one still lists %v", p.Files)
				}
			}
		})
	}
}

func TestRebuilds(t *testing.T) {
	top := pkg{name: "top", files: []tarFile{text("./usr/share/top", "1")}}
	b := newBench(t).group("base", aliases).group("top", top)
	first := b.build()
	if got := strings.Join(b.events, "; "); got != "group assembled base; group assembled top" {
		t.Errorf("first build: %s", got)
	}

	b.events = nil
	if second := b.build(); second.Tree.Digest() != first.Tree.Digest() || len(second.Packages) != 2 {
		t.Error("an unchanged build gives something else")
	}
	if len(b.events) != 0 {
		t.Errorf("an unchanged build did: %v", b.events)
	}

	b.events = nil
	b.config.Lock.Groups = b.config.Lock.Groups[:1]
	top.version, top.files = "2", []tarFile{text("./usr/share/top", "2")}
	changed := b.group("top", top).build()
	if got := strings.Join(b.events, "; "); got != "group assembled top" {
		t.Errorf("build with a changed top: %s", got)
	}
	if got := b.read(changed.Tree, "/usr/share/top"); got != "2" {
		t.Errorf("the changed package brings %q", got)
	}

	b.events = nil
	b.config.Recipe.Sysctl = []recipe.Setting{{Key: "kernel.panic", Value: "3"}}
	edited := b.build()
	if len(b.events) != 0 {
		t.Errorf("a changed recipe line did: %v", b.events)
	}
	if got := b.read(edited.Tree, "/usr/lib/sysctl.d/60-roost.conf"); got != "kernel.panic = 3\n" {
		t.Errorf("sysctl file %q", got)
	}

	fresh := newBench(t).group("base", aliases).group("top", top)
	fresh.config.Recipe.Sysctl = b.config.Recipe.Sysctl
	if got := fresh.build(); got.Tree.Digest() != edited.Tree.Digest() {
		changed, removed := edited.Tree.Changes(got.Tree)
		t.Errorf("a build from nothing differs from the one with history: %v %v", changed, removed)
	}
}

func TestEdits(t *testing.T) {
	b := newBench(t)
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("elf"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.config.Programs = ready(Program{Target: "/usr/bin/roostd", Path: program})
	b.config.Files = []recipe.File{{Path: "/usr/lib/roost/release.json", Mode: 0o644, Content: []byte("{}")}}
	b.config.Recipe = &recipe.Recipe{
		Name: "small", Version: "1.0", Architecture: "amd64",
		Remove: []recipe.Rule{{Pattern: "/usr/share/doc"}, {Keep: true, Pattern: "/usr/share/doc/*/copyright"}},
		Groups: []recipe.Group{{Name: "team", GID: 2000}},
		Users:  []recipe.User{{Name: "ops", UID: 2001, Group: "ops", Groups: []string{"adm", "team"}, Home: "/var/lib/ops", Shell: "/bin/sh"}},
		Files: []recipe.File{{Path: "/usr/lib/sysusers.d/admin.conf", Content: []byte("# who\nu! admin 1000 \"The Operator\" /var/home/admin /bin/bash\ng late 1001\nu ranged 1002:late -\nm admin adm\nr - 500-900\n")}, {Path: "/etc/motd", Mode: 0o640, Owner: "ops", Group: "team", Content: []byte("hello\n")},
			{Path: "/etc/localtime", Link: "../usr/share/zoneinfo/UTC"}, {Path: "/srv/data", Mode: 0o750, Directory: true}},
		Units: recipe.Units{
			Enable: []string{"a.service", "tick@one.timer"}, Disable: []string{"b.service"}, Mask: []string{"c.service"},
			Define: []recipe.UnitFile{{Name: "a.service", Content: "[Service]\nExecStart=/a\n[Install]\nWantedBy=multi-user.target\nAlias=first.service\nAlso=a.socket\n"},
				{Name: "a.socket", Content: "[Install]\nRequiredBy=sockets.target\n"}, {Name: "tick@.timer", Content: "[Install]\nWantedBy=timers.target\n"}},
		},
	}
	b.group("base", aliases, pkg{name: "p", files: []tarFile{text("./usr/share/doc/p/README", "r"), text("./usr/share/doc/p/copyright", "c"),
		text("./usr/lib/systemd/system/b.service", "[Install]\nWantedBy=multi-user.target\nAlias=bee.service\n"),
		symlink("./etc/systemd/system/multi-user.target.wants/b.service", "/usr/lib/systemd/system/b.service"), symlink("./etc/systemd/system/bee.service", "/usr/lib/systemd/system/b.service")}})
	r := b.build()
	for p, want := range map[string]string{
		"/usr/share/doc/p/README":     "nothing",
		"/usr/share/doc/p/copyright":  "c",
		"/usr/bin/roostd":             "elf",
		"/usr/lib/roost/release.json": "{}",
		"/etc/motd":                   "hello\n",
		"/etc/localtime":              "-> ../usr/share/zoneinfo/UTC",
		"/srv/data":                   "directory 0750 0:0",
		"/etc/systemd/system/multi-user.target.wants/a.service":  "-> /usr/lib/systemd/system/a.service",
		"/etc/systemd/system/first.service":                      "-> /usr/lib/systemd/system/a.service",
		"/etc/systemd/system/sockets.target.requires/a.socket":   "-> /usr/lib/systemd/system/a.socket",
		"/etc/systemd/system/timers.target.wants/tick@one.timer": "-> /usr/lib/systemd/system/tick@.timer",
		"/etc/systemd/system/multi-user.target.wants/b.service":  "nothing",
		"/etc/systemd/system/bee.service":                        "nothing",
		"/etc/systemd/system/c.service":                          "-> /dev/null",
		"/usr/lib/systemd/system-preset/00-roost.preset":         "# What this image enables. Made by the image builder.\nenable a.service\nenable a.socket\nenable tick@.timer one\ndisable *\n",
		"/usr/lib/os-release":                                    "ID=roost\nID_LIKE=debian\nNAME=\"Roost\"\nPRETTY_NAME=\"Roost small 1.0\"\nIMAGE_ID=roost-small\nIMAGE_VERSION=1.0\nVERSION_ID=1.0\nVERSION=1.0\nVERSION_CODENAME=trixie\n",
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\nops:x:2001:2001::/var/lib/ops:/bin/sh\n" +
			"admin:x:1000:1000:The Operator:/var/home/admin:/bin/bash\nranged:x:1002:1001::/:/usr/sbin/nologin\n",
		"/etc/group":                         "root:x:0:\nadm:x:4:ops,admin\nshadow:x:42:\nnogroup:x:65534:\nteam:x:2000:ops\nops:x:2001:\nlate:x:1001:\nadmin:x:1000:\n",
		"/etc/shadow":                        "root:!*:20089:0:99999:7:::\nnobody:!*:20089:0:99999:7:::\nops:!*:20089:0:99999:7:::\nadmin:!*:20089:0:99999:7:::\nranged:!*:20089:0:99999:7:::\n",
		"/usr/lib/tmpfiles.d/roost-var.conf": "# Directories that packages expect in /var. Made by the image builder.\nd /var/lib 0755 0 0 - -\nd /var/lib/ops 0700 2001 2001 - -\nL /var/lib/dpkg - - - - ../../usr/lib/sysimage/dpkg\n",
	} {
		if got := b.read(r.Tree, p); got != want {
			t.Errorf("%s is %q, want %q", p, got, want)
		}
	}
	motd, _ := r.Tree.Lookup("/etc/motd")
	if motd.UID != 2001 || motd.GID != 2000 || motd.Mode != 0o640 {
		t.Errorf("motd is %o of %d:%d", motd.Mode, motd.UID, motd.GID)
	}
	if shadow, _ := r.Tree.Lookup("/etc/shadow"); shadow.Mode != 0o640 || shadow.GID != 42 {
		t.Errorf("shadow is %o of group %d", shadow.Mode, shadow.GID)
	}
	if got := strings.Join(r.Units, " "); got != "a.service a.socket tick@one.timer" {
		t.Errorf("enabled units %s", got)
	}
}

func TestBadEdits(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"unknown unit":       {func(c *Config) { c.Recipe.Units.Enable = []string{"no.service"} }, "cannot find unit no.service"},
		"nothing to install": {func(c *Config) { c.Recipe.Units.Enable = []string{"static.service"} }, "no [Install] section"},
		"unknown owner":      {func(c *Config) { c.Recipe.Files = []recipe.File{{Path: "/etc/x", Owner: "ghost"}} }, "no ghost in /etc/passwd"},
		"file in /var":       {func(c *Config) { c.Recipe.Files = []recipe.File{{Path: "/var/lib/x"}} }, "tmpfiles.d"},
		"number taken":       {func(c *Config) { c.Recipe.Groups = []recipe.Group{{Name: "g", GID: 4}} }, "adm with number 4"},
		"unknown group":      {func(c *Config) { c.Recipe.Users = []recipe.User{{Name: "u", UID: 2000, Group: "none"}} }, "no none in /etc/group"},
		"account without number": {func(c *Config) {
			c.Recipe.Files = []recipe.File{{Path: "/usr/lib/sysusers.d/x.conf", Content: []byte("u floating -\n")}}
		}, "floating of sysusers.d: it has no number"},
		"user without number": {func(c *Config) { c.Recipe.Users = []recipe.User{{Name: "floating", Group: "floating"}} }, "floating: it has no number"},
		"move of nothing":     {func(c *Config) { c.Recipe.Moves = []recipe.Move{{From: "/var/none", To: "/usr/none"}} }, "no package made it"},
		"move onto another":   {func(c *Config) { c.Recipe.Moves = []recipe.Move{{From: "/usr/lib/systemd", To: "/usr/bin"}} }, "has both"},
		"edit of nothing":     {func(c *Config) { c.Recipe.Edits = []recipe.Edit{{Path: "/etc/none", Old: "a", New: "b"}} }, "no file of the image"},
		"edit of what is not there": {func(c *Config) {
			c.Recipe.Edits = []recipe.Edit{{Path: "/usr/lib/systemd/system/static.service", Old: "zz", New: "b"}}
		}, "is there 0 times"},
		"edit of what is there twice": {func(c *Config) {
			c.Recipe.Edits = []recipe.Edit{{Path: "/usr/lib/systemd/system/static.service", Old: "e", New: "b"}}
		}, "is there 3 times"},
		"bad sysusers line": {func(c *Config) {
			c.Recipe.Files = []recipe.File{{Path: "/usr/lib/sysusers.d/x.conf", Content: []byte("u a 1 \"open\n")}}
		}, "quote is not closed"},
		"unknown owner of state": {func(c *Config) { c.Recipe.State = []recipe.State{{Path: "/var/lib/x", Owner: "ghost"}} }, "no ghost in /etc/passwd"},
		"no such seed":           {func(c *Config) { c.Recipe.State = []recipe.State{{Path: "/var/lib/x", Seed: "/usr/none"}} }, "no directory of the image"},
		"missing program":        {func(c *Config) { c.Programs = ready(Program{Target: "/usr/bin/x", Path: "/nonexistent/x"}) }, "/nonexistent/x"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t).group("base", aliases, pkg{name: "s", files: []tarFile{text("./usr/lib/systemd/system/static.service", "[Service]\nExecStart=/x\n")}})
			c.edit(&b.config)
			if _, err := Tree(context.Background(), b.config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestComponentEdits has what a component brings besides packages: commands of one program, files for the machine to write,
// and state.
func TestComponentEdits(t *testing.T) {
	b := newBench(t).group("base", aliases, pkg{name: "s", files: []tarFile{folder("./var/lib/tool/", 0o755, 0, 0), folder("./var/lib/tool/made/", 0o755, 0, 0), folder("./usr/share/seed/", 0o755, 0, 0),
		folder("./var/lib/dashboard/", 0o755, 0, 0), text("./var/lib/dashboard/static/a.css", "css"), text("./usr/share/tool.py", "import a\nimport b\n"), text("./usr/share/__pycache__/tool.cpython-313.pyc", "a"), text("./usr/share/__pycache__/tools.cpython-313.pyc", "b")}})
	program := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(program, []byte("tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.config.Programs = ready(
		Program{Target: "/usr/bin/tool", Path: program, Links: []string{"/usr/bin/a", "/usr/sbin/b"}},
		Program{Target: "/usr/lib/roost/containers/x.tar", Path: program, Mode: 0o644},
	)
	r := b.config.Recipe
	r.Groups = []recipe.Group{{Name: "tool", GID: 2000}}
	r.Users = []recipe.User{{Name: "tool", UID: 2000, Group: "tool", Home: "/nonexistent", Shell: "/x"}}
	r.Moves = []recipe.Move{{From: "/var/lib/dashboard/static", To: "/usr/share/dashboard/static"}}
	r.Edits = []recipe.Edit{{Path: "/usr/share/tool.py", Old: "import b\n", New: "b = 1\n"}}
	b.config.IDs = IDs{Users: []UserID{{Name: "fixed", UID: 402, GID: 402, Home: "/nonexistent", Shell: "/usr/sbin/nologin"}}}
	r.Users = append(r.Users, recipe.User{Name: "fixed", Group: "fixed"})
	r.Files = []recipe.File{{Path: "/etc/tool.conf", Mode: 0o640, Owner: "root", Group: "tool", Content: []byte("{{hostname}}"), Template: true}}
	r.State = []recipe.State{
		{Path: "/var/lib/tool", Mode: 0o700, Owner: "tool", Group: "tool"},
		{Path: "/var/lib/web", Mode: 0o755, Owner: "root", Group: "root", Seed: "/usr/share/seed"},
	}
	result, err := Tree(context.Background(), b.config)
	if err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"/usr/bin/a": "tool", "/usr/sbin/b": "/usr/bin/tool"} {
		if e, _ := result.Tree.Lookup(link); e.Target != target {
			t.Errorf("%s is %+v, want a link to %s", link, e, target)
		}
	}
	if e, _ := result.Tree.Lookup("/usr/lib/roost/containers/x.tar"); e.Mode != 0o644 {
		t.Errorf("x.tar has mode %o", e.Mode)
	}
	if got := b.read(result.Tree, "/usr/share/dashboard/static/a.css"); got != "css" {
		t.Errorf("what was moved is %q", got)
	}
	_, stale := result.Tree.Lookup("/usr/share/__pycache__/tool.cpython-313.pyc")
	_, other := result.Tree.Lookup("/usr/share/__pycache__/tools.cpython-313.pyc")
	if got := b.read(result.Tree, "/usr/share/tool.py"); got != "import a\nb = 1\n" || stale || !other {
		t.Errorf("edited to %q; what was compiled from it is there: %v, from others: %v", got, stale, other)
	}
	if got := b.read(result.Tree, "/etc/passwd"); !strings.Contains(got, "fixed:x:402:402::/nonexistent:/usr/sbin/nologin\n") {
		t.Errorf("a user of the table became:\n%s", got)
	}
	if _, ok := result.Tree.Lookup("/etc/tool.conf"); ok {
		t.Error("a template is where the machine writes its file")
	}
	if e, _ := result.Tree.Lookup("/usr/lib/roost/templates/etc/tool.conf"); e.Mode != 0o640 || e.GID != 2000 {
		t.Errorf("the template is %+v", e)
	}
	const want = "d /var/lib/tool 0700 2000 2000 - -\nC /var/lib/web - - - - /usr/share/seed\nz /var/lib/web 0755 0 0 - -\n"
	if got := b.read(result.Tree, "/usr/lib/tmpfiles.d/00-roost-state.conf"); !strings.HasSuffix(got, want) {
		t.Errorf("state is made by:\n%s", got)
	}
	if got := b.read(result.Tree, "/usr/lib/tmpfiles.d/roost-var.conf"); strings.Contains(got, "/var/lib/tool") {
		t.Errorf("a declared directory is also made as the package had it:\n%s", got)
	}
}

func TestBrokenPackages(t *testing.T) {
	b := newBench(t).group("base", aliases, pkg{name: "p", files: []tarFile{text("./usr/share/p", strings.Repeat("p", 5000))}})
	p := b.config.Lock.Groups[0].Packages[1]
	whole, err := os.ReadFile(b.debs[p.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 7, 100, len(whole) / 2, len(whole) - 1600} {
		if err := os.WriteFile(b.debs[p.SHA256], whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Tree(context.Background(), b.config); err == nil || !strings.Contains(err.Error(), "cannot unpack p 1") {
			t.Errorf("with %d of %d bytes: error %v, want one that names the package", n, len(whole), err)
		}
	}
	b.config.Lock.Groups[0].Packages[1].Version = "3"
	if err := os.WriteFile(b.debs[p.SHA256], whole, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Tree(context.Background(), b.config); err == nil || !strings.Contains(err.Error(), "the file is p 1") {
		t.Errorf("a package of another version: %v", err)
	}
}

func TestUnpack(t *testing.T) {
	b := newBench(t)
	content := pkg{name: "systemd-boot-efi", files: []tarFile{text("./usr/lib/stub", "stub")}, members: map[string]string{"postinst": "exit 1"}}.deb()
	file := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Unpack(context.Background(), b.store, file, images.DigestOf(content))
	if err != nil {
		t.Fatal(err)
	}
	if text := b.read(got, "/usr/lib/stub"); text != "stub" {
		t.Errorf("the unpacked file holds %q", text)
	}
}

func TestFindKernel(t *testing.T) {
	image := tree.Entry{Path: "/boot/vmlinuz-6.12-amd64", Type: tree.File, Mode: 0o644, Blob: images.DigestOf([]byte("k")), Size: 1}
	other := image
	other.Path = "/boot/vmlinuz-6.11-amd64"
	make := func(entries ...tree.Entry) tree.Tree {
		d := tree.NewDraft()
		for _, e := range entries {
			if err := d.Put(e); err != nil {
				t.Fatal(err)
			}
		}
		made, err := d.Tree()
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	if _, ok, err := FindKernel(make()); ok || err != nil {
		t.Errorf("a tree without a kernel: %v, %v", ok, err)
	}
	if k, ok, err := FindKernel(make(image)); !ok || err != nil || k.Version != "6.12-amd64" || k.Image != image.Blob {
		t.Errorf("found %v, %v, %v", k, ok, err)
	}
	if _, _, err := FindKernel(make(image, other)); err == nil {
		t.Error("two kernels were accepted")
	}
}
