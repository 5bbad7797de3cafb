package deb

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"roost/builder/deb/debtest"
)

func samplePackage(compression string) debtest.Package {
	return debtest.Package{
		Control: "Package: hello\nVersion: 1:2.0-1\nArchitecture: amd64\n",
		Members: map[string]string{
			"postinst": "#!/bin/sh\nexit 0\n", "conffiles": "/etc/hello.conf\nremove-on-upgrade /etc/old.conf\n",
			"triggers": "# comment\ninterest-noawait /usr/share/hello # why\nactivate ldconfig\n", "md5sums": "x\n",
		},
		Files: []debtest.File{
			{Name: "etc/hello.conf", Body: "greeting=hi\n"},
			{Name: "usr/bin/hello", Body: strings.Repeat("binary", 10_000), Mode: 0o755},
			{Name: "usr/bin/hi", Type: tar.TypeLink, Linkname: "./usr/bin/hello"},
			{Name: "usr/bin/salute", Type: tar.TypeSymlink, Linkname: "../../usr/bin/hello"},
			{Name: "usr/share/" + strings.Repeat("long", 40), Body: "x"},
		},
		Compression: compression,
	}
}

func openBytes(data []byte) (*File, error) { return Open(bytes.NewReader(data), int64(len(data))) }

// walk lists the data archive.
func walk(f *File) (names []string, bytes int64, err error) {
	data, err := f.Data()
	if err != nil {
		return nil, 0, err
	}
	defer data.Close()
	for {
		h, err := data.Next()
		if err == io.EOF {
			return names, bytes, nil
		}
		if err != nil {
			return names, bytes, err
		}
		n, err := io.Copy(io.Discard, data)
		if err != nil {
			return names, bytes, err
		}
		bytes += n
		names = append(names, strings.TrimSuffix(h.Name+" "+h.Linkname, " "))
	}
}

func TestOpen(t *testing.T) {
	for _, compression := range []string{"", "gz", "xz", "zst"} {
		f, err := openBytes(samplePackage(compression).Build(t))
		if err != nil {
			t.Fatalf("%q: %v", compression, err)
		}
		if f.Control.Get("Version") != "1:2.0-1" || len(f.Members) != 5 {
			t.Errorf("%q: control %q, members %v", compression, f.Control, f.Members)
		}
		if len(f.Scripts) != 1 || string(f.Scripts["postinst"]) != "#!/bin/sh\nexit 0\n" {
			t.Errorf("%q: scripts %q", compression, f.Scripts)
		}
		if want := []Conffile{{"/etc/hello.conf", false}, {"/etc/old.conf", true}}; !reflect.DeepEqual(f.Conffiles, want) {
			t.Errorf("%q: conffiles %v", compression, f.Conffiles)
		}
		if want := []Trigger{{"interest-noawait", "/usr/share/hello"}, {"activate", "ldconfig"}}; !reflect.DeepEqual(f.Triggers, want) {
			t.Errorf("%q: triggers %v", compression, f.Triggers)
		}
		names, size, err := walk(f)
		if err != nil {
			t.Fatalf("%q: %v", compression, err)
		}
		want := []string{
			".", "etc", "etc/hello.conf", "usr", "usr/bin", "usr/bin/hello", "usr/bin/hi usr/bin/hello",
			"usr/bin/salute ../../usr/bin/hello", "usr/share", "usr/share/" + strings.Repeat("long", 40),
		}
		if !reflect.DeepEqual(names, want) || size != 60_000+12+1 {
			t.Errorf("%q: %d bytes in %q", compression, size, names)
		}
	}
}

