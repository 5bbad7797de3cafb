package updater

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"roost/images"
	"roost/images/durable"
	"roost/updater/boot"
	"roost/updater/kept"
	"roost/updater/slot"
)

// Source is an open release whose signature was verified against the machine's trust.
type Source struct {
	Manifest images.Digest
	Release  images.Release
	// Open gives the bytes of a part as used, decompressed. Size and digest are checked by the reader of them.
	Open func(context.Context, images.Kind) (io.ReadCloser, error)
	// Close, if set, is called once when the source is not needed any more.
	Close func() error
}

func (s *Source) close() {
	if s.Close != nil {
		_ = s.Close() // all that was read from it was checked
	}
}

// Fetcher finds releases.
type Fetcher interface {
	// Open finds the release and verifies its signature; of what is not signed by a trusted key it gives nothing.
	Open(ctx context.Context, reference string) (*Source, error)
}

// Slots is the disk; *slot.Disk is one.
type Slots interface {
	Slots() ([]slot.Slot, error)
	Write(context.Context, slot.ID, slot.Content) error
	Check(ctx context.Context, id slot.ID, rootHash string) error
	Seal(ctx context.Context, id slot.ID, rootHash string) error
}

// Boot is the EFI system partition; boot.Partition is one.
type Boot interface {
	// Use mounts the partition, calls f, and unmounts.
	Use(ctx context.Context, f func(boot.ESP) error) error
}

// Gates runs health checks.
type Gates interface {
	Check(context.Context, []images.Gate) []Result // one result for each, in order
}

// Host is the running machine.
type Host interface {
	Facts(context.Context) (Facts, error)
	// Evidence returns what is left of a boot, by its kernel boot id; of the boot before this one when that is empty.
	Evidence(ctx context.Context, boot string) (Found, error)
	Reboot(context.Context) error // returns when the reboot is under way
}

// Facts are what the running system knows of itself.
type Facts struct {
	Boot         string // kernel boot id
	Uptime       time.Duration
	Architecture string // Debian's name
	RootHash     string // of the running root
	Started      boot.Started
}

// Updater performs what Step decides. Its fields are set before the first call and not changed.
type Updater struct {
	Journal *durable.Dir // holds update.json and slots.json
	Fetcher Fetcher
	Slots   Slots
	Boot    Boot
	Gates   Gates
	Host    Host
	Kept    *kept.Store // the state of components from before a trial; nil: none is kept
	Log     *slog.Logger
	Now     func() time.Time
	// Expect, if set, is called whenever Run gets on, with the time in which it will again; 0 means that it waits.
	Expect func(within time.Duration)
	Pause  time.Duration // between two rounds of gates, and before what failed is tried again; 0 means 2 s

	mu    sync.Mutex
	state State
	wake  chan struct{} // holds one token when there may be something to do
}

const journalFile = "update.json"

// Status returns the state.
func (u *Updater) Status() State {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state
}

// Start reads the journal and tells the machine in which boot it finds itself. It comes before everything else, and is
// cheap: the daemon calls it before it does anything that depends on the version.
func (u *Updater) Start(ctx context.Context) error {
	state, err := u.load()
	if err != nil {
		return err
	}
	u.mu.Lock()
	u.state, u.wake = state, make(chan struct{}, 1)
	u.mu.Unlock()
	started, err := u.started(ctx, state)
	if err != nil {
		return err
	}
	return u.tell(started)
}

func (u *Updater) load() (State, error) {
	data, err := u.Journal.Read(journalFile)
	if errors.Is(err, fs.ErrNotExist) {
		return State{Phase: Idle}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("cannot read the update journal: %w", err)
	}
	state, err := parseState(data)
	if err != nil {
		// A daemon that does not start helps nobody. What was under way is forgotten; an unfinished trial falls back by its
		// counters.
		u.Log.Error("the update journal is damaged, beginning anew", "error", err)
		if err := u.Journal.Write(journalFile+".damaged", data); err != nil {
			return State{}, fmt.Errorf("cannot put the damaged update journal aside: %w", err)
		}
		return State{Phase: Failed, Reason: "the update journal was damaged: " + err.Error()}, nil
	}
	return state, nil
}

func parseState(data []byte) (State, error) {
	var state State
	if err := json.Unmarshal(data, &state); err != nil {
		return State{}, err
	}
	switch {
	case state.Phase.Busy() && (state.Target == nil || state.From == nil):
		return State{}, fmt.Errorf("phase %s without what it is about", state.Phase)
	case (state.Phase == Returned || state.Phase == RollingBack) && state.Left == nil:
		return State{}, fmt.Errorf("phase %s without a cause", state.Phase)
	}
	return state, nil
}

func (u *Updater) started(ctx context.Context, state State) (Started, error) {
	facts, err := u.Host.Facts(ctx)
	if err != nil {
		return Started{}, err
	}
	e := Started{Boot: facts.Boot, RootHash: facts.RootHash, File: facts.Started.Entry.Base, Trial: facts.Started.Trial, Option: facts.Started.Option}
	if state.Target == nil {
		return e, nil
	}
	err = u.Boot.Use(ctx, func(esp boot.ESP) error {
		name, ok, err := esp.Find(ukiOf(state.Target.Installed))
		if ok {
			e.Target = &name
		}
		return err
	})
	if err != nil && e.RootHash == state.Target.RootHash {
		u.Log.Error("cannot read the EFI system partition", "error", err) // on trial the gates decide all the same
		return e, nil
	}
	return e, err
}

