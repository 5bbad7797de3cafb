package recipe

import (
	"path"
	"strings"
)

// Rule keeps or drops what its pattern matches. In a list of rules the last one that matches decides.
type Rule struct {
	Keep    bool   `json:"keep"`
	Pattern string `json:"pattern"`
}

// Decide applies rules to a path of the image ("/usr/share/doc/bash/README") and reports whether it stays.
// Without a matching rule the answer is otherwise.
func Decide(rules []Rule, file string, otherwise bool) bool {
	for i := len(rules) - 1; i >= 0; i-- {
		if Match(rules[i].Pattern, file) {
			return rules[i].Keep
		}
	}
	return otherwise
}

// DecideModule applies rules to a kernel module by its path below /usr/lib/modules/RELEASE, for example
// "kernel/drivers/net/virtio_net.ko.xz", of which the ending after .ko does not count. A pattern without a slash is
// compared with the module's name, where - and _ are one.
func DecideModule(rules []Rule, file string, otherwise bool) bool {
	name := moduleName(file)
	if i := strings.LastIndex(file, ".ko."); i >= 0 {
		file = file[:i+len(".ko")]
	}
	for i := len(rules) - 1; i >= 0; i-- {
		pattern := rules[i].Pattern
		if !strings.Contains(pattern, "/") {
			if Match(strings.ReplaceAll(pattern, "-", "_"), name) {
				return rules[i].Keep
			}
			continue
		}
		if Match(pattern, file) {
			return rules[i].Keep
		}
	}
	return otherwise
}

// moduleName is the name the kernel knows the module in file by.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// Match reports whether pattern matches file or a directory above it. * stands for any run of characters but /, ? for
// one of them, ** (a whole element) for any number of elements, none included.
func Match(pattern, file string) bool {
	return matchElements(strings.Split(pattern, "/"), strings.Split(file, "/"))
}

// matchElements walks the pattern with one point of return, the last ** seen, so it takes at most len(pattern)·len(file)
// steps.
func matchElements(pattern, file []string) bool {
	p, f := 0, 0
	star, resume := -1, 0
	for {
		switch {
		case p == len(pattern): // what is left of file is below a match
			return true
		case pattern[p] == "**":
			if p == len(pattern)-1 {
				return f < len(file) || len(pattern) == 1
			}
			star, resume = p, f
			p++
			continue
		case f < len(file) && matchElement(pattern[p], file[f]):
			p, f = p+1, f+1
			continue
		}
		if star < 0 || resume >= len(file) {
			return false
		}
		resume++
		p, f = star+1, resume
	}
}

// matchElement matches one path element with * and ?.
func matchElement(pattern, name string) bool {
	p, n := 0, 0
	star, resume := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p, n = p+1, n+1
		case star >= 0:
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