// TestOpenAgainstDpkg has dpkg-deb read what debtest makes and make what this package reads.
func TestOpenAgainstDpkg(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed: nothing to compare with")
	}
	dir := t.TempDir()
	ours := filepath.Join(dir, "ours.deb")
	if err := os.WriteFile(ours, samplePackage("xz").Build(t), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	run(t, "dpkg-deb", "--raw-extract", ours, tree)
	for _, compression := range []string{"none", "gzip", "xz", "zstd"} {
		theirs := filepath.Join(dir, compression+".deb")
		run(t, "dpkg-deb", "--root-owner-group", "-Z"+compression, "--build", tree, theirs)
		data, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		f, err := openBytes(data)
		if err != nil {
			t.Fatalf("%s: %v", compression, err)
		}
		names, size, err := walk(f)
		if err != nil || len(names) != 10 || size < 60_013 {
			t.Errorf("%s: %d bytes in %q, %v", compression, size, names, err)
		}
		if got, want := f.Control.Get("Package"), run(t, "dpkg-deb", "--field", theirs, "Package"); got != strings.TrimSpace(want) {
			t.Errorf("%s: package %q, dpkg-deb says %q", compression, got, want)
		}
	}
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

func TestOpenErrors(t *testing.T) {
	p := samplePackage("")
	good := p.Build(t)
	control := debtest.Tar(t, []debtest.File{{Name: "control", Body: "Package: hello\nVersion: 1\nArchitecture: all\n"}})
	empty := debtest.Tar(t, nil)
	two := []byte("2.0\n")
	withControl := func(files ...debtest.File) []byte {
		return debtest.Ar("debian-binary", two, "control.tar", debtest.Tar(t, files), "data.tar", empty)
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "not an ar archive"},
		{"other magic", append([]byte("!<Arch>\n"), good[8:]...), "not an ar archive"},
		{"cut in a header", good[:100], "is cut short"},
		{"cut in a member", good[:len(good)-100], "member data.tar is cut short"},
		{"no debian-binary", debtest.Ar("control.tar", control, "data.tar", empty), "first member is not debian-binary"},
		{"format 3", debtest.Ar("debian-binary", []byte("3.0\n"), "control.tar", control, "data.tar", empty), "unknown format version"},
		{"no data", debtest.Ar("debian-binary", two, "control.tar", control), "no control or no data archive"},
		{"data first", debtest.Ar("debian-binary", two, "data.tar", empty, "control.tar", control), `unexpected member "data.tar"`},
		{"unknown member", debtest.Ar("debian-binary", two, "extra", empty, "control.tar", control, "data.tar", empty), `unexpected member "extra"`},
		{"unknown compression", debtest.Ar("debian-binary", two, "control.tar.lz", control, "data.tar", empty), `unexpected member "control.tar.lz"`},
		{"control is no tar", debtest.Ar("debian-binary", two, "control.tar", bytes.Repeat([]byte("x"), 1024), "data.tar", empty), "control archive"},
		{"no control file", withControl(debtest.File{Name: "postinst", Body: "x"}), "it has no control file"},
		{"no version", withControl(debtest.File{Name: "control", Body: "Package: a\nArchitecture: all\n"}), "has no Version"},
		{"control file with two paragraphs", withControl(debtest.File{Name: "control", Body: "A: 1\n\nB: 1\n"}), "2 paragraphs"},
		{"huge control file", withControl(debtest.File{Name: "control", Body: strings.Repeat("x", maxControlFile+1)}), "control: 16777217 bytes"},
		{"control leads out", withControl(debtest.File{Name: "../control", Body: "x"}), "leads out"},
		{"conffile relative", withControl(debtest.File{Name: "control", Body: "Package: a\nVersion: 1\nArchitecture: all\n"}, debtest.File{Name: "conffiles", Body: "etc/x"}), `conffile "etc/x"`},
		{"conffile leads out", withControl(debtest.File{Name: "control", Body: "Package: a\nVersion: 1\nArchitecture: all\n"}, debtest.File{Name: "conffiles", Body: "/etc/../../x"}), "conffile"},
		{"unknown trigger", withControl(debtest.File{Name: "control", Body: "Package: a\nVersion: 1\nArchitecture: all\n"}, debtest.File{Name: "triggers", Body: "explode now"}), `"explode now" is not a trigger`},
		{"size is no number", bytes.Replace(good, []byte("4         `"), []byte("4x        `"), 1), "is not a size"},
		{"negative size", bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1), "is not a size"},
		{"GNU long name", bytes.Replace(good, []byte("debian-binary   "), []byte("//              "), 1), "unusable name"},
		{"many members", debtest.Ar(manyMembers()...), "more than 64 members"},
	} {
		f, err := openBytes(c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, error %v, want %q", c.name, f, err, c.want)
		}
	}
}

