package deb

import (
	"fmt"
	"slices"
	"strings"
)

// Op is the operator of a version restriction (Debian policy 7.1).
type Op uint8

const (
	OpAny          Op = iota // no restriction
	OpLess                   // <<
	OpLessEqual              // <=
	OpEqual                  // =
	OpGreaterEqual           // >=
	OpGreater                // >>
)

func (op Op) String() string {
	return [...]string{"", "<<", "<=", "=", ">=", ">>"}[op]
}

// Relation names packages: one name, perhaps only some versions of it, perhaps only on some architectures.
type Relation struct {
	Name          string
	Qualifier     string // after the colon: "any", "native" or an architecture; "" when absent
	Op            Op
	Version       Version  // set when Op is not OpAny
	Architectures []string // in brackets, each perhaps with a leading '!'; nil means all
	Profiles      []string // build profile groups, as written between < and >; never in binary packages
}

// Relations is a conjunction of alternatives, the value of Depends and its kin: each element is satisfied by any one of its relations.
// For Provides, Conflicts, Breaks and Replaces every element has exactly one relation; see ParseList.
type Relations [][]Relation

// Holds reports whether v satisfies the version restriction.
func (r Relation) Holds(v Version) bool {
	c := 0
	if r.Op != OpAny {
		c = v.Compare(r.Version)
	}
	switch r.Op {
	case OpLess:
		return c < 0
	case OpLessEqual:
		return c <= 0
	case OpEqual:
		return c == 0
	case OpGreaterEqual:
		return c >= 0
	case OpGreater:
		return c > 0
	}
	return true
}

// HeldBy reports whether the Provides entry p satisfies r: the names agree, and a versioned relation needs a versioned
// entry whose version fits (Debian policy 7.5). Qualifiers are the resolver's matter.
func (r Relation) HeldBy(p Relation) bool {
	if r.Name != p.Name {
		return false
	}
	return r.Op == OpAny || (p.Op == OpEqual && r.Holds(p.Version))
}

// AppliesTo reports whether the architecture restriction admits arch. Wildcards such as linux-any are understood.
func (r Relation) AppliesTo(arch string) bool {
	if len(r.Architectures) == 0 {
		return true
	}
	negated := strings.HasPrefix(r.Architectures[0], "!")
	for _, a := range r.Architectures {
		if matchArchitecture(strings.TrimPrefix(a, "!"), arch) {
			return !negated
		}
	}
	return negated
}

func matchArchitecture(pattern, arch string) bool {
	switch pattern {
	case arch, "any":
		return true
	case "linux-any":
		return !strings.Contains(arch, "-")
	}
	return pattern == "any-"+arch
}

func (r Relation) String() string {
	var b strings.Builder
	b.WriteString(r.Name)
	if r.Qualifier != "" {
		b.WriteString(":" + r.Qualifier)
	}
	if r.Op != OpAny {
		fmt.Fprintf(&b, " (%s %s)", r.Op, r.Version)
	}
	if len(r.Architectures) > 0 {
		b.WriteString(" [" + strings.Join(r.Architectures, " ") + "]")
	}
	for _, p := range r.Profiles {
		b.WriteString(" <" + p + ">")
	}
	return b.String()
}

func (rs Relations) String() string {
	groups := make([]string, len(rs))
	for i, group := range rs {
		names := make([]string, len(group))
		for j, r := range group {
			names[j] = r.String()
		}
		groups[i] = strings.Join(names, " | ")
	}
	return strings.Join(groups, ", ")
}

