package pack

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"roost/builder/tree"
)

// initrdProgram stands for the program that is the initrd: no file of the root image.
const initrdProgram = "initrd"

// goPrograms returns what Go's linker wrote into the programs of an image, by digest, and of those in container images, by
// the path of the archive. Programs of other languages, and files that are none, have no such record.
func goPrograms(in Input) (map[string]*debug.BuildInfo, error) {
	programs := map[string]*debug.BuildInfo{}
	for archive, path := range in.Contained {
		info, err := goProgram(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the program of %s: %w", archive, err)
		}
		programs[archive] = info
	}
	for _, e := range in.Tree.Entries() {
		if e.Type != tree.File || e.Mode&0o111 == 0 {
			continue
		}
		info, err := goProgram(in.Store.Path(e.Blob))
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", e.Path, err)
		}
		if info != nil {
			programs[string(e.Blob)] = info
		}
	}
	return programs, nil
}

// goProgram returns nil for what is no Go program. The content is judged by the digest elsewhere; one that only looks like a
// program is none.
func goProgram(path string) (*debug.BuildInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if n, _ := f.ReadAt(magic, 0); n < 4 || string(magic) != "\x7fELF" {
		return nil, nil
	}
	info, err := buildinfo.Read(f)
	if err != nil {
		return nil, nil // not Go's, or stripped of the record
	}
	return info, nil
}

// modules adds the Go modules that are linked into a program: the program contains each, and its main module depends on
// the others and on the standard library. A module that several programs have is one package.
func (doc *spdx) modules(program string, info *debug.BuildInfo, known map[string]string) {
	module := func(m debug.Module) string {
		if m.Replace != nil {
			m = *m.Replace
		}
		if m.Version == "(devel)" { // built from a directory
			m.Version = ""
		}
		name := m.Path + "@" + m.Version
		id, ok := known[name]
		if !ok {
			id = fmt.Sprintf("SPDXRef-Go-%d", len(doc.Packages))
			known[name] = id
			p := spdxPackage{ID: id, Name: m.Path, Version: m.Version, Location: "NOASSERTION", References: []spdxReference{{"PACKAGE-MANAGER", "purl", goPURL(m)}}}
			if m.Sum != "" {
				p.Comment = "go.sum " + m.Sum
			}
			doc.Packages = append(doc.Packages, p)
			doc.relate(imageID, contains, id)
		}
		if program != imageID {
			doc.relate(program, contains, id)
		}
		return id
	}
	main := info.Main
	if main.Path == "" { // a command of the standard library
		main = debug.Module{Path: info.Path}
	}
	from := module(main)
	needs := []string{module(debug.Module{Path: "stdlib", Version: strings.TrimPrefix(goVersion(info.GoVersion), "go")})}
	for _, m := range info.Deps {
		needs = append(needs, module(*m))
	}
	for _, to := range needs {
		if edge := from + " " + to; known[edge] == "" && from != to {
			known[edge] = to
			doc.relate(from, "DEPENDS_ON", to)
		}
	}
}

// goVersion drops what is said behind the version: experiments of the toolchain.
func goVersion(s string) string {
	v, _, _ := strings.Cut(s, " ")
	return v
}

// goPURL names a Go module (package-url's golang type): in lower case, with the version as go.mod has it.
func goPURL(m debug.Module) string {
	parts := strings.Split(strings.ToLower(m.Path), "/")
	for i := range parts {
		parts[i] = purlEscape(parts[i])
	}
	purl := "pkg:golang/" + strings.Join(parts, "/")
	if m.Version != "" {
		purl += "@" + purlEscape(m.Version)
	}
	return purl
}
