package images

import (
	"fmt"
	"slices"
	"strings"
)

// Template is a text with values of the machine and its site in it, each written {{name}}. A recipe declares such files,
// the machine writes them at boot.
//
// It has values and nothing else: no conditions, no loops, no functions. What needs them is written by a program that
// knows the format of the file.
type Template []templatePart

// templatePart is a text, or the name of a value.
type templatePart struct{ text, name string }

// TemplateNames are the values that a machine can give: its host name, the first address of its configuration, and its id,
// which stays when either changes.
func TemplateNames() []string { return []string{"address", "hostname", "id"} }

// ParseTemplate reads a template. The error says which name no machine knows.
func ParseTemplate(s string) (Template, error) {
	var t Template
	for {
		text, rest, found := strings.Cut(s, "{{")
		t = append(t, templatePart{text: text})
		if !found {
			return t, nil
		}
		name, after, closed := strings.Cut(rest, "}}")
		if !closed {
			return nil, fmt.Errorf("cannot read template: \"{{\" without \"}}\"")
		}
		if !slices.Contains(TemplateNames(), name) {
			return nil, fmt.Errorf("cannot read template: %q is no value of a machine", name)
		}
		t, s = append(t, templatePart{name: name}), after
	}
}

// Expand puts the values in. A value that lacks, is empty, or holds anything but printable ASCII without quotes and
// backslash is refused: in most formats it would become a setting of its own.
func (t Template) Expand(values map[string]string) (string, error) {
	var b strings.Builder
	for _, p := range t {
		b.WriteString(p.text)
		if p.name == "" {
			continue
		}
		v := values[p.name]
		if v == "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'\\`$#;=", r) }) {
			return "", fmt.Errorf("cannot use %q as %s in a file", v, p.name)
		}
		b.WriteString(v)
	}
	return b.String(), nil
}
