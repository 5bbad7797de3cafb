package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	results := func(own float64, peers ...float64) []Result {
		all := []Result{{Who: ours, Value: own}}
		for i, v := range peers {
			all = append(all, Result{Who: string(rune('a' + i)), Value: v})
		}
		return all
	}
	failed := Result{Who: "a", Failure: "not installed"}
	for _, c := range []struct {
		name string
		row  Row
		want Verdict
	}{
		{"no target", Row{Unit: Seconds, Results: results(1)}, NoClaim},
		{"below the limit", Row{Unit: Seconds, Target: Target{Limit: 90}, Results: results(89)}, Met},
		{"at the limit", Row{Unit: Seconds, Target: Target{Limit: 90}, Results: results(90)}, Met},
		{"over the limit", Row{Unit: Seconds, Target: Target{Limit: 90}, Results: results(91)}, Missed},
		{"over a limit from below", Row{Unit: Rate, Target: Target{Limit: 90}, Results: results(91)}, Met},
		{"under a limit from below", Row{Unit: Rate, Target: Target{Limit: 90}, Results: results(89)}, Missed},
		{"twice as fast as the best", Row{Unit: Seconds, Target: Target{Times: 2}, Results: results(10, 30, 20)}, Met},
		{"not twice as fast as the best", Row{Unit: Seconds, Target: Target{Times: 2}, Results: results(10, 30, 19)}, Missed},
		{"more than the best", Row{Unit: Exchanges, Target: Target{Times: 1}, Results: results(10, 9, 2)}, Met},
		{"less than the best", Row{Unit: Exchanges, Target: Target{Times: 1}, Results: results(10, 2, 11)}, Missed},
		{"twice one named peer", Row{Unit: Seconds, Target: Target{Times: 2, Over: "a"}, Results: results(10, 20, 5)}, Met},
		{"limit met, factor missed", Row{Unit: Seconds, Target: Target{Limit: 90, Times: 2}, Results: results(10, 15)}, Missed},
		{"limit missed, factor met", Row{Unit: Seconds, Target: Target{Limit: 9, Times: 2}, Results: results(10, 25)}, Missed},
		{"the only peer failed", Row{Unit: Seconds, Target: Target{Times: 2}, Results: append(results(10), failed)}, Open},
		{"one of two peers failed", Row{Unit: Seconds, Target: Target{Times: 2}, Results: append(results(10), failed, Result{Who: "b", Value: 20})}, Met},
		{"the named peer failed", Row{Unit: Seconds, Target: Target{Times: 2, Over: "a"}, Results: append(results(10), failed, Result{Who: "b", Value: 20})}, Open},
		{"ours failed", Row{Unit: Seconds, Target: Target{Limit: 90}, Results: []Result{{Who: ours, Failure: "broken"}}}, Open},
		{"nothing lost", Row{Unit: Percent, Target: Target{Times: 1}, Results: results(0, 3)}, Met},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.row.judge(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestText holds every promise of the printed table: one line per row, peers below each other, failures with their reason as
// a note, equal notes once, targets in words.
func TestText(t *testing.T) {
	table := Table{Host: Host{CPUs: 2, Model: "Some CPU", Memory: 24 << 30, Kernel: "6.12", Load: "0.01 0.02 0.03"}, Took: 61 * time.Second}
	table.add("build",
		Row{What: "build of edge", Unit: Seconds, Target: Target{Limit: 90, Times: 2},
			Results: []Result{{Who: ours, Value: 40, Note: "packages cached"}, {Who: "mkosi", Value: 120.04, Note: "packages cached"}, {Who: "other", Failure: "it is not installed"}}},
		Row{What: "root image", Unit: Megabytes, Target: Target{Limit: 450}, Results: []Result{{Who: ours, Value: 379.7}}})
	table.add("tftp", Row{What: "TFTP", Unit: Rate, Results: []Result{{Who: ours, Failure: "port is taken"}, {Who: "dnsmasq", Value: 44}}})
	want := `WHAT           ROOST       PEERS                  TARGET                  MET
build of edge  40.0 s [1]  mkosi 120 s (3.0x) [1]  ≤ 90.0 s, ≥ 2x best peer  yes
                           other failed [2]
root image     380 MB                             ≤ 450 MB                  yes
TFTP           failed [3]  dnsmasq 44.0 MB/s
[1] packages cached
[2] it is not installed
[3] port is taken
2 CPUs (Some CPU), 24 GB, Linux 6.12; load before the run 0.01 0.02 0.03; took 1m1s.
`
	var b strings.Builder
	if err := table.writeText(&b); err != nil {
		t.Fatal(err)
	}
	if squeeze(b.String()) != squeeze(want) {
		t.Errorf("table is\n%s\nwant\n%s", b.String(), want)
	}
}

// squeeze makes runs of blanks one, so that a test does not hold the widths of columns.
func squeeze(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestColumnsAlign(t *testing.T) {
	var table Table
	table.add("x", Row{What: "short", Unit: Seconds, Results: []Result{{Who: ours, Value: 1}, {Who: "peer", Value: 2}}},
		Row{What: "a longer name", Unit: Seconds, Results: []Result{{Who: ours, Value: 100}, {Who: "peer", Value: 2}}})
	var b strings.Builder
	if err := table.writeText(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if at := strings.Index(lines[0], "PEERS"); at < 0 || strings.Index(lines[1], "peer") != at || strings.Index(lines[2], "peer") != at {
		t.Errorf("columns do not align:\n%s", b.String())
	}
}

func TestJSON(t *testing.T) {
	var table Table
	table.add("dhcp", Row{What: "exchanges", Unit: Exchanges, Target: Target{Times: 1}, Results: []Result{{Who: ours, Value: 5000}, {Who: "kea", Failure: "missing"}}})
	var b strings.Builder
	if err := table.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rows []struct {
			Part    string
			Met     string
			Results []struct {
				Who, Failure string
				Value        float64
			}
		}
	}
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 1 || got.Rows[0].Part != "dhcp" || got.Rows[0].Met != "unknown" || got.Rows[0].Results[0].Value != 5000 || got.Rows[0].Results[1].Failure != "missing" {
		t.Errorf("JSON is %s", b.String())
	}
}

func TestWrap(t *testing.T) {
	text := strings.Repeat("word ", 60)
	lines := strings.Split(wrap("[12] ", text), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3: %q", len(lines), lines)
	}
	for i, line := range lines {
		if len(line) > 120 {
			t.Errorf("line %d has %d characters", i, len(line))
		}
		if i > 0 && !strings.HasPrefix(line, "     word") {
			t.Errorf("line %d is not below the text: %q", i, line)
		}
	}
	if got := strings.Join(strings.Fields(strings.TrimPrefix(strings.Join(lines, " "), "[12]")), " "); got != strings.TrimSpace(text) {
		t.Errorf("words were lost: %q", got)
	}
}
