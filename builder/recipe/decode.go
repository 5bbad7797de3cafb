package recipe

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder reads YAML nodes of one file and collects faults. Every reading method returns ok false after a fault, and the
// reader goes on with the next field, so that one run shows all faults.
type decoder struct {
	file   string // name shown in positions
	faults *Faults
}

// field is one key that a mapping may hold.
type field struct {
	name string
	read func(n *yaml.Node)
}

func (d *decoder) at(n *yaml.Node) Position {
	return Position{File: d.file, Line: max(n.Line, 1), Column: max(n.Column, 1)}
}

func (d *decoder) fault(n *yaml.Node, problem, fix string) {
	d.faultAt(d.at(n), problem, fix)
}

func (d *decoder) faultAt(at Position, problem, fix string) {
	if len(*d.faults) < MaxFaults {
		*d.faults = append(*d.faults, Fault{At: at, Problem: problem, Fix: fix})
	}
}

// mapping reads the keys of n through fields and returns the nodes of the keys it saw.
func (d *decoder) mapping(n *yaml.Node, what string, fields ...field) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		d.fault(n, fmt.Sprintf("%s is %s", what, describe(n)), "write fields, like \""+fields[0].name+": …\"")
		return nil
	}
	names := make([]string, len(fields))
	byName := make(map[string]field, len(fields))
	for i, f := range fields {
		names[i], byName[f.name] = f.name, f
	}
	seen := map[string]*yaml.Node{}
	d.pairs(n, what, func(key string, k, v *yaml.Node) {
		f, known := byName[key]
		if !known {
			d.fault(k, fmt.Sprintf("unknown field %q in %s", key, what), didYouMean(key, names))
			return
		}
		seen[key] = k
		if isNull(v) {
			d.fault(k, fmt.Sprintf("field %q is empty", key), "give it a value or delete the line")
			return
		}
		f.read(v)
	})
	return seen
}

// pairs calls visit for each key of a mapping, once per key.
func (d *decoder) pairs(n *yaml.Node, what string, visit func(key string, k, v *yaml.Node)) {
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			d.fault(k, "a key of "+what+" must be a plain word", "reuse parts with include")
			continue
		}
		if line, twice := lines[k.Value]; twice {
			d.fault(k, fmt.Sprintf("%q appears twice in %s, first in line %d", k.Value, what, line), "merge the two")
			continue
		}
		lines[k.Value] = k.Line
		visit(k.Value, k, v)
	}
}

// list calls visit for each entry of a list.
func (d *decoder) list(n *yaml.Node, what string, visit func(n *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		fix := "write a list, like \"[a, b]\" or lines that begin with \"- \""
		if n.Kind == yaml.ScalarNode && !isNull(n) {
			fix = fmt.Sprintf("write \"[%s]\"", n.Value)
		}
		d.fault(n, fmt.Sprintf("%s is %s", what, describe(n)), fix)
		return
	}
	for _, entry := range n.Content {
		if isNull(entry) {
			d.fault(entry, "empty entry in "+what, "delete the line")
			continue
		}
		visit(entry)
	}
}

// text reads any scalar as written, so that 13.10 stays 13.10.
func (d *decoder) text(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.fault(n, fmt.Sprintf("%s is %s", what, describe(n)), "write a text")
		return "", false
	}
	return n.Value, true
}

// word reads a scalar that matches pattern; form says in words what the pattern wants.
func (d *decoder) word(n *yaml.Node, what string, pattern *regexp.Regexp, form string) (string, bool) {
	s, ok := d.text(n, what)
	if ok && !pattern.MatchString(s) {
		d.fault(n, fmt.Sprintf("%q is no valid %s", s, what), "write "+form)
		return "", false
	}
	return s, ok
}

// choice reads one of the known words.
func (d *decoder) choice(n *yaml.Node, what string, known ...string) (string, bool) {
	s, ok := d.text(n, what)
	if !ok {
		return "", false
	}
	for _, k := range known {
		if s == k {
			return s, true
		}
	}
	d.fault(n, fmt.Sprintf("%q is no %s", s, what), didYouMean(s, known))
	return "", false
}

