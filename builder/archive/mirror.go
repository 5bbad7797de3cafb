package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"roost/builder/deb"
)

// Mirror is where Debian comes from: base URLs in order of preference. Security suites have bases of their own.
type Mirror struct {
	Main     []*url.URL
	Security []*url.URL
}

// Bases returns the base URLs that serve suite.
func (m Mirror) Bases(suite string) []*url.URL {
	if strings.HasSuffix(suite, "-security") {
		return m.Security
	}
	return m.Main
}

// ParseMirror parses what --mirror and ROOST_MIRROR hold: base URLs separated by blanks or commas. A base whose last
// directory is debian-security, or which follows one of another name and was written as security=URL, serves the security
// suites. Where none is given it is the sibling debian-security of each main base.
func ParseMirror(s string) (Mirror, error) {
	var m Mirror
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' }) {
		word, marked := strings.CutPrefix(word, "security=")
		u, err := parseBase(word)
		if err != nil {
			return Mirror{}, fmt.Errorf("cannot use mirror: %w", err)
		}
		if marked || hasSegment(u, "debian-security") {
			m.Security = append(m.Security, u)
		} else {
			m.Main = append(m.Main, u)
		}
	}
	if len(m.Main) == 0 {
		return Mirror{}, errors.New("cannot use mirror: it names no base URL such as http://HOST/debian")
	}
	return m.withSecurity(), nil
}

func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(s, "/"))
	if err != nil {
		return nil, errors.New("it is not a URL") // the cause would repeat a password
	}
	if (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") && (u.Scheme != "file" || u.Path == "") {
		return nil, fmt.Errorf("%s is not a http, https or file URL", u.Redacted())
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%s has a query or a fragment", u.Redacted())
	}
	return u, nil
}

// withSecurity derives missing security bases. A base without a directory named debian serves both.
func (m Mirror) withSecurity() Mirror {
	if len(m.Security) > 0 {
		return m
	}
	for _, u := range m.Main {
		parts := strings.Split(u.Path, "/")
		for i, part := range slices.Backward(parts) {
			if part == "debian" {
				parts[i] = "debian-security"
				break
			}
		}
		sibling := *u
		sibling.Path, sibling.RawPath = strings.Join(parts, "/"), ""
		m.Security = append(m.Security, &sibling)
	}
	return m
}

func hasSegment(u *url.URL, name string) bool {
	return slices.Contains(strings.Split(u.Path, "/"), name)
}

// FindMirror returns the mirror to use: flag if not empty, else ROOST_MIRROR, else what the apt configuration below root
// names (root is os.DirFS("/") outside tests).
func FindMirror(flag string, getenv func(string) string, root fs.FS) (Mirror, error) {
	if flag != "" {
		return ParseMirror(flag)
	}
	if env := getenv("ROOST_MIRROR"); env != "" {
		m, err := ParseMirror(env)
		if err != nil {
			return m, fmt.Errorf("ROOST_MIRROR: %w", err)
		}
		return m, nil
	}
	m, err := aptMirror(root)
	if err != nil {
		return m, fmt.Errorf("cannot find a Debian mirror: %w; name one with --mirror or ROOST_MIRROR", err)
	}
	return m, nil
}

// aptSource is one line of apt's sources: a base and a suite on it.
type aptSource struct {
	base, suite string
	signedBy    string
}

// aptMirror collects the Debian bases of the host's apt sources (sources.list(5)). It skips what it cannot read: a broken
// file of some third party must not stop a build.
func aptMirror(root fs.FS) (Mirror, error) {
	var sources []aptSource
	if text, err := fs.ReadFile(root, "etc/apt/sources.list"); err == nil {
		sources = append(sources, parseOneLine(string(text))...)
	}
	entries, _ := fs.ReadDir(root, "etc/apt/sources.list.d")
	for _, entry := range entries {
		text, err := fs.ReadFile(root, path.Join("etc/apt/sources.list.d", entry.Name()))
		switch {
		case err != nil:
		case strings.HasSuffix(entry.Name(), ".list"):
			sources = append(sources, parseOneLine(string(text))...)
		case strings.HasSuffix(entry.Name(), ".sources"):
			sources = append(sources, parseDeb822Sources(text)...)
		}
	}
	var m Mirror
	for _, s := range sources {
		u, err := parseBase(s.base)
		if err != nil || !s.isDebian(u) {
			continue
		}
		list := &m.Main
		if strings.HasSuffix(s.suite, "-security") || hasSegment(u, "debian-security") {
			list = &m.Security
		}
		if !slices.ContainsFunc(*list, func(have *url.URL) bool { return *have == *u }) {
			*list = append(*list, u)
		}
	}
	if len(m.Main) == 0 {
		return m, errors.New("this host's apt sources name none")
	}
	return m.withSecurity(), nil
}

// isDebian tells Debian's own suites from third parties: by the key that apt checks them with, or by a Debian suite name
// below a directory that mirrors use. Other distributions have other suite names.
func (s aptSource) isDebian(u *url.URL) bool {
	if strings.Contains(s.signedBy, "debian-archive") {
		return true
	}
	stem, _, _ := strings.Cut(s.suite, "-")
	stem, _, _ = strings.Cut(stem, "/")
	known := []string{"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid", "bullseye", "bookworm", "trixie", "forky", "duke"}
	return slices.Contains(known, stem) && (hasSegment(u, "debian") || hasSegment(u, "debian-security"))
}

// parseOneLine parses the form "deb [options] URI suite components".
func parseOneLine(text string) []aptSource {
	var all []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || !strings.ContainsAny(rest[:1], " \t") {
			continue
		}
		rest = strings.TrimSpace(rest)
		var options string
		if strings.HasPrefix(rest, "[") {
			if options, rest, ok = strings.Cut(rest[1:], "]"); !ok {
				continue
			}
		}
		if words := strings.Fields(rest); len(words) >= 2 {
			all = append(all, aptSource{base: words[0], suite: words[1], signedBy: options})
		}
	}
	return all
}

// parseDeb822Sources parses *.sources files.
func parseDeb822Sources(text []byte) []aptSource {
	paragraphs, err := deb.ParseParagraphs(text)
	if err != nil {
		return nil
	}
	var all []aptSource
	for _, p := range paragraphs {
		if strings.EqualFold(p.Get("Enabled"), "no") || !slices.Contains(strings.Fields(p.Get("Types")), "deb") {
			continue
		}
		for _, base := range strings.Fields(p.Get("URIs")) {
			for _, suite := range strings.Fields(p.Get("Suites")) {
				all = append(all, aptSource{base, suite, p.Get("Signed-By")})
			}
		}
	}
	return all
}
