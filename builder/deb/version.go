package deb

import (
	"fmt"
	"strings"
)

// Version is a Debian package version: [epoch:]upstream[-revision] (Debian policy 5.6.12). The zero value is no version
// and sorts before every other, except those starting with a tilde.
type Version string

// ParseVersion checks s as strictly as dpkg checks a package that it builds.
func ParseVersion(s string) (Version, error) {
	if err := checkVersion(s); err != nil {
		return "", fmt.Errorf("cannot parse version %q: %w", s, err)
	}
	return Version(s), nil
}

func checkVersion(s string) error {
	if s == "" {
		return fmt.Errorf("it is empty")
	}
	upstream, revision := s, ""
	if epoch, rest, ok := strings.Cut(s, ":"); ok {
		if !isNumber(epoch) || compareNumbers(epoch, "2147483647") > 0 {
			return fmt.Errorf("epoch %q is not a number from 0 to 2147483647", epoch)
		}
		upstream = rest
	}
	if i := strings.LastIndexByte(upstream, '-'); i >= 0 {
		upstream, revision = upstream[:i], upstream[i+1:]
		if revision == "" {
			return fmt.Errorf("the revision after '-' is empty")
		}
	}
	if upstream == "" || !isDigit(upstream[0]) {
		return fmt.Errorf("the upstream part does not start with a digit")
	}
	if i := strings.IndexFunc(upstream, func(r rune) bool { return !isVersionRune(r, ".-+~:") }); i >= 0 {
		return fmt.Errorf("character %q is not a letter, a digit or one of .-+~: of ASCII", upstream[i])
	}
	if i := strings.IndexFunc(revision, func(r rune) bool { return !isVersionRune(r, ".+~") }); i >= 0 {
		return fmt.Errorf("character %q in the revision is not one of A-Z a-z 0-9 . + ~", revision[i])
	}
	return nil
}

func isVersionRune(r rune, extra string) bool {
	return r < 0x80 && (isDigit(byte(r)) || isLetter(byte(r)) || strings.ContainsRune(extra, r))
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return (c|0x20) >= 'a' && (c|0x20) <= 'z' }

func isNumber(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// Compare returns -1 when v is older than w, 0 when dpkg holds them equal, 1 when v is newer.
// It is a total order on all strings, so that an unchecked version cannot confuse a sort.
func (v Version) Compare(w Version) int {
	if v == w {
		return 0
	}
	ve, vu, vr := v.split()
	we, wu, wr := w.split()
	if c := compareNumbers(ve, we); c != 0 {
		return c
	}
	if c := comparePart(vu, wu); c != 0 {
		return c
	}
	return comparePart(vr, wr)
}

// Epoch returns the digits before the first colon, or "" when there is no epoch.
func (v Version) Epoch() string { e, _, _ := v.split(); return e }

// Upstream returns the upstream part, without epoch and revision.
func (v Version) Upstream() string { _, u, _ := v.split(); return u }

// Revision returns the part after the last hyphen, or "".
func (v Version) Revision() string { _, _, r := v.split(); return r }

// WithoutEpoch returns v as it stands in the names of .deb files.
func (v Version) WithoutEpoch() string {
	if e := v.Epoch(); e != "" {
		return string(v)[len(e)+1:]
	}
	return string(v)
}

func (v Version) split() (epoch, upstream, revision string) {
	s := string(v)
	if i := strings.IndexByte(s, ':'); i > 0 && isNumber(s[:i]) {
		epoch, s = s[:i], s[i+1:]
	}
	if i := strings.LastIndexByte(s, '-'); i >= 0 {
		return epoch, s[:i], s[i+1:]
	}
	return epoch, s, ""
}

// comparePart compares an upstream part or a revision: alternately a run of non-digits, in which letters sort before
// everything else and '~' before even the end, and a run of digits compared as a number.
func comparePart(a, b string) int {
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		for (i < len(a) && !isDigit(a[i])) || (j < len(b) && !isDigit(b[j])) {
			if x, y := weight(a, i), weight(b, j); x != y {
				return sign(x - y)
			}
			i, j = i+1, j+1
		}
		i0, j0 := i, j
		for i < len(a) && isDigit(a[i]) {
			i++
		}
		for j < len(b) && isDigit(b[j]) {
			j++
		}
		if c := compareNumbers(a[i0:i], b[j0:j]); c != 0 {
			return c
		}
	}
	return 0
}

// weight is the sort key of s[i] among non-digits. The end of the string and a digit weigh the same.
func weight(s string, i int) int {
	switch {
	case i >= len(s) || isDigit(s[i]):
		return 0
	case s[i] == '~':
		return -1
	case isLetter(s[i]):
		return int(s[i])
	}
	return int(s[i]) + 256
}

// compareNumbers compares two runs of digits of any length; an empty run is zero.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return sign(len(a) - len(b))
	}
	return strings.Compare(a, b)
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
