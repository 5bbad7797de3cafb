package deb

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"path"
	"strconv"
	"strings"

	"roost/images"
)

// Package is one entry of a Packages index: what a resolver and a fetcher need to know about a binary package. Relations
// are kept as text, because of 69 000 packages a resolver looks at a few hundred; parse them with ParseRelations
// (Depends, PreDepends, Recommends) and ParseList (the others).
type Package struct {
	Name          string
	Version       Version
	Architecture  string
	MultiArch     string // "", "no", "same", "foreign" or "allowed"
	Essential     bool
	Priority      string
	Section       string
	Source        string // as written: a name, perhaps with " (version)"; "" when it is Name and Version; see SourceNameVersion
	Depends       string
	PreDepends    string
	Recommends    string
	Provides      string
	Conflicts     string
	Breaks        string
	Replaces      string
	Filename      string // path below the mirror's root, clean
	Size          int64  // bytes
	InstalledSize int64  // KiB
	SHA256        images.Digest

	Suite  string // codename that the caller asked for, such as "trixie-security"; set by the caller
	Origin string // Origin field of the suite's Release file; set by the caller
}

// SourceNameVersion returns the source package that p was built from.
func (p *Package) SourceNameVersion() (string, Version) {
	if p.Source == "" {
		return p.Name, p.Version
	}
	r, err := parseRelation(p.Source)
	switch {
	case err != nil:
		return p.Source, p.Version
	case r.Op == OpAny:
		return r.Name, p.Version
	}
	return r.Name, r.Version
}

