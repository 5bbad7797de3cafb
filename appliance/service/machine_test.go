package service

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "secret")
	if Written(path, "word", 0o600) == nil {
		t.Error("a file that is not there is as it should be")
	}
	if err := Write(path, "word", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Written(path, "word", 0o600); err != nil {
		t.Error(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(path, "word", 0o600); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("a file that is as it should be was replaced: %v", err)
	}
	// What a crash left must not lend its mode to the next text.
	if err := os.WriteFile(path+".new", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for text, mode := range map[string]os.FileMode{"word": 0o640, "other": 0o400} {
		if err := Write(path, text, mode); err != nil {
			t.Fatal(err)
		}
		if err := Written(path, text, mode); err != nil {
			t.Error(err)
		}
	}
}

// unit is a machine with one unit.
type unit struct {
	Machine
	state   string
	started time.Time
}

func (u unit) UnitState(context.Context, string) (string, error)      { return u.state, nil }
func (u unit) UnitStarted(context.Context, string) (time.Time, error) { return u.started, nil }

func TestRuns(t *testing.T) {
	root, now := t.TempDir(), time.Now()
	if err := os.WriteFile(filepath.Join(root, "settings"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		unit  unit
		input string
		want  string
	}{
		{unit{state: "active", started: now.Add(time.Hour)}, "settings", ""},
		{unit{state: "reloading", started: now.Add(time.Hour)}, "settings", "x.service is reloading"},
		{unit{state: "active", started: now.Add(-time.Hour)}, "settings", "x.service runs with an older /settings"},
		{unit{state: "active", started: now.Add(time.Hour)}, "other", "x.service lacks "},
	} {
		got := ""
		if err := Runs(t.Context(), test.unit, "x.service", []string{"active"}, root, []string{test.input}); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%+v with %s: %q, want %q", test.unit, test.input, got, test.want)
		}
	}
}
