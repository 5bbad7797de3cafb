package pack_test

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"roost/builder/tree"
)

// TestSBOMModules has a Go program in an image twice, and in a container, and finds its modules in the SBOM.
func TestSBOMModules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", path, "roost/appliance/initrd").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	own, err := buildinfo.ReadFile(path)
	if err != nil || len(own.Deps) == 0 {
		t.Fatalf("the program has no modules: %v", err)
	}
	w := newWorkshop(t)
	in := w.input(files())
	d := in.Tree.Draft()
	for name, text := range map[string]string{"/usr/bin/agent": string(program), "/usr/bin/same": string(program), "/usr/bin/broken": "\x7fELF, but no more"} {
		if err := d.Put(tree.Entry{Path: name, Type: tree.File, Mode: 0o755, Blob: w.blob(text), Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
	}
	if in.Tree, err = d.Tree(); err != nil {
		t.Fatal(err)
	}
	in.Contained = map[string]string{"/etc/motd": path} // not an archive, which nobody here opens
	text, err := os.ReadFile(w.pack(in).SBOM.Path)
	if err != nil {
		t.Fatal(err)
	}
	judgeSBOM(t, text)
	var doc struct {
		Packages []struct {
			SPDXID, Name, VersionInfo, Comment string
			ExternalRefs                       []struct{ ReferenceLocator string }
		}
		Files         []struct{ SPDXID, FileName string }
		Relationships []struct{ SPDXElementID, RelationshipType, RelatedSPDXElement string }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	related := map[string]int{}
	for _, r := range doc.Relationships {
		related[r.SPDXElementID+" "+r.RelationshipType+" "+r.RelatedSPDXElement]++
	}
	file, ids := map[string]string{}, map[string]string{}
	for _, f := range doc.Files {
		file[f.FileName] = f.SPDXID
	}
	for _, p := range doc.Packages {
		if strings.HasPrefix(p.SPDXID, "SPDXRef-Go-") {
			if ids[p.Name] != "" {
				t.Errorf("%s is there twice", p.Name)
			}
			ids[p.Name] = p.SPDXID
		}
	}
	for _, m := range append(own.Deps, &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(runtime.Version(), "go")}) {
		if m.Replace != nil {
			m = m.Replace
		}
		id := ids[m.Path]
		for _, r := range []string{"SPDXRef-Image CONTAINS " + id, file["./usr/bin/agent"] + " CONTAINS " + id, file["./usr/bin/same"] + " CONTAINS " + id, file["./etc/motd"] + " CONTAINS " + id, ids["roost"] + " DEPENDS_ON " + id} {
			if related[r] != 1 {
				t.Errorf("%s: %q is there %d times", m.Path, r, related[r])
			}
		}
		for _, p := range doc.Packages {
			version := strings.TrimSuffix(m.Version, "(devel)")
			want := "pkg:golang/" + strings.ToLower(m.Path) + "@" + strings.ReplaceAll(version, "+", "%2B")
			if p.SPDXID == id && (p.VersionInfo != version || version != "" && p.ExternalRefs[0].ReferenceLocator != want || m.Sum != "" && p.Comment != "go.sum "+m.Sum) {
				t.Errorf("%+v is %+v, want %s", m, p, want)
			}
		}
	}
}