// Packages parses a Packages index, plain text. It stops at the first error, which is yielded with an empty Package.
func Packages(r io.Reader) iter.Seq2[Package, error] {
	return func(yield func(Package, error) bool) {
		s := indexScanner{lines: newLineScanner(r)}
		for {
			p, err := s.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(Package{}, fmt.Errorf("cannot parse package index: line %d: %w", s.lines.line, err))
				return
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// indexScanner reads paragraphs into one text buffer, which becomes one string per package that all fields share: one
// allocation instead of fifteen.
type indexScanner struct {
	lines *lineScanner
	text  []byte
	spans [fieldCount]span
}

type span struct{ from, to int }

const digestPrefix = "sha256:"

type fieldKey int

const (
	fieldName fieldKey = iota
	fieldVersion
	fieldSource
	fieldDepends
	fieldPreDepends
	fieldRecommends
	fieldProvides
	fieldConflicts
	fieldBreaks
	fieldReplaces
	fieldFilename
	fieldSHA256
	fieldArchitecture
	fieldMultiArch
	fieldPriority
	fieldSection
	fieldEssential
	fieldSize
	fieldInstalledSize
	fieldCount

	fieldIgnored fieldKey = -1
)

// indexField tells the fields that Package keeps from those it does not. Archives write the canonical spelling.
func indexField(name []byte) fieldKey {
	switch string(name) {
	case "Package":
		return fieldName
	case "Version":
		return fieldVersion
	case "Source":
		return fieldSource
	case "Depends":
		return fieldDepends
	case "Pre-Depends":
		return fieldPreDepends
	case "Recommends":
		return fieldRecommends
	case "Provides":
		return fieldProvides
	case "Conflicts":
		return fieldConflicts
	case "Breaks":
		return fieldBreaks
	case "Replaces":
		return fieldReplaces
	case "Filename":
		return fieldFilename
	case "SHA256":
		return fieldSHA256
	case "Architecture":
		return fieldArchitecture
	case "Multi-Arch":
		return fieldMultiArch
	case "Priority":
		return fieldPriority
	case "Section":
		return fieldSection
	case "Essential":
		return fieldEssential
	case "Size":
		return fieldSize
	case "Installed-Size":
		return fieldInstalledSize
	}
	return fieldIgnored
}

func (s *indexScanner) next() (Package, error) {
	s.text, s.spans = s.text[:0], [fieldCount]span{}
	current, seen := fieldIgnored, false
	for {
		line, err := s.lines.next()
		if err != nil && err != io.EOF {
			return Package{}, err
		}
		if err == io.EOF || len(line) == 0 {
			if seen {
				return s.pack()
			}
			if err == io.EOF {
				return Package{}, io.EOF
			}
			continue
		}
		if current, err = s.add(line, current); err != nil {
			return Package{}, err
		}
		seen = true
	}
}

// add takes one line and returns the field that a continuation line would belong to.
func (s *indexScanner) add(line []byte, current fieldKey) (fieldKey, error) {
	if len(s.text)+len(line) > maxParagraph {
		return 0, fmt.Errorf("the paragraph is larger than %d bytes", maxParagraph)
	}
	if line[0] == ' ' || line[0] == '\t' {
		if current != fieldIgnored {
			s.text = append(append(s.text, '\n'), line...)
			s.spans[current].to = len(s.text)
		}
		return current, nil
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return 0, fmt.Errorf("%.60q is not \"Name: value\"", line)
	}
	current = indexField(line[:colon])
	if current == fieldIgnored {
		return current, nil
	}
	if s.spans[current].to != 0 {
		return 0, fmt.Errorf("field %s appears twice", line[:colon])
	}
	from := len(s.text)
	if current == fieldSHA256 {
		s.text = append(s.text, digestPrefix...)
	}
	s.text = append(s.text, bytes.Trim(line[colon+1:], " \t")...)
	s.spans[current] = span{from, len(s.text)}
	return current, nil
}

// pack turns the spans into a Package and checks what later stages build paths and requests from.
func (s *indexScanner) pack() (Package, error) {
	text := string(s.text)
	get := func(f fieldKey) string { return text[s.spans[f].from:s.spans[f].to] }
	p := Package{
		Name: get(fieldName), Version: Version(get(fieldVersion)), Architecture: get(fieldArchitecture),
		MultiArch: get(fieldMultiArch), Essential: get(fieldEssential) == "yes",
		Priority: get(fieldPriority), Section: get(fieldSection), Source: get(fieldSource),
		Depends: get(fieldDepends), PreDepends: get(fieldPreDepends), Recommends: get(fieldRecommends),
		Provides: get(fieldProvides), Conflicts: get(fieldConflicts), Breaks: get(fieldBreaks), Replaces: get(fieldReplaces),
		Filename: get(fieldFilename), SHA256: images.Digest(get(fieldSHA256)),
	}
	var err error
	if p.Size, err = parseSize(get(fieldSize)); err != nil {
		return Package{}, fmt.Errorf("package %q: Size: %w", p.Name, err)
	}
	if installed := get(fieldInstalledSize); installed != "" {
		if p.InstalledSize, err = parseSize(installed); err != nil {
			return Package{}, fmt.Errorf("package %q: Installed-Size: %w", p.Name, err)
		}
	}
	return p, p.check()
}

// check refuses an entry that could not be fetched or named safely.
func (p *Package) check() error {
	if !isPackageName(p.Name) {
		return fmt.Errorf("%q is not a package name", p.Name)
	}
	if !isVersionText(string(p.Version)) {
		return fmt.Errorf("package %q: %q is not a version", p.Name, p.Version)
	}
	if p.Architecture == "" || !isArchitecture(p.Architecture) {
		return fmt.Errorf("package %q: %q is not an architecture", p.Name, p.Architecture)
	}
	if !isDigest(string(p.SHA256)) {
		return fmt.Errorf("package %q: its SHA256 is missing or malformed", p.Name)
	}
	if err := checkMirrorPath(p.Filename); err != nil {
		return fmt.Errorf("package %q: Filename: %w", p.Name, err)
	}
	return nil
}

// isDigest is images.ParseDigest without its error, which would cost an allocation per package.
func isDigest(s string) bool {
	if len(s) != len(digestPrefix)+64 {
		return false
	}
	for i := len(digestPrefix); i < len(s); i++ {
		if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parseSize parses a count that Debian writes in plain decimal.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return n, nil
}

// checkMirrorPath refuses a path that would leave the mirror's root or change meaning in a URL.
func checkMirrorPath(s string) error {
	if s == "" || s == "." || path.Clean(s) != s || path.IsAbs(s) || s == ".." || strings.HasPrefix(s, "../") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' || r == '?' || r == '#' }) {
		return fmt.Errorf("%q is not a plain path below the mirror's root", s)
	}
	return nil
}