// Update asks for a release. It returns when the request is accepted and journaled, or refused; Run does the work. A release
// that runs already, or is on its way, is accepted and changes nothing.
func (u *Updater) Update(ctx context.Context, reference string, force bool) error {
	source, err := u.Fetcher.Open(ctx, reference)
	if err != nil {
		return fmt.Errorf("cannot update to %s: %w", reference, err)
	}
	defer source.close()
	machine, err := u.machine(ctx)
	if err != nil {
		return fmt.Errorf("cannot update to %s: %w", reference, err)
	}
	if u.Kept != nil && !u.Status().Phase.Busy() && machine.Running.RootHash != source.Release.RootHash {
		if err := u.Kept.Check(); err != nil {
			return fmt.Errorf("cannot update to %s %s: %w", source.Release.Name, source.Release.Version, err)
		}
	}
	return u.tell(Request{Reference: reference, Manifest: source.Manifest, Release: source.Release, Force: force, Machine: machine})
}

// Rollback asks to return to the version before the running one, or to give up the update that is under way.
func (u *Updater) Rollback(ctx context.Context) error {
	machine, err := u.machine(ctx)
	if err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	if u.Kept != nil && machine.Fallback != nil && !u.Status().Phase.Busy() {
		if err := u.Kept.Returnable(root(machine.Running), root(*machine.Fallback)); err != nil {
			return fmt.Errorf("cannot roll back %s %s: %w", machine.Running.Name, machine.Running.Version, err)
		}
	}
	return u.tell(Rollback{Machine: machine})
}

// root is a release as package kept knows it.
func root(i slot.Installed) kept.Release {
	return kept.Release{RootHash: i.RootHash, Version: i.Version}
}

// Clear forgets that a release failed.
func (u *Updater) Clear(manifest images.Digest) error { return u.tell(Clear{Manifest: manifest}) }

// tell lets Step decide about an event and writes the outcome down.
func (u *Updater) tell(e Event) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	next, _, err := Step(u.state, e)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(next, u.state) {
		u.nudge()
		return nil
	}
	next = u.stamp(next)
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the update journal: %w", err)
	}
	if err := u.Journal.Write(journalFile, append(data, '\n')); err != nil {
		return fmt.Errorf("cannot write the update journal: %w", err)
	}
	if next.Phase != u.state.Phase {
		u.logPhase(next)
	}
	u.state = next
	u.nudge()
	return nil
}

// stamp puts the time on what Step, which has no clock, left without.
func (u *Updater) stamp(next State) State {
	now := u.Now().UTC().Truncate(time.Second)
	if next.Phase != u.state.Phase {
		next.Since = now
	}
	for i := range next.Refused {
		if next.Refused[i].At.IsZero() {
			next.Refused[i].At = now
		}
	}
	return next
}

func (u *Updater) logPhase(s State) {
	log := u.Log.With("phase", s.Phase, "reason", s.Reason)
	if s.Target != nil {
		log = log.With("release", s.Target.Name, "version", s.Target.Version)
	}
	if s.Left != nil {
		log = log.With("cause", s.Left.Cause, "detail", s.Left.Detail)
	}
	log.Info("update")
}

func (u *Updater) nudge() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Run performs what is wanted until ctx ends. Start comes first.
func (u *Updater) Run(ctx context.Context) error {
	u.tidy()
	for {
		u.expect(actionLimit)
		more, err := u.Advance(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			u.Log.Error("update step failed, will be tried again", "error", err)
			more = true
			u.pause(ctx)
		case !more:
			u.expect(0)
			if !u.rest(ctx) {
				return nil
			}
		}
	}
}

// rest waits until there may be something to do. It reports false when ctx ended. Meanwhile the state of before a committed
// release is forgotten when its time has come.
func (u *Updater) rest(ctx context.Context) bool {
	var late <-chan time.Time
	if s := u.Status(); u.Kept != nil && s.Phase == Committed {
		if left := s.Since.Add(kept.Grace).Sub(u.Now()); left > 0 {
			timer := time.NewTimer(left)
			defer timer.Stop()
			late = timer.C
		} else if err := u.Kept.Forget(); err != nil {
			u.Log.Error("cannot remove the copy of the state of before the update", "error", err)
		}
	}
	select {
	case <-ctx.Done():
		return false
	case <-u.wake:
	case <-late:
	}
	return true
}

// tidy removes what a return left lying.
func (u *Updater) tidy() {
	if u.Kept == nil {
		return
	}
	if err := u.Kept.Tidy(); err != nil {
		u.Log.Error("cannot remove leftovers of kept state", "error", err)
	}
}

// actionLimit is beyond what any action takes on a slow machine; the writer of a slot may tell its progress meanwhile.
const actionLimit = 30 * time.Minute

func (u *Updater) expect(within time.Duration) {
	if u.Expect != nil {
		u.Expect(within)
	}
}

const defaultPause = 2 * time.Second

func (u *Updater) pause(ctx context.Context) {
	d := u.Pause
	if d == 0 {
		d = defaultPause
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
