package tree

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Rules say which paths leave a tree.
type Rules struct {
	rules []rule
}

type rule struct {
	pattern *regexp.Regexp
	keep    bool
}

// ParseRules reads glob patterns of absolute paths: '*' and '?' stay within a path element, '**' does not, '[...]' is a set
// and '{a,b}' are alternatives. A pattern that matches a directory also means everything below. A pattern that begins
// with '!' keeps what an earlier one removes; the last one that matches decides. The order therefore reads like the recipe
// that states it.
func ParseRules(patterns []string) (Rules, error) {
	var r Rules
	for _, p := range patterns {
		glob, keep := strings.CutPrefix(p, "!")
		if !strings.HasPrefix(glob, "/") {
			return Rules{}, fmt.Errorf("cannot parse rule %q: it must begin with / (or !/ to keep)", p)
		}
		expression, err := translate(glob)
		if err != nil {
			return Rules{}, fmt.Errorf("cannot parse rule %q: %w", p, err)
		}
		r.rules = append(r.rules, rule{pattern: expression, keep: keep})
	}
	return r, nil
}

// Drops tells whether the rules remove path p.
func (r Rules) Drops(p string) bool {
	for i := len(r.rules) - 1; i >= 0; i-- {
		if r.rules[i].pattern.MatchString(p) {
			return !r.rules[i].keep
		}
	}
	return false
}

// Remove returns t without what the rules drop. Directories on the way to a file that stays also stay.
func (t Tree) Remove(r Rules) Tree {
	if len(r.rules) == 0 {
		return t
	}
	kept := make([]Entry, 0, len(t.entries))
	needed := map[string]bool{}
	for i := len(t.entries) - 1; i >= 0; i-- { // children come before their parents this way
		e := t.entries[i]
		if e.Path != "/" && !needed[e.Path] && r.Drops(e.Path) {
			continue
		}
		kept = append(kept, e)
		needed[path.Dir(e.Path)] = true
	}
	for i, j := 0, len(kept)-1; i < j; i, j = i+1, j-1 {
		kept[i], kept[j] = kept[j], kept[i]
	}
	return Tree{entries: kept}
}

// translate turns a glob into a regular expression that matches the path itself and what is below it.
func translate(glob string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString(`\A`)
	depth := 0
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*':
			if strings.HasPrefix(glob[i:], "**") {
				b.WriteString(".*")
				i++
			} else {
				b.WriteString("[^/]*")
			}
		case '?':
			b.WriteString("[^/]")
		case '[':
			end := strings.IndexByte(glob[i:], ']')
			if end < 2 {
				return nil, fmt.Errorf("'[' without ']'")
			}
			set := glob[i+1 : i+end]
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + strings.NewReplacer(`\`, `\\`, "[", `\[`).Replace(set) + "]")
			i += end
		case '{':
			depth++
			b.WriteString("(?:")
		case '}':
			depth--
			b.WriteByte(')')
		case ',':
			if depth > 0 {
				b.WriteByte('|')
			} else {
				b.WriteByte(',')
			}
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
		if depth < 0 {
			return nil, fmt.Errorf("'}' without '{'")
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("'{' without '}'")
	}
	b.WriteString(`(?:/.*)?\z`)
	return regexp.Compile("(?s)" + b.String())
}
