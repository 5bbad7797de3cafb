package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

// ours is the name of our column.
const ours = "roost"

// Unit is what a figure counts. It decides how a figure is written and whether more of it is better.
type Unit string

// Units.
const (
	Seconds   Unit = "s"
	Megabytes Unit = "MB"
	Rate      Unit = "MB/s"
	Exchanges Unit = "/s"
	Percent   Unit = "%"
)

// rises reports whether more is better.
func (u Unit) rises() bool { return u == Rate || u == Exchanges }

func (u Unit) format(v float64) string {
	switch {
	case u == Exchanges:
		return fmt.Sprintf("%.0f/s", v)
	case u == Percent:
		return fmt.Sprintf("%.1f %%", v)
	case u == Seconds && v < 10:
		return fmt.Sprintf("%.2f s", v)
	case v >= 100:
		return fmt.Sprintf("%.0f %s", v, u)
	}
	return fmt.Sprintf("%.1f %s", v, u)
}

// Result is what one side reached: a figure, or the reason why there is none.
type Result struct {
	Who     string  `json:"who"`
	Value   float64 `json:"value"`
	Failure string  `json:"failure,omitempty"` // why there is no figure
	Note    string  `json:"note,omitempty"`    // what has to be known to compare
}

// Target is what a row has to reach. The zero value wants nothing.
type Target struct {
	Limit float64 `json:"limit,omitempty"` // at most, or at least where more is better; 0 = none
	Times float64 `json:"times,omitempty"` // better than the best peer by this factor; 0 = none
	Over  string  `json:"over,omitempty"`  // of Times: this peer instead of the best
}

// Row is one line of the table: ours first, then peers.
type Row struct {
	Part    string   `json:"part"`
	What    string   `json:"what"`
	Unit    Unit     `json:"unit"`
	Results []Result `json:"results"`
	Target  Target   `json:"target"`
	Met     Verdict  `json:"met"` // filled by the table
}

// Verdict says whether a target was met.
type Verdict string

// Verdicts.
const (
	Met     Verdict = "yes"
	Missed  Verdict = "no"
	Open    Verdict = "unknown" // no figure of ours, or no peer to compare with
	NoClaim Verdict = ""        // there is no target
)

// result returns the result of a side.
func (r *Row) result(who string) (Result, bool) {
	for _, x := range r.Results {
		if x.Who == who && x.Failure == "" {
			return x, true
		}
	}
	return Result{}, false
}

// best returns the best figure of the peers that have one.
func (r *Row) best() (Result, bool) {
	var best Result
	found := false
	for _, x := range r.Results {
		if x.Who == ours || x.Failure != "" || r.Target.Over != "" && x.Who != r.Target.Over {
			continue
		}
		if !found || r.Unit.rises() == (x.Value > best.Value) {
			best, found = x, true
		}
	}
	return best, found
}

// times returns how many times better we are than a figure.
func (r *Row) times(own, peer float64) float64 {
	if r.Unit.rises() {
		own, peer = peer, own
	}
	if own == 0 {
		return math.Inf(1)
	}
	return peer / own
}

// judge compares our figure with the target.
func (r *Row) judge() Verdict {
	if r.Target.Limit == 0 && r.Target.Times == 0 {
		return NoClaim
	}
	own, ok := r.result(ours)
	if !ok {
		return Open
	}
	if limit := r.Target.Limit; limit != 0 && own.Value != limit && r.Unit.rises() == (own.Value < limit) {
		return Missed
	}
	if r.Target.Times == 0 {
		return Met
	}
	peer, ok := r.best()
	switch {
	case !ok:
		return Open
	case r.times(own.Value, peer.Value) < r.Target.Times:
		return Missed
	}
	return Met
}

