package software

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"roost/appliance/api"
	"roost/images"
	"roost/updater"
	"roost/updater/kept"
	"roost/updater/slot"
)

const (
	agentFile    = "agent.json"
	maxFailures  = 16
	maxLogLines  = 200
	phaseRefused = "refused"
)

// Engine is the update engine of this host; *updater.Updater is one.
type Engine interface {
	Status() updater.State
	Update(ctx context.Context, reference string, force bool) error
	Rollback(ctx context.Context) error
	Clear(manifest images.Digest) error
}

// Files keeps small files through power loss; *durable.Dir is one.
type Files interface {
	Read(name string) ([]byte, error)
	Write(name string, b []byte) error
}

// Agent carries the site's wishes to the update engine of this host, and its facts back.
//
// Each wish has a name, and the agent acts on each name once, also across a crash: what came of it then stands until the
// site wishes anew. So a release that failed is not tried in a loop, whatever the site says.
type Agent struct {
	Engine   Engine
	Files    Files
	RootHash string                           // of the running root
	Slot     string                           // that holds it: a or b
	Records  func() ([]slot.Installed, error) // what the slots hold
	Kept     func() (*kept.Record, error)     // of the state of before the last update; nil: none is kept
	Begin    func() error                     // called before an update is asked for; nil: nothing
	Patience time.Duration                    // for a release to be found and judged, while the host reports nothing; 10 s when zero
	Log      *slog.Logger

	mu      sync.Mutex // guards the fields below
	journal journal
	trouble string // why a wish could not be acted on yet; tried again at the next beat
}

// journal is what the agent remembers.
type journal struct {
	Attempted string        `json:"attempted,omitempty"`
	Refused   string        `json:"refused,omitempty"`  // why the attempt did not begin
	Rollback  string        `json:"rollback,omitempty"` // last rollback acted on
	Failures  []api.Failure `json:"failures,omitempty"` // evidence, kept when the engine goes on to another release
}

// Load reads what the agent remembers.
func (a *Agent) Load() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, err := a.Files.Read(agentFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &a.journal)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", agentFile, err)
	}
	return nil
}

func (a *Agent) save() error {
	b, err := json.MarshalIndent(&a.journal, "", "  ")
	if err == nil {
		err = a.Files.Write(agentFile, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", agentFile, err)
	}
	return nil
}

// Obey acts on the site's orders. It returns when the engine has accepted or refused; the engine works by itself.
func (a *Agent) Obey(ctx context.Context, orders *api.Orders) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trouble = ""
	for _, release := range orders.Cleared {
		if err := a.Engine.Clear(release); err != nil {
			a.trouble = err.Error()
			return nil
		}
		a.journal.Failures = slices.DeleteFunc(a.journal.Failures, func(f api.Failure) bool { return f.Release == release })
		if err := a.save(); err != nil {
			return err
		}
	}
	if orders.Rollback != "" && orders.Rollback != a.journal.Rollback {
		if err := a.Engine.Rollback(ctx); err != nil {
			a.Log.Warn("cannot roll back", "error", err)
			a.journal.Refused = err.Error()
		}
		a.journal.Rollback = orders.Rollback
		return a.save()
	}
	if orders.Wanted == nil || orders.Attempt == a.journal.Attempted {
		return nil
	}
	return a.attempt(ctx, orders)
}

// attempt asks the engine for the wanted release. A refusal answers the wish; any other error leaves it to be tried again.
func (a *Agent) attempt(ctx context.Context, orders *api.Orders) error {
	if a.Begin != nil {
		if err := a.Begin(); err != nil {
			return err
		}
	}
	patience := a.Patience
	if patience == 0 {
		patience = 10 * time.Second
	}
	limited, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the site's registry did not answer within %s", patience))
	defer cancel()
	err := a.Engine.Update(limited, orders.Wanted.Name+"@"+string(orders.Wanted.Digest), orders.Force)
	if err != nil && !refusal(err) {
		a.trouble = err.Error()
		a.Log.Warn("cannot begin update yet", "release", orders.Wanted.Version, "error", err)
		return nil
	}
	a.journal.Attempted, a.journal.Refused = orders.Attempt, ""
	if err != nil {
		a.journal.Refused = err.Error()
		a.Log.Warn("refuse update", "release", orders.Wanted.Version, "error", err)
	}
	return a.save()
}

