package recipe

import (
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a recipe file. Line and Column count from 1.
type Position struct {
	File   string
	Line   int
	Column int
}

func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Fault is one thing wrong in a recipe.
type Fault struct {
	At      Position
	Problem string // what is wrong
	Fix     string // what to write instead
}

func (f Fault) Error() string {
	if f.Fix == "" {
		return fmt.Sprintf("%s: %s", f.At, f.Problem)
	}
	return fmt.Sprintf("%s: %s: %s", f.At, f.Problem, f.Fix)
}

// Faults are all things wrong in a recipe, in reading order, at most [MaxFaults].
type Faults []Fault

// MaxFaults bounds a report; who has more faults than this has one fault.
const MaxFaults = 20

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// suggest returns the known word nearest to word, or "" when none is near enough to be what was meant.
func suggest(word string, known []string) string {
	best, bound := "", max(1, len(word)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < bound {
			best, bound = k, d
		}
	}
	return best
}

// distance is the Damerau-Levenshtein distance (optimal string alignment) of two short words.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var before, above []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row = above, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// didYouMean is the fix for a word that is not among the known ones.
func didYouMean(word string, known []string) string {
	if s := suggest(word, known); s != "" {
		return fmt.Sprintf("did you mean %q?", s)
	}
	if s := otherName(word); slices.Contains(known, s) {
		return fmt.Sprintf("did you mean %q?", s)
	}
	sorted := slices.Sorted(slices.Values(known))
	return "known are " + strings.Join(sorted, ", ")
}

// otherName is the recipe's word for what has another name elsewhere.
func otherName(word string) string {
	switch strings.ToLower(word) {
	case "rt", "preempt-rt", "lowlatency":
		return "realtime"
	case "generic", "default":
		return "standard"
	case "x86_64", "x86-64", "x64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "hostname":
		return "name"
	case "arch":
		return "architecture"
	case "distro":
		return "distribution"
	case "services":
		return "units"
	}
	return ""
}