// ParseRelations parses the value of Depends, Pre-Depends, Recommends and the like.
func ParseRelations(s string) (Relations, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	all := make(Relations, 0, strings.Count(s, ",")+1)
	for clause := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(clause) == "" {
			continue // dpkg accepts a trailing comma
		}
		group := make([]Relation, 0, strings.Count(clause, "|")+1)
		for text := range strings.SplitSeq(clause, "|") {
			r, err := parseRelation(text)
			if err != nil {
				return nil, fmt.Errorf("cannot parse relation %q: %w", strings.TrimSpace(text), err)
			}
			group = append(group, r)
		}
		all = append(all, group)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// ParseList parses the value of Provides, Conflicts, Breaks, Replaces or Enhances, in which alternatives are not allowed.
func ParseList(s string) ([]Relation, error) {
	all, err := ParseRelations(s)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	list := make([]Relation, len(all))
	for i, group := range all {
		if len(group) != 1 {
			return nil, fmt.Errorf("cannot parse relation %q: alternatives are not allowed here", Relations{group})
		}
		list[i] = group[0]
	}
	return list, nil
}

// parseRelation parses name[:qualifier] [(op version)] [[architectures]] [<profiles>]...
func parseRelation(s string) (Relation, error) {
	s = trimBlanks(s)
	end := strings.IndexAny(s, " \t\n([<")
	if end < 0 {
		end = len(s)
	}
	var r Relation
	r.Name, r.Qualifier, _ = strings.Cut(s[:end], ":")
	if !isPackageName(r.Name) {
		return r, fmt.Errorf("%q is not a package name", r.Name)
	}
	if strings.HasSuffix(s[:end], ":") || !isArchitecture(r.Qualifier) {
		return r, fmt.Errorf("%q is not an architecture qualifier", r.Qualifier)
	}
	for s = trimBlanks(s[end:]); s != ""; s = trimBlanks(s) {
		var err error
		if s, err = r.parseRestriction(s); err != nil {
			return r, err
		}
	}
	return r, nil
}

// parseRestriction consumes one bracketed part at the head of s.
func (r *Relation) parseRestriction(s string) (rest string, err error) {
	i := strings.IndexByte("([<", s[0])
	if i < 0 {
		return "", fmt.Errorf("unexpected %q", s)
	}
	inside, rest, ok := strings.Cut(s[1:], ")]>"[i:i+1])
	if !ok {
		return "", fmt.Errorf("%q is not closed", s)
	}
	inside = trimBlanks(inside)
	switch {
	case s[0] == '(' && r.Op == OpAny:
		r.Op, r.Version, err = parseRestrictionVersion(inside)
	case s[0] == '[' && r.Architectures == nil:
		r.Architectures, err = parseArchitectures(inside)
	case s[0] == '<' && inside != "" && !strings.ContainsAny(inside, "<([)]"):
		r.Profiles = append(r.Profiles, strings.Join(strings.Fields(inside), " "))
	default:
		err = fmt.Errorf("unexpected %q", s)
	}
	return rest, err
}

func parseRestrictionVersion(s string) (Op, Version, error) {
	n := 0
	for n < len(s) && strings.IndexByte("<>=", s[n]) >= 0 {
		n++
	}
	op := OpAny
	switch s[:n] {
	case "<<":
		op = OpLess
	case "<=", "<": // the single forms are obsolete spellings of "or equal"
		op = OpLessEqual
	case "=", "":
		op = OpEqual
	case ">=", ">":
		op = OpGreaterEqual
	case ">>":
		op = OpGreater
	default:
		return OpAny, "", fmt.Errorf("unknown operator %q", s[:n])
	}
	v := trimBlanks(s[n:])
	if !isVersionText(v) {
		return OpAny, "", fmt.Errorf("%q is not a version", v)
	}
	return op, Version(v), nil
}

// isVersionText is laxer than ParseVersion: real relations hold versions such as "dev" that no package ever has.
func isVersionText(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !isVersionRune(r, ".-+~:") })
}

func parseArchitectures(s string) ([]string, error) {
	list := strings.Fields(s)
	if len(list) == 0 {
		return nil, fmt.Errorf("the list of architectures is empty")
	}
	negated := strings.HasPrefix(list[0], "!")
	for _, a := range list {
		name := strings.TrimPrefix(a, "!")
		if name == "" || !isArchitecture(name) || strings.HasPrefix(a, "!") != negated {
			return nil, fmt.Errorf("%q is not a list of architectures, all or none with '!'", s)
		}
	}
	return slices.Clip(list), nil
}

func isPackageName(s string) bool {
	if len(s) < 2 || s[0] == '-' || s[0] == '+' || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		// Capitals are not policy, but third-party archives have them.
		if c := s[i]; !isDigit(c) && !isLetter(c) && c != '-' && c != '+' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

func isArchitecture(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && !isLetter(c) && c != '-' {
			return false
		}
	}
	return true
}

func trimBlanks(s string) string { return strings.Trim(s, " \t\n\r") }
