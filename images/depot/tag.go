package depot

import (
	"strings"

	"roost/images"
)

// Tags of registries know fewer characters than versions. '_' is free as an escape: no version contains it.
var tagEscapes = [...]struct{ version, tag string }{{"~", "_t"}, {"^", "_c"}}

// Tag returns the tag of a version: the version itself, with '~' as "_t" and '^' as "_c", and "_0" before a leading
// separator.
func Tag(v images.Version) string {
	s := string(v)
	for _, e := range tagEscapes {
		s = strings.ReplaceAll(s, e.version, e.tag)
	}
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "-") {
		s = "_0" + s
	}
	return s
}

// tagOf accepts a version or its tag, as people type both.
func tagOf(s string) string { return Tag(images.Version(s)) }

// internalTag reports whether a tag names an attachment instead of a release.
func internalTag(tag string) bool {
	digits, ok := strings.CutPrefix(tag, "sha256-")
	if !ok {
		return false
	}
	digits, _, _ = strings.Cut(digits, ".")
	_, err := images.ParseDigest("sha256:" + digits)
	return err == nil
}
