package software

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/images"
	"roost/updater"
	"roost/updater/slot"
)

// engine records what it is asked.
type engine struct {
	state  updater.State
	asked  []string
	answer error
}

func (e *engine) Status() updater.State { return e.state }
func (e *engine) Update(_ context.Context, reference string, force bool) error {
	e.asked = append(e.asked, "update "+reference)
	return e.answer
}
func (e *engine) Rollback(context.Context) error {
	e.asked = append(e.asked, "rollback")
	return e.answer
}
func (e *engine) Clear(manifest images.Digest) error {
	e.asked = append(e.asked, "clear "+string(manifest))
	return e.answer
}

func (e *engine) take() string {
	out := strings.Join(e.asked, ", ")
	e.asked = nil
	return out
}

// memory is a directory that loses its last write when told to.
type memory struct {
	files map[string][]byte
	fail  bool
}

func (m *memory) Read(name string) ([]byte, error) {
	b, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m *memory) Write(name string, b []byte) error {
	if m.fail {
		return errors.New("power is gone")
	}
	m.files[name] = b
	return nil
}

func newAgent(t *testing.T, e *engine, files *memory) *Agent {
	t.Helper()
	a := &Agent{Engine: e, Files: files, RootHash: "r1", Slot: "a", Log: slog.New(slog.DiscardHandler),
		Records: func() ([]slot.Installed, error) {
			return []slot.Installed{{Manifest: "sha256:one", Name: "edge", Version: "1", RootHash: "r1"}}, nil
		}}
	if err := a.Load(); err != nil {
		t.Fatal(err)
	}
	return a
}

