package depot

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"roost/images"
)

// Reference says where a depot is and, optionally, which release in it is meant. The forms are
//
//	oci:DIR[:NAME[:VERSION]]          a layout directory, as containers/image writes it
//	archive:FILE[:NAME[:VERSION]]     a single-file archive
//	[docker://]HOST[/REPOSITORY[:VERSION|@DIGEST]]   a registry; HOST has a dot, a port or is localhost
//	/DIR, ./DIR, out/DIR, ./FILE …    a path; a directory is a layout, a file an archive
//
// What has a '/' but no host before it is a path; one word alone is refused, as it may be meant as NAME or as DIR.
type Reference struct {
	Kind       Kind
	Path       string        // of the directory or file
	Host       string        // of the registry, with port
	Repository string        // in a registry; "" for all
	Name       string        // of the release, in a layout or archive
	Version    string        // "" for none given
	Digest     images.Digest // "" for none given
}

// Kind is the kind of a depot.
type Kind string

// The kinds of depot.
const (
	KindLayout   Kind = "oci"
	KindArchive  Kind = "archive"
	KindRegistry Kind = "registry"
	kindPath     Kind = "" // layout or archive: the file system knows
)

// ParseReference reads a reference. It does not look whether the depot exists.
func ParseReference(s string) (Reference, error) {
	r, err := parseReference(s)
	if err != nil {
		return Reference{}, fmt.Errorf("cannot parse depot reference %q: %w", s, err)
	}
	return r, nil
}

func parseReference(s string) (Reference, error) {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return Reference{}, fmt.Errorf("control character")
	}
	for _, kind := range []Kind{KindLayout, KindArchive} {
		if rest, ok := strings.CutPrefix(s, string(kind)+":"); ok {
			return parsePath(kind, rest)
		}
	}
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") || s == "." || s == ".." {
		return parsePath(kindPath, s)
	}
	if rest, ok := strings.CutPrefix(s, "docker://"); ok {
		return parseRegistry(rest)
	}
	first, _, ok := strings.Cut(s, "/")
	if !ok {
		return Reference{}, errForm // NAME:VERSION looks like HOST:PORT
	}
	if !hasHost(first) {
		return parsePath(kindPath, s)
	}
	return parseRegistry(s)
}

func parsePath(kind Kind, s string) (Reference, error) {
	path, which, _ := strings.Cut(s, ":")
	if path == "" {
		return Reference{}, fmt.Errorf("no path")
	}
	r := Reference{Kind: kind, Path: path}
	if which == "" {
		return r, nil
	}
	r.Name, r.Version, _ = strings.Cut(which, ":")
	if _, err := images.ParseName(r.Name); err != nil {
		return Reference{}, err
	}
	return r, r.checkVersion()
}

// repositoryPattern is the grammar of repository names in the OCI distribution specification.
var repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// tagPattern is the grammar of tags there.
var tagPattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// hasHost tells a registry's host from a directory, as container tools do.
func hasHost(s string) bool { return strings.ContainsAny(s, ".:") || s == "localhost" }

// hostPattern is a name or an address, with an optional port.
var hostPattern = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)

var errForm = errors.New("want oci:DIR, archive:FILE, a path with a /, or HOST/REPOSITORY with a dot or port in HOST")

const maxRepository = 255

func validRepository(s string) bool {
	return len(s) <= maxRepository && repositoryPattern.MatchString(s)
}
func validTag(s string) bool { return tagPattern.MatchString(s) }

func parseRegistry(s string) (Reference, error) {
	host, rest, _ := strings.Cut(s, "/")
	if !hasHost(host) {
		return Reference{}, errForm
	}
	if !hostPattern.MatchString(host) {
		return Reference{}, fmt.Errorf("%q is no host", host)
	}
	r := Reference{Kind: KindRegistry, Host: host}
	repository, digest, hasDigest := strings.Cut(rest, "@")
	repository, r.Version, _ = strings.Cut(repository, ":")
	r.Repository = repository
	if hasDigest {
		var err error
		if r.Digest, err = images.ParseDigest(digest); err != nil {
			return Reference{}, err
		}
	}
	if repository == "" && (r.Version != "" || hasDigest) {
		return Reference{}, fmt.Errorf("no repository")
	}
	if repository != "" && !validRepository(repository) {
		return Reference{}, fmt.Errorf("%q is no repository name", repository)
	}
	return r, r.checkVersion()
}

// checkVersion accepts a version or the tag that stands for it.
func (r Reference) checkVersion() error {
	if r.Version == "" || validTag(r.Version) {
		return nil
	}
	_, err := images.ParseVersion(r.Version)
	return err
}

// String returns the reference in a form that ParseReference reads.
func (r Reference) String() string {
	s := string(r.Kind) + ":" + r.Path
	switch r.Kind {
	case KindRegistry:
		s = "docker://" + r.Host
		if r.Repository != "" {
			s += "/" + r.Repository
		}
	case kindPath:
		s = r.Path
	}
	if r.Name != "" {
		s += ":" + r.Name
	}
	if r.Version != "" {
		s += ":" + r.Version
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// Loopback reports whether the registry is on this machine, the only place where HTTP without TLS goes without saying.
func (r Reference) Loopback() bool {
	host, _, found := cutLast(r.Host, ":")
	if !found {
		host = r.Host
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// cutLast is strings.Cut around the last separator.
func cutLast(s, separator string) (before, after string, found bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(separator):], true
}