func manyMembers() (all []any) {
	for range 65 {
		all = append(all, "debian-binary", []byte("2.0\n"))
	}
	return all
}

func TestOpenIgnoresReservedMembers(t *testing.T) {
	control := debtest.Tar(t, []debtest.File{{Name: "control", Body: "Package: hello\nVersion: 1\nArchitecture: all\n"}})
	f, err := openBytes(debtest.Ar("debian-binary", []byte("2.0\n"), "_gpgorigin", []byte("x"), "control.tar", control,
		"data.tar", debtest.Tar(t, nil), "later", []byte("y")))
	if err != nil || f.Control.Get("Package") != "hello" {
		t.Errorf("%v, %v", f, err)
	}
}

func TestDataErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		file debtest.File
		want string
	}{
		{"leads out", debtest.File{Name: "../etc/passwd", Body: "x"}, "leads out"},
		{"leads out in the middle", debtest.File{Name: "usr/../../etc/passwd", Body: "x"}, "leads out"},
		{"dot dot inside", debtest.File{Name: "usr/lib/../bin/x", Body: "x"}, "leads out"},
		{"absolute", debtest.File{Name: "/etc/passwd", Body: "x"}, "absolute"},
		{"hard link leads out", debtest.File{Name: "usr/x", Type: tar.TypeLink, Linkname: "../../etc/shadow"}, "hard link usr/x"},
		{"absolute hard link", debtest.File{Name: "usr/x", Type: tar.TypeLink, Linkname: "/etc/shadow"}, "hard link usr/x"},
		{"symbolic link without target", debtest.File{Name: "usr/x", Type: tar.TypeSymlink}, "no usable target"},
		{"unknown type", debtest.File{Name: "usr/x", Type: 'Z'}, "unknown type"},
	} {
		f, err := openBytes(debtest.Package{Control: "Package: ab\nVersion: 1\nArchitecture: all\n", Files: []debtest.File{c.file}}.Build(t))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if names, _, err := walk(f); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "data of ab") {
			t.Errorf("%s: %q and error %v, want %q", c.name, names, err, c.want)
		}
	}
}

func TestDataDamaged(t *testing.T) {
	for _, compression := range []string{"gz", "xz"} {
		whole := samplePackage(compression).Build(t)
		for _, at := range []int{len(whole) - 60, len(whole) - 200} {
			damaged := bytes.Clone(whole)
			damaged[at] ^= 0x10
			f, err := openBytes(damaged)
			if err != nil {
				t.Fatal(err)
			}
			if names, _, err := walk(f); err == nil {
				t.Errorf("%s with byte %d of %d damaged gave %q without error", compression, at, len(whole), names)
			}
		}
	}
}

func TestBoundedReader(t *testing.T) {
	for limit, ok := range map[int64]bool{5: true, 4: false} {
		got, err := io.ReadAll(&boundedReader{r: strings.NewReader("12345"), left: limit})
		if (err == nil) != ok || (ok && string(got) != "12345") {
			t.Errorf("limit %d: %q, %v", limit, got, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, compression := range []string{"", "gz", "xz", "zst"} {
		f.Add(samplePackage(compression).Build(f))
	}
	f.Add([]byte("!<arch>\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := openBytes(data)
		if err != nil {
			return
		}
		names, size, err := walk(file)
		if size > 1<<30 {
			t.Fatalf("%d bytes of input unpack to %d", len(data), size)
		}
		for _, name := range names {
			name, _, _ = strings.Cut(name, " ")
			if filepath.IsAbs(name) || name != "." && !filepath.IsLocal(name) {
				t.Fatalf("%q leads out of the archive (error %v)", name, err)
			}
		}
	})
}
