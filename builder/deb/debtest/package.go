package debtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Package is a binary package to be made.
type Package struct {
	Control     string            // fields of the control file; Maintainer and Description are added when missing
	Members     map[string]string // other files of the control archive, such as postinst
	Files       []File            // parents are added as directories
	Compression string            // "xz", "gz", "zst" or "" for none
}

// File is an entry of the data archive.
type File struct {
	Name     string // relative to the root: "usr/bin/hello"
	Body     string
	Mode     int64  // 0 means 0644 for files, 0755 for directories
	Type     byte   // a type of archive/tar; 0 is a regular file, or a directory when Name ends in a slash
	Linkname string // of links
}

// stamp is the time of all files, so that the same package is the same bytes.
func stamp() time.Time { return time.Unix(1_700_000_000, 0) }

// Build returns the .deb.
func (p Package) Build(t testing.TB) []byte {
	t.Helper()
	control := p.control()
	members := []File{{Name: "control", Body: control}}
	for _, name := range slices.Sorted(maps.Keys(p.Members)) {
		members = append(members, File{Name: name, Body: p.Members[name], Mode: 0o755})
	}
	suffix := ""
	if p.Compression != "" {
		suffix = "." + p.Compression
	}
	return Ar(
		"debian-binary", []byte("2.0\n"),
		"control.tar"+suffix, Compress(t, p.Compression, Tar(t, members)),
		"data.tar"+suffix, Compress(t, p.Compression, Tar(t, withParents(p.Files))),
	)
}

func (p Package) control() string {
	text := strings.TrimRight(p.Control, "\n") + "\n"
	for _, extra := range []string{"Maintainer: Nobody <nobody@example.org>", "Description: a package for tests"} {
		name, _, _ := strings.Cut(extra, ":")
		if !strings.Contains("\n"+text, "\n"+name+":") {
			text += extra + "\n"
		}
	}
	return text
}

// Field returns a field of the control file.
func (p Package) Field(name string) string {
	for line := range strings.Lines(p.control()) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// withParents adds the directories above files that the list lacks, the root first, as dpkg-deb writes them.
func withParents(files []File) []File {
	have := map[string]bool{".": true}
	all := []File{{Name: "./"}}
	for _, f := range files {
		var parents []string
		for dir := path.Dir(path.Clean(f.Name)); dir != "." && dir != "/" && !strings.HasPrefix(dir, ".."); dir = path.Dir(dir) {
			parents = append(parents, dir)
		}
		for _, dir := range slices.Backward(parents) {
			if !have[dir] {
				have[dir] = true
				all = append(all, File{Name: dir + "/"})
			}
		}
		have[path.Clean(f.Name)] = true
		all = append(all, f)
	}
	return all
}

// Tar returns files as an archive. Names get the "./" that dpkg-deb writes, unless they would not be below the root anyway.
func Tar(t testing.TB, files []File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Name: f.Name, Linkname: f.Linkname, Typeflag: f.Type, Mode: f.Mode, Size: int64(len(f.Body)),
			ModTime: stamp(), Uname: "root", Gname: "root", Format: tar.FormatGNU,
		}
		if f.Type == 0 && strings.HasSuffix(f.Name, "/") {
			h.Typeflag = tar.TypeDir
		} else if f.Type == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 && h.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		} else if h.Mode == 0 {
			h.Mode = 0o644
		}
		if !path.IsAbs(f.Name) && !strings.HasPrefix(f.Name, ".") {
			h.Name = "./" + f.Name
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Compress packs data with "xz", "gz" or "zst"; "" leaves it as it is.
func Compress(t testing.TB, format string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case "":
		return data
	case "xz":
		w, err = xz.NewWriter(&b)
	case "gz":
		w = gzip.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b)
	default:
		t.Fatalf("unknown compression %q", format)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Ar returns an ar archive of members, given as name (string) and content ([]byte) in turn.
func Ar(members ...any) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for i := 0; i+1 < len(members); i += 2 {
		content := members[i+1].([]byte)
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", members[i].(string), stamp().Unix(), 0, 0, "100644", len(content))
		b.Write(content)
		if len(content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}