// text is the target as people say it.
func (r *Row) target() string {
	var words []string
	if r.Target.Limit != 0 {
		sign := "≤ "
		if r.Unit.rises() {
			sign = "≥ "
		}
		words = append(words, sign+r.Unit.format(r.Target.Limit))
	}
	if r.Target.Times != 0 {
		over := "best peer"
		if r.Target.Over != "" {
			over = r.Target.Over
		}
		words = append(words, fmt.Sprintf("≥ %gx %s", r.Target.Times, over))
	}
	return strings.Join(words, ", ")
}

// Table is everything a run has measured.
type Table struct {
	Host Host          `json:"host"`
	Rows []Row         `json:"rows"`
	Took time.Duration `json:"took"`
}

// Host says where figures come from.
type Host struct {
	CPUs   int    `json:"cpus"`
	Model  string `json:"model"`
	Memory int64  `json:"memory"` // bytes
	Kernel string `json:"kernel"`
	Load   string `json:"load"` // load averages before the run
}

// add judges rows and takes them in.
func (t *Table) add(part string, rows ...Row) {
	for _, r := range rows {
		r.Part, r.Met = part, r.judge()
		t.Rows = append(t.Rows, r)
	}
}

// writeJSON writes the table for programs.
func (t *Table) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(t)
}

// writeText writes the table for people. Peers stand below each other in one column; notes follow the table.
func (t *Table) writeText(w io.Writer) error {
	var text strings.Builder
	lines := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	n := notes{numbers: map[string]int{}}
	fmt.Fprintln(lines, "WHAT\tROOST\tPEERS\tTARGET\tMET")
	for _, r := range t.Rows {
		own, peers := "", []string{}
		for _, x := range r.Results {
			cell := n.cell(r, x)
			if x.Who == ours {
				own = cell
				continue
			}
			peers = append(peers, x.Who+" "+cell)
		}
		peers = append(peers, "")[:max(1, len(peers))]
		fmt.Fprintf(lines, "%s\t%s\t%s\t%s\t%s\n", r.What, own, peers[0], r.target(), r.Met)
		for _, p := range peers[1:] {
			fmt.Fprintf(lines, "\t\t%s\t\t\n", p)
		}
	}
	if err := lines.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	for i, note := range n.list {
		if _, err := fmt.Fprintf(w, "%s\n", wrap(fmt.Sprintf("[%d] ", i+1), note)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d CPUs (%s), %d GB, Linux %s; load before the run %s; took %s.\n",
		t.Host.CPUs, t.Host.Model, t.Host.Memory>>30, t.Host.Kernel, t.Host.Load, t.Took.Round(time.Second))
	return err
}

// notes numbers the notes of a table; the same words get the same number.
type notes struct {
	list    []string
	numbers map[string]int
}

func (n *notes) mark(note string) string {
	if note == "" {
		return ""
	}
	if n.numbers[note] == 0 {
		n.list = append(n.list, note)
		n.numbers[note] = len(n.list)
	}
	return fmt.Sprintf(" [%d]", n.numbers[note])
}

// cell is a figure with how much better we are, or "failed", each with the number of its note.
func (n *notes) cell(r Row, x Result) string {
	if x.Failure != "" {
		return "failed" + n.mark(x.Failure)
	}
	cell := r.Unit.format(x.Value)
	if own, ok := r.result(ours); ok && x.Who != ours && own.Value > 0 && x.Value > 0 {
		cell += fmt.Sprintf(" (%.1fx)", r.times(own.Value, x.Value))
	}
	return cell + n.mark(x.Note)
}

// wrap breaks a note into lines of 120 characters, indented below its number.
func wrap(mark, text string) string {
	var b strings.Builder
	b.WriteString(mark)
	column := len(mark)
	for i, word := range strings.Fields(text) {
		width := utf8.RuneCountInString(word)
		if i > 0 && column+1+width > 120 {
			b.WriteString("\n" + strings.Repeat(" ", len(mark)))
			column = len(mark)
		} else if i > 0 {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += width
	}
	return b.String()
}