func obey(t *testing.T, a *Agent, o *api.Orders) {
	t.Helper()
	if err := a.Obey(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func facts(t *testing.T, a *Agent) api.Software {
	t.Helper()
	f, err := a.Facts()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func want(attempt string) *api.Orders {
	return &api.Orders{Wanted: &api.Release{Name: "edge", Digest: "sha256:two"}, Attempt: attempt}
}

func TestEachWishOnce(t *testing.T) {
	e, files := &engine{}, &memory{files: map[string][]byte{}}
	a := newAgent(t, e, files)
	obey(t, a, want("1"))
	obey(t, a, want("1"))
	if got := e.take(); got != "update edge@sha256:two" {
		t.Errorf("asked %q", got)
	}
	a = newAgent(t, e, files) // a restart remembers
	obey(t, a, want("1"))
	if got := e.take(); got != "" || facts(t, a).Attempted != "1" {
		t.Errorf("asked again after a restart: %q", got)
	}
	obey(t, a, want("2"))
	if got := e.take(); got != "update edge@sha256:two" {
		t.Errorf("a new wish is not acted on: %q", got)
	}
	// Power goes after the engine accepted and before that is remembered: it is asked again, which it bears.
	files.fail = true
	if err := a.Obey(t.Context(), want("3")); err == nil {
		t.Error("a lost memory is no error")
	}
	e.take()
	files.fail = false
	a = newAgent(t, e, files)
	obey(t, a, want("3"))
	if got := e.take(); got != "update edge@sha256:two" {
		t.Errorf("after the crash: %q", got)
	}
}

func TestRefusalAnswersTheWish(t *testing.T) {
	e := &engine{answer: updater.ErrDoesNotFit}
	a := newAgent(t, e, &memory{files: map[string][]byte{}})
	obey(t, a, want("1"))
	f := facts(t, a)
	if f.Phase != "refused" || f.Attempted != "1" || f.Error == "" {
		t.Errorf("after a refusal: %+v", f)
	}
	obey(t, a, want("1"))
	if got := e.take(); got != "update edge@sha256:two" {
		t.Errorf("a refusal is tried again: %q", got)
	}
	e.answer = nil
	obey(t, a, want("2"))
	if f = facts(t, a); f.Phase == "refused" {
		t.Errorf("the refusal outlives its wish: %+v", f)
	}
}

func TestTroubleIsTriedAgain(t *testing.T) {
	e := &engine{answer: errors.New("the registry does not answer")}
	a := newAgent(t, e, &memory{files: map[string][]byte{}})
	obey(t, a, want("1"))
	if f := facts(t, a); f.Attempted != "" || !strings.Contains(f.Error, "registry") {
		t.Errorf("in trouble: %+v", f)
	}
	e.answer = nil
	obey(t, a, want("1"))
	if f := facts(t, a); f.Attempted != "1" || f.Error != "" {
		t.Errorf("out of trouble: %+v", f)
	}
	if got := e.take(); got != "update edge@sha256:two, update edge@sha256:two" {
		t.Errorf("asked %q", got)
	}
}

func TestRollbackOnce(t *testing.T) {
	e, files := &engine{}, &memory{files: map[string][]byte{}}
	a := newAgent(t, e, files)
	obey(t, a, &api.Orders{Rollback: "7"})
	a = newAgent(t, e, files)
	obey(t, a, &api.Orders{Rollback: "7"})
	if got := e.take(); got != "rollback" || facts(t, a).Rollback != "7" {
		t.Errorf("asked %q", got)
	}
	e.answer = updater.ErrNoFallback
	obey(t, a, &api.Orders{Rollback: "8"})
	if f := facts(t, a); f.Rollback != "8" || f.Error == "" {
		t.Errorf("a refused rollback: %+v", f)
	}
}

// TestEvidenceIsKept has the engine forget one failure for the next; the agent keeps both until they are cleared.
func TestEvidenceIsKept(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	e, files := &engine{}, &memory{files: map[string][]byte{}}
	fail := func(release images.Digest, at time.Time, left updater.Evidence) {
		e.state.Phase, e.state.Since, e.state.Left = updater.RolledBack, at, &left
		e.state.Target = &updater.Target{Installed: slot.Installed{Manifest: release, Version: "9"}}
		e.state.Refused = append(e.state.Refused, updater.Refusal{Manifest: release, Version: "9", Cause: left.Cause, At: at})
	}
	a := newAgent(t, e, files)
	fail("sha256:a", noon, updater.Evidence{Cause: updater.CauseGate, Detail: "held before the update and not after it: web",
		Gates: []updater.Result{{Name: "web", Output: "not listening"}}, Log: []string{"web: oops"}})
	f := facts(t, a)
	if len(f.Failures) != 1 || f.Failures[0].Gate != "web" || f.Failures[0].Source != "journal" || !strings.Contains(f.Failures[0].Reason, "not listening") {
		t.Fatalf("first failure: %+v", f.Failures)
	}
	fail("sha256:b", noon.Add(time.Hour), updater.Evidence{Cause: updater.CausePanic, Detail: "the kernel panicked", Log: []string{"x"}, Pstore: []string{"Kernel panic"}})
	a = newAgent(t, e, files)
	f = facts(t, a)
	if len(f.Failures) != 2 || f.Failures[0].Release != "sha256:b" || f.Failures[0].Source != "pstore" || f.Failures[1].Log[0] != "web: oops" {
		t.Fatalf("both failures: %+v", f.Failures)
	}
	e.state.Refused = e.state.Refused[1:]
	obey(t, a, &api.Orders{Cleared: []images.Digest{"sha256:a"}})
	if got := e.take(); got != "clear sha256:a" {
		t.Errorf("asked %q", got)
	}
	if f = facts(t, a); len(f.Failures) != 1 || f.Failures[0].Release != "sha256:b" {
		t.Errorf("after clearing one: %+v", f.Failures)
	}
}

func TestWhatRuns(t *testing.T) {
	e := &engine{}
	a := newAgent(t, e, &memory{files: map[string][]byte{}})
	one := slot.Installed{Manifest: "sha256:one", Version: "1", RootHash: "r1"}
	two := slot.Installed{Manifest: "sha256:two", Version: "2", RootHash: "r2"}
	for _, test := range []struct {
		phase             updater.Phase
		root              string
		running, fallback images.Digest
		trial             bool
	}{
		{updater.Idle, "r1", "sha256:one", "", false},
		{updater.Written, "r1", "sha256:one", "", false},
		{updater.Trial, "r2", "sha256:two", "sha256:one", true},
		{updater.Committed, "r2", "sha256:two", "sha256:one", false},
		{updater.RolledBack, "r1", "sha256:one", "", false},
		{updater.Failed, "r1", "sha256:one", "", false},
	} {
		a.RootHash = test.root
		e.state = updater.State{Phase: test.phase}
		if test.phase != updater.Idle {
			e.state.Target, e.state.From = &updater.Target{Installed: two}, &one
		}
		f := facts(t, a)
		fallback := images.Digest("")
		if f.Fallback != nil {
			fallback = f.Fallback.Digest
		}
		if f.Running == nil || f.Running.Digest != test.running || fallback != test.fallback || f.Trial != test.trial {
			t.Errorf("%s: runs %+v, falls back to %q, trial %v", test.phase, f.Running, fallback, f.Trial)
		}
	}
}
