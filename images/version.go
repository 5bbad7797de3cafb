package images

import (
	"fmt"
	"strings"
)

// Version is a release version in the UAPI.10 version format: digits and letters in parts separated by '.', '-', '~'
// and '^'. '_' and '+' are excluded because file names on the ESP use them as separators (UAPI.1 boot counting).
type Version string

// ParseVersion checks s. Versions are at most 64 bytes.
func ParseVersion(s string) (Version, error) {
	if s == "" || len(s) > 64 {
		return "", fmt.Errorf("cannot parse version %q: want 1 to 64 characters", s)
	}
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && !strings.ContainsRune(".-~^", rune(c)) {
			return "", fmt.Errorf("cannot parse version %q: character %q is not one of a-z A-Z 0-9 . - ~ ^", s, c)
		}
	}
	return Version(s), nil
}

func isAlphanumeric(c byte) bool { return isDigit(c) || isLetter(c) }
func isDigit(c byte) bool        { return c >= '0' && c <= '9' }
func isLetter(c byte) bool       { return (c|0x20) >= 'a' && (c|0x20) <= 'z' }

// Compare orders versions as UAPI.10 does (and systemd-boot with it): -1 when v is older than w, 0 when equal, 1 when newer.
func (v Version) Compare(w Version) int {
	a, b := string(v), string(w)
	for {
		a, b = trimInvalid(a), trimInvalid(b)
		// '~' sorts before everything, the end of the string included.
		if r, done := leading(&a, &b, '~', -1); done {
			return r
		}
		if a == "" || b == "" {
			return compareLength(a, b)
		}
		if r, done := leading(&a, &b, '-', -1); done {
			return r
		}
		if r, done := leading(&a, &b, '^', -1); done {
			return r
		}
		if r, done := leading(&a, &b, '.', -1); done {
			return r
		}
		if r := compareRun(&a, &b); r != 0 {
			return r
		}
	}
}

// leading consumes c at the head of both strings. When only one has it, that one compares as sign.
func leading(a, b *string, c byte, sign int) (result int, done bool) {
	inA, inB := strings.HasPrefix(*a, string(c)), strings.HasPrefix(*b, string(c))
	switch {
	case inA && inB:
		*a, *b = (*a)[1:], (*b)[1:]
	case inA:
		return sign, true
	case inB:
		return -sign, true
	}
	return 0, false
}

func trimInvalid(s string) string {
	for s != "" && !isAlphanumeric(s[0]) && !strings.ContainsRune("~-^.", rune(s[0])) {
		s = s[1:]
	}
	return s
}

func compareLength(a, b string) int {
	switch {
	case a == "" && b == "":
		return 0
	case a == "":
		return -1
	}
	return 1
}

// compareRun consumes one run of digits, else one run of letters, from both strings. A run of digits, be it only zeros, is
// newer than none.
func compareRun(a, b *string) int {
	x, y := takeRun(a, isDigit), takeRun(b, isDigit)
	if x == "" || y == "" {
		if r := compareLength(x, y); r != 0 {
			return r
		}
	} else if r := compareNumber(x, y); r != 0 {
		return r
	}
	if x != "" {
		return 0
	}
	return strings.Compare(takeRun(a, isLetter), takeRun(b, isLetter))
}

func takeRun(s *string, in func(byte) bool) string {
	n := 0
	for n < len(*s) && in((*s)[n]) {
		n++
	}
	run := (*s)[:n]
	*s = (*s)[n:]
	return run
}

func compareNumber(x, y string) int {
	x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
	if len(x) != len(y) {
		if len(x) < len(y) {
			return -1
		}
		return 1
	}
	return strings.Compare(x, y)
}
