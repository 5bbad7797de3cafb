package images

import "fmt"

// ParseName checks s as the name of a recipe, and so of its releases: 1 to 48 of a-z, 0-9 and single '-' inside. That is at
// once a component of an OCI repository, a DNS label, and a word of a file name on the ESP (no '_', '+' or '.').
func ParseName(s string) (string, error) {
	if s == "" || len(s) > 48 {
		return "", fmt.Errorf("cannot parse name %q: want 1 to 48 characters", s)
	}
	for i, c := range []byte(s) {
		switch {
		case isDigit(c), c >= 'a' && c <= 'z':
		case c == '-' && i > 0 && i < len(s)-1 && s[i-1] != '-':
		default:
			return "", fmt.Errorf("cannot parse name %q: want words of a-z and 0-9 joined by single '-'", s)
		}
	}
	return s, nil
}