func refusal(err error) bool {
	for _, known := range []error{
		updater.ErrFailedBefore, updater.ErrOlder, updater.ErrRebuilt, updater.ErrFloor, updater.ErrArchitecture, updater.ErrName, updater.ErrDoesNotFit, updater.ErrNoSlots,
		kept.ErrNoRoom, ErrUntrusted,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// ErrUntrusted says that a release is not signed by a key that this host trusts. No retry will change that.
var ErrUntrusted = errors.New("the release is not signed by a trusted key")

// Facts is the software of this host as it is now.
func (a *Agent) Facts() (api.Software, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	state := a.Engine.Status()
	if err := a.remember(&state); err != nil {
		return api.Software{}, err
	}
	records, err := a.Records()
	if err != nil {
		return api.Software{}, err
	}
	out := api.Software{
		Slot: a.Slot, Trial: state.Phase == updater.Trial || state.Phase == updater.Healthy,
		Attempted: a.journal.Attempted, Rollback: a.journal.Rollback,
		Phase: string(state.Phase), Progress: progress(state.Phase), Error: state.Reason, Failures: a.failures(&state),
	}
	out.Running, out.Fallback = a.installed(&state, records)
	if a.Kept != nil {
		if r, err := a.Kept(); err != nil {
			out.Kept = &api.KeptState{Trouble: err.Error()}
		} else {
			out.Kept = keptState(r)
		}
	}
	if a.journal.Refused != "" && !state.Phase.Busy() {
		out.Phase, out.Error = phaseRefused, a.journal.Refused
	}
	if a.trouble != "" {
		out.Error = a.trouble
	}
	return out, nil
}

// installed tells what runs and what the other slot can fall back to.
func (a *Agent) installed(state *updater.State, records []slot.Installed) (running, fallback *api.Release) {
	var known []slot.Installed
	if state.Target != nil && state.Phase != updater.Failed {
		known = append(known, state.Target.Installed)
	}
	if state.From != nil {
		known = append(known, *state.From)
	}
	for _, r := range append(known, records...) {
		if running == nil && r.RootHash == a.RootHash {
			running = release(r)
		}
	}
	back := state.From != nil && (state.Phase == updater.Committed || state.Phase == updater.Trial || state.Phase == updater.Healthy)
	if back && (running == nil || state.From.Manifest != running.Digest) {
		fallback = release(*state.From)
	}
	return running, fallback
}

func release(i slot.Installed) *api.Release {
	return &api.Release{Digest: i.Manifest, Name: i.Name, Version: i.Version, RootHash: i.RootHash}
}

// keptState is a record of kept state for people. Of one that only says what is wanted there is nothing to tell.
func keptState(r *kept.Record) *api.KeptState {
	if r == nil || r.At.IsZero() && r.Trouble == "" {
		return nil
	}
	out := &api.KeptState{Before: r.Target.Version, Bytes: r.Bytes, Seconds: r.Seconds, Time: r.At, Returned: r.Returned, Trouble: r.Trouble}
	for _, d := range r.Restore {
		out.Directories = append(out.Directories, d.Path)
	}
	return out
}

// remember keeps the evidence of a failed release, for the engine keeps only the last.
func (a *Agent) remember(state *updater.State) error {
	if state.Phase != updater.RolledBack || state.Left == nil || state.Target == nil || state.Left.Detail == "" {
		return nil
	}
	found := failure(state)
	if slices.ContainsFunc(a.journal.Failures, func(f api.Failure) bool { return f.Release == found.Release && f.Time.Equal(found.Time) }) {
		return nil
	}
	a.journal.Failures = slices.DeleteFunc(a.journal.Failures, func(f api.Failure) bool { return f.Release == found.Release })
	a.journal.Failures = slices.Insert(a.journal.Failures, 0, found)
	if len(a.journal.Failures) > maxFailures {
		a.journal.Failures = a.journal.Failures[:maxFailures]
	}
	return a.save()
}

func failure(state *updater.State) api.Failure {
	left := state.Left
	out := api.Failure{Release: state.Target.Manifest, Version: state.Target.Version, Reason: left.Detail, Time: state.Since}
	if len(left.Gates) > 0 {
		out.Gate = left.Gates[0].Name
		if left.Gates[0].Output != "" {
			out.Reason += ": " + left.Gates[0].Output
		}
	}
	out.Log, out.Source = left.Log, "journal"
	if len(left.Pstore) > 0 {
		out.Log, out.Source = left.Pstore, "pstore"
	}
	if len(out.Log) == 0 {
		out.Source = ""
	}
	if n := len(out.Log); n > maxLogLines {
		out.Log = out.Log[n-maxLogLines:]
	}
	return out
}

// failures lists what the engine refuses, with the evidence where it is left.
func (a *Agent) failures(state *updater.State) (out []api.Failure) {
	for _, r := range state.Refused {
		f := api.Failure{Release: r.Manifest, Version: r.Version, Reason: string(r.Cause), Time: r.At}
		if i := slices.IndexFunc(a.journal.Failures, func(f api.Failure) bool { return f.Release == r.Manifest }); i >= 0 {
			f = a.journal.Failures[i]
		}
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(x, y api.Failure) int { return y.Time.Compare(x.Time) })
	return out
}

// progress is a rough percentage of a whole update, for people who watch.
func progress(phase updater.Phase) int {
	order := []updater.Phase{updater.Fetched, updater.Written, updater.Verified, updater.Armed, updater.Trial, updater.Healthy, updater.Committed}
	return (slices.Index(order, phase) + 1) * 100 / len(order)
}
