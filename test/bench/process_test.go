package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestOutput(t *testing.T) {
	if text, err := output(t.Context(), "sh", "-c", "echo figure; echo talk >&2"); err != nil || text != "figure\n" {
		t.Errorf("%q, %v", text, err)
	}
	text, err := output(t.Context(), "sh", "-c", "echo figure; echo first >&2; echo the reason >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "first | the reason") || text != "figure\n" {
		t.Errorf("%q, %v; want the program's last words in the error", text, err)
	}
	if _, err := output(t.Context(), "/no/such/program"); err == nil {
		t.Error("a program that is not there gives no error")
	}
}

// TestServiceLeavesNothing stops a service whose child would live on.
func TestServiceLeavesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	s, err := start(t.Context(), nil, "sh", "-c", "sleep 600 & echo $! > "+file+".new; mv "+file+".new "+file+"; wait")
	if err != nil {
		t.Fatal(err)
	}
	cleaned := false
	s.after = func() { cleaned = true }
	written := func() bool { _, err := os.Stat(file); return err == nil }
	if err := s.await(t.Context(), 10*time.Second, written); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	if !cleaned {
		t.Error("what is to run after the service did not run")
	}
	if !gone(child) {
		t.Errorf("child %d lives on", child)
	}
}

// gone waits until a process is dead: a killed one may take a moment, and lies as a zombie until its new parent looks.
func gone(pid int) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			return true
		}
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestAwait(t *testing.T) {
	never := func() bool { return false }
	s, err := start(t.Context(), nil, "sh", "-c", "echo port is taken >&2; exit 1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.await(t.Context(), time.Minute, never); err == nil || !strings.Contains(err.Error(), "port is taken") {
		t.Errorf("a service that ended gives %v", err)
	}
	s.stop()
	if s, err = start(t.Context(), nil, "sleep", "600"); err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.await(t.Context(), 10*time.Millisecond, never); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a service that does not answer gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.await(ctx, time.Minute, never); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted wait gives %v", err)
	}
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-only", "speed"}, 2, `no part "speed"`},
		{[]string{"-o", "xml"}, 2, "cannot use these arguments"},
		{[]string{"-fast"}, 2, "not defined"},
		{[]string{"build"}, 2, "cannot use these arguments"},
		{[]string{"-role", "{}"}, 1, "no role"},
		{[]string{"-role", `{"fetch":{"URL":"tftp://nowhere/x","Machines":1}}`}, 1, "nowhere"},
	} {
		var out, errs strings.Builder
		if code := run(t.Context(), c.args, strings.NewReader(""), &out, &errs); code != c.code || !strings.Contains(errs.String(), c.says) || out.Len() > 0 {
			t.Errorf("%v ends with %d and says %q; want %d and %q", c.args, code, errs.String(), c.code, c.says)
		}
	}
}

// TestStatus holds the exit status: 1 when a part of ours fails or the run is interrupted, 0 else, though a peer fails or a
// target is missed.
func TestStatus(t *testing.T) {
	rows := []Row{{What: "x", Unit: Seconds, Target: Target{Limit: 1}, Results: []Result{{Who: ours, Value: 2}, {Who: "peer", Failure: "missing"}}}}
	ctx, cancel := context.WithCancel(t.Context())
	for _, c := range []struct {
		name string
		run  func(context.Context) ([]Row, error)
		want int
		says string
	}{
		{"missed", func(context.Context) ([]Row, error) { return rows, nil }, 0, "2.00 s"},
		{"failed with rows", func(context.Context) ([]Row, error) { return rows, errors.New("broke") }, 1, "2.00 s"},
		{"failed", func(context.Context) ([]Row, error) { return nil, errors.New("broke") }, 1, ""},
		{"interrupted", func(context.Context) ([]Row, error) { cancel(); return rows, nil }, 1, ""},
	} {
		var out strings.Builder
		b := &bench{words: &strings.Builder{}, begun: time.Now()}
		if got := b.conduct(ctx, t.TempDir(), []part{{c.name, c.run}}, "table", &out); got != c.want || !strings.Contains(out.String(), c.says) || c.says == "" && out.Len() > 0 {
			t.Errorf("%s: status %d and %q, want %d and %q", c.name, got, out.String(), c.want, c.says)
		}
	}
}

// TestPartsGoOn runs parts of which one fails: the others are measured, the table has a row of each, the failure is told.
func TestPartsGoOn(t *testing.T) {
	var words strings.Builder
	b := &bench{words: &words, begun: time.Now()}
	row := func(value float64) []Row {
		return []Row{{What: "x", Unit: Seconds, Results: []Result{{Who: ours, Value: value}}}}
	}
	broken := errors.New("it broke")
	err := b.measure(t.Context(), t.TempDir(), []part{
		{"one", func(context.Context) ([]Row, error) { return row(1), nil }},
		{"two", func(context.Context) ([]Row, error) { return nil, broken }},
		{"three", func(context.Context) ([]Row, error) { return row(3), nil }},
	})
	if !errors.Is(err, broken) || len(b.table.Rows) != 2 || b.table.Rows[1].Part != "three" {
		t.Errorf("%v, %+v", err, b.table.Rows)
	}
	if !strings.Contains(words.String(), "part two failed: it broke") {
		t.Errorf("it says %q", words.String())
	}
	if b.table.Host.CPUs == 0 || b.table.Host.Memory == 0 || b.table.Host.Load == "" || b.table.Host.Kernel == "" {
		t.Errorf("host is %+v", b.table.Host)
	}
}

func TestOneBenchPerDirectory(t *testing.T) {
	dir := t.TempDir()
	first, second := &bench{words: &strings.Builder{}, begun: time.Now()}, &bench{words: &strings.Builder{}, begun: time.Now()}
	err := first.measure(t.Context(), dir, []part{{"holds", func(ctx context.Context) ([]Row, error) {
		return nil, second.measure(ctx, dir, nil)
	}}})
	if err == nil || !strings.Contains(err.Error(), "another bench does") {
		t.Errorf("a second bench in the same directory gives %v", err)
	}
}
