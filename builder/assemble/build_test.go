package assemble

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"roost/builder/deb"
	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
)

// pkg describes a .deb to be made for a test.
type pkg struct {
	name, version string            // version is 1 by default
	control       string            // further fields, each with its line end
	members       map[string]string // further members of the control archive: postinst, conffiles, triggers …
	files         []tarFile
}

// tarFile is one entry of a data archive. Without target and content it is a directory if its path ends in '/'.
type tarFile struct {
	path, content, target string
	mode                  int64
	uid, gid              int
	kind                  byte
}

func text(path, content string) tarFile { return tarFile{path: path, content: content, mode: 0o644} }
func tool(path, content string) tarFile { return tarFile{path: path, content: content, mode: 0o755} }
func symlink(path, target string) tarFile {
	return tarFile{path: path, target: target, mode: 0o777, kind: tar.TypeSymlink}
}
func hardlink(path, target string) tarFile {
	return tarFile{path: path, target: target, mode: 0o644, kind: tar.TypeLink}
}
func folder(path string, mode int64, uid, gid int) tarFile {
	return tarFile{path: path, mode: mode, uid: uid, gid: gid, kind: tar.TypeDir}
}

// deb writes the package in deb(5) form.
func (p pkg) deb() []byte {
	version := p.version
	if version == "" {
		version = "1"
	}
	members := map[string]string{"control": fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: A <a@example.org>\n%sDescription: test\n", p.name, version, p.control)}
	for name, content := range p.members {
		members[name] = content
	}
	var control []tarFile
	for name, content := range members {
		control = append(control, tool("./"+name, content))
	}
	slices.SortFunc(control, func(a, b tarFile) int { return strings.Compare(a.path, b.path) })
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range []struct {
		name    string
		content []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", makeTar(control)}, {"data.tar", makeTar(p.files)}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.content))
		out.Write(m.content)
		if len(m.content)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func makeTar(files []tarFile) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Name: f.path, Mode: f.mode, Uid: f.uid, Gid: f.gid, Linkname: f.target, Typeflag: f.kind, Format: tar.FormatGNU}
		if f.kind == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f.content))
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// bench is a place to assemble in: a store of its own, and .debs by digest.
type bench struct {
	t      *testing.T
	store  *tree.Store
	debs   map[images.Digest]string
	events []string // messages that assembly logged, with their group if any
	config Config
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	store, err := tree.OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, store: store, debs: map[images.Digest]string{}}
	b.config = Config{
		Store: store, Lock: &lock.Lock{Architecture: "amd64"}, Log: slog.New(&recorder{b: b}),
		Deb: func(d images.Digest) (string, error) {
			if b.debs[d] == "" {
				return "", fmt.Errorf("no .deb %s", d)
			}
			return b.debs[d], nil
		},
		Recipe: &recipe.Recipe{Name: "small", Version: "1.0", Architecture: "amd64"},
	}
	return b
}

// ready are programs that need not be waited for.
func ready(programs ...Program) func(context.Context) ([]Program, error) {
	return func(context.Context) ([]Program, error) { return programs, nil }
}

// recorder notes the messages of a run.
type recorder struct {
	b  *bench
	mu sync.Mutex
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *recorder) WithGroup(string) slog.Handler            { return r }
func (r *recorder) Handle(_ context.Context, m slog.Record) error {
	event := m.Message
	m.Attrs(func(a slog.Attr) bool {
		if a.Key == "group" || a.Key == "says" {
			event += " " + a.Value.String()
		}
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b.events = append(r.b.events, event)
	return nil
}

// group adds a group of packages on top of those there.
func (b *bench) group(name string, packages ...pkg) *bench {
	b.t.Helper()
	g := lock.Group{Name: name}
	for _, p := range packages {
		content := p.deb()
		d := images.DigestOf(content)
		b.debs[d] = filepath.Join(b.t.TempDir(), p.name+".deb")
		if err := os.WriteFile(b.debs[d], content, 0o644); err != nil {
			b.t.Fatal(err)
		}
		version := p.version
		if version == "" {
			version = "1"
		}
		g.Packages = append(g.Packages, lock.Package{Name: p.name, Version: deb.Version(version), Architecture: "amd64", SHA256: d})
	}
	b.config.Lock.Groups = append(b.config.Lock.Groups, g)
	return b
}

func (b *bench) build() Result {
	b.t.Helper()
	r, err := Tree(context.Background(), b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// read returns the content of a file of t, and what it is otherwise: "-> target", "directory 0755 0:0", "nothing".
func (b *bench) read(t tree.Tree, p string) string {
	b.t.Helper()
	e, ok := t.Lookup(p)
	switch {
	case !ok:
		return "nothing"
	case e.Type == tree.Symlink:
		return "-> " + e.Target
	case e.Type == tree.Directory:
		return fmt.Sprintf("directory %04o %d:%d", e.Mode, e.UID, e.GID)
	}
	content, err := b.store.ReadFile(e.Blob)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(content)
}

// aliases is the part of base-files that makes merged /usr.
var aliases = pkg{name: "base-files", files: []tarFile{
	folder("./", 0o755, 0, 0), symlink("./bin", "usr/bin"), symlink("./lib", "usr/lib"), symlink("./sbin", "usr/sbin"), symlink("./lib64", "usr/lib64"),
	folder("./usr/", 0o755, 0, 0), folder("./usr/bin/", 0o755, 0, 0), folder("./usr/sbin/", 0o755, 0, 0), folder("./usr/lib/", 0o755, 0, 0), folder("./usr/lib64/", 0o755, 0, 0),
	text("./usr/lib/os-release", "ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME=\"Debian\"\n"), folder("./etc/", 0o755, 0, 0),
	text("./etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"),
	text("./etc/group", "root:x:0:\nadm:x:4:\nshadow:x:42:\nnogroup:x:65534:\n"),
}}

// hostTools is a package of this machine's own dpkg and the programs that scripts use, so that real scripts run without
// the network.
func hostTools(t *testing.T) pkg {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces; CI has it")
	}
	p := pkg{name: "host-tools"}
	added := map[string]bool{}
	add := func(from string) {
		at := from
		for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
			if strings.HasPrefix(at, dir) {
				at = "/usr" + at
			}
		}
		if added[at] {
			return
		}
		added[at] = true
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		p.files = append(p.files, tool("."+at, string(content)))
	}
	for _, name := range strings.Fields("sh unshare setpriv mount cat rm mkdir ln mv chmod chown sleep grep touch rmdir cp ls tar dpkg dpkg-deb dpkg-query dpkg-split dpkg-trigger update-alternatives diff ldconfig start-stop-daemon") {
		found, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("needs %s on the host; CI has it", name)
		}
		real, err := filepath.EvalSymlinks(found)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(real)
		if err != nil {
			t.Fatal(err)
		}
		p.files = append(p.files, tool("./usr/bin/"+name, string(content)))
		libraries, err := exec.Command("ldd", real).Output()
		if err != nil {
			continue // a script, or static
		}
		for _, word := range strings.Fields(string(libraries)) {
			if path.IsAbs(word) {
				add(word)
			}
		}
	}
	return p
}