// number reads a whole decimal number between low and high.
func (d *decoder) number(n *yaml.Node, what string, low, high int) (int, bool) {
	s, ok := d.text(n, what)
	if !ok {
		return 0, false
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < low || v > high || strings.HasPrefix(s, "+") {
		d.fault(n, fmt.Sprintf("%q is no valid %s", s, what), fmt.Sprintf("write a whole number from %d to %d", low, high))
		return 0, false
	}
	return v, true
}

// truth reads true or false.
func (d *decoder) truth(n *yaml.Node, what string) bool {
	s, ok := d.text(n, what)
	if !ok || s == "true" || s == "false" {
		return s == "true"
	}
	d.fault(n, fmt.Sprintf("%s is %q", what, s), "write true or false")
	return false
}

// size reads a number of bytes.
func (d *decoder) size(n *yaml.Node, what string, low, high Size) (Size, bool) {
	s, ok := d.text(n, what)
	if !ok {
		return 0, false
	}
	v, err := ParseSize(s)
	switch {
	case err != nil:
		d.fault(n, fmt.Sprintf("%q is no size for %s", s, what), err.Error())
		return 0, false
	case v < low || v > high:
		d.fault(n, fmt.Sprintf("%s of %s is out of range", what, v), fmt.Sprintf("write a size from %s to %s", low, high))
		return 0, false
	case v%MiB != 0:
		d.fault(n, fmt.Sprintf("%s of %s is no multiple of 1MiB", what, v), "partitions are aligned to 1MiB")
		return 0, false
	}
	return v, true
}

// need reports a field that the mapping at n lacks.
func (d *decoder) need(n *yaml.Node, seen map[string]*yaml.Node, what string, names ...string) bool {
	if seen == nil {
		return false
	}
	for _, name := range names {
		if seen[name] == nil {
			d.fault(n, fmt.Sprintf("%s lacks field %q", what, name), fmt.Sprintf("add \"%s: …\"", name))
			return false
		}
	}
	return true
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// describe says what a node is, for "X is a list".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a set of fields"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if isNull(n) {
			return "empty"
		}
		return "the text " + strconv.Quote(shorten(n.Value))
	}
	return "not plain YAML"
}

// shorten keeps a message readable whatever was quoted.
func shorten(s string) string {
	if len(s) <= 60 {
		return s
	}
	return strings.ToValidUTF8(s[:57], "") + "..."
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// document parses the text of one recipe file to its top mapping node.
func (d *decoder) document(data []byte) *yaml.Node {
	top := &yaml.Node{Line: 1, Column: 1}
	if len(data) > MaxFile {
		d.fault(top, fmt.Sprintf("the file has %d bytes", len(data)), fmt.Sprintf("a recipe has at most %d; bring content by source", MaxFile))
		return nil
	}
	var doc yaml.Node
	decode := yaml.NewDecoder(strings.NewReader(string(data)))
	if err := decode.Decode(&doc); err != nil {
		line, text := 1, err.Error()
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			text = text[len(m[0]):]
			if n, err := strconv.Atoi(m[1]); err == nil {
				line = n
			}
		}
		if text == "EOF" {
			d.fault(top, "the file is empty", "write fields, like \"name: …\"")
			return nil
		}
		if strings.HasPrefix(text, "did not find expected") {
			line++ // the library counts the lines of its parser's errors from 0, of its scanner's from 1
		}
		d.faultAt(Position{d.file, line, 1}, "cannot parse YAML: "+text, "look for an open bracket or quote, a tab, or wrong indentation")
		return nil
	}
	var more yaml.Node
	if err := decode.Decode(&more); err == nil {
		d.fault(&more, "a second YAML document", "a recipe file is one document; include the other")
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || isNull(doc.Content[0]) {
		d.fault(top, "the file is empty", "write fields, like \"name: …\"")
		return nil
	}
	if !d.plain(doc.Content[0]) {
		return nil
	}
	return doc.Content[0]
}

// plain refuses the YAML that makes a text mean something else further down: anchors, aliases and own tags.
func (d *decoder) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n, "YAML anchors and aliases are not part of the recipe language", "reuse parts with include")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n, fmt.Sprintf("YAML tag %q is not part of the recipe language", n.Tag), "write the plain value")
		return false
	}
	for _, c := range n.Content {
		if !d.plain(c) {
			return false
		}
	}
	return true
}
