package updater

import (
	"fmt"
	"slices"
	"time"

	"roost/images"
	"roost/updater/boot"
	"roost/updater/slot"
)

// Event is something that happened. Its types are in this file.
type Event interface{ event() }

// Request asks for a release, verified already: what is not signed never gets here.
type Request struct {
	Reference string
	Manifest  images.Digest
	Release   images.Release
	Force     bool // accept an older version, or another build of the version that runs
	Machine   Machine
}

// Rollback asks to leave the running version, or to give up the update that is under way.
type Rollback struct{ Machine Machine }

// Clear asks to forget that a release failed.
type Clear struct{ Manifest images.Digest }

// Started says that the daemon came up, and in which boot of what.
type Started struct {
	Boot     string // kernel boot id
	RootHash string // of the running root
	File     string // UKI that was started, without counters; empty when unknown
	Trial    bool   // the loader counted this start
	Option   int    // place of the firmware's boot option; above 0, earlier ones failed. -1 is unknown
	// Target is the name of the target's UKI on the EFI system partition; nil when there is none.
	Target *boot.Name
}

// Did says that an action succeeded.
type Did struct{ Action Action }

// Failure says that an action failed for good.
type Failure struct {
	Action Action
	Reason string
}

// Damaged says that a slot thought to hold the target does not.
type Damaged struct{}

// Round is one check of all gates of the target.
type Round struct {
	Results []Result
	Uptime  time.Duration // since boot
}

// Found is what is left of a failed boot.
type Found struct {
	Log    []string
	Pstore []string
}

func (Request) event()  {}
func (Rollback) event() {}
func (Clear) event()    {}
func (Started) event()  {}
func (Did) event()      {}
func (Failure) event()  {}
func (Damaged) event()  {}
func (Round) event()    {}
func (Found) event()    {}

// steady is how many rounds in a row must pass: a gate that flaps is not held.
const steady = 3

// Step decides: from a state and an event the next state, and what has to be done in it. An error is a refusal of a request;
// the state is then the one given. Step reads no clock and does no I/O; Since of the result is left to the caller.
func Step(s State, e Event) (State, Action, error) {
	if s.Phase == "" {
		s.Phase = Idle
	}
	var err error
	switch e := e.(type) {
	case Request:
		s, err = s.request(e)
	case Rollback:
		s, err = s.rollback(e.Machine)
	case Clear:
		s.Refused = slices.DeleteFunc(slices.Clone(s.Refused), func(r Refusal) bool { return r.Manifest == e.Manifest })
	case Started:
		s = s.started(e)
	case Did:
		s = s.did(e)
	case Failure:
		s = s.failure(e)
	case Damaged:
		if s.Phase == Written {
			s.Phase = Fetched
		}
	case Round:
		s = s.round(e)
	case Found:
		s = s.found(e)
	}
	return s, s.next(), err
}

// next is what a state asks for. It depends on nothing else, so that a restart finds the same.
func (s State) next() Action {
	switch s.Phase {
	case Fetched:
		return Write
	case Written:
		return Verify
	case Verified:
		return Snapshot
	case Armed:
		if s.Done {
			return Reboot
		}
		return Arm
	case Trial:
		return Check
	case Healthy:
		return Commit
	case RollingBack:
		if s.Done {
			return Reboot
		}
		return MarkBad
	case Returned:
		if s.Left.Detail == "" {
			return Gather
		}
		return MarkBad
	}
	return None
}

// enter returns the state at the start of a phase. History and the update's own facts stay.
func (s State) enter(p Phase) State {
	s.Phase, s.Done, s.Streak = p, false, 0
	return s
}

// history is what outlives an update.
func (s State) history() State { return State{Refused: s.Refused, Floor: s.Floor} }

func (s State) request(r Request) (State, error) {
	switch {
	case s.Phase.Busy() && s.Target.Manifest == r.Manifest && s.Phase != RollingBack && s.Phase != Returned:
		return s, nil // under way
	case s.Phase.Busy():
		return s, fmt.Errorf("cannot update to %s %s: %s, to %s: %w", r.Release.Name, r.Release.Version, s.Phase, s.Target.Version, ErrBusy)
	case r.Machine.Running.Manifest == r.Manifest:
		return s, nil // there already
	}
	if err := refuse(s, r); err != nil {
		return s, err
	}
	next := s.history()
	next.Target = target(r)
	running := r.Machine.Running
	next.From, next.Boot = &running, r.Machine.Boot
	switch r.Release.RootHash {
	case running.RootHash: // this root runs: it needs neither writing nor proof
		return next.enter(Verified), nil
	case r.Machine.Spare.RootHash:
		next.Slot = r.Machine.Spare.ID
		return next.enter(Written), nil
	}
	next.Slot = r.Machine.Spare.ID
	return next.enter(Fetched), nil
}

func target(r Request) *Target {
	release := r.Release
	file := boot.BaseName(release.Name, string(release.Version))
	if r.Machine.Running.Version == release.Version { // forced: the name is taken by another build
		file += "_r" + r.Manifest.Hex()[:8] // which of the two the loader prefers, and what follows, boot.Plan decides
	}
	return &Target{
		Installed: slot.Installed{Manifest: r.Manifest, Name: release.Name, Version: release.Version,
			RootHash: release.RootHash, UKI: release.UKI, File: file},
		Reference: r.Reference, Root: release.Root, Verity: release.Verity, Update: release.Update, Gates: release.Gates,
	}
}

func (s State) rollback(m Machine) (State, error) {
	switch s.Phase {
	case RollingBack, Returned:
		return s, nil
	case Fetched, Written, Verified:
		s.Reason = "given up on request"
		return s.enter(Failed), nil
	case Armed:
		s.Left = &Evidence{Cause: CauseRequested}
		return s.enter(Returned), nil
	case Trial, Healthy:
		s.Left = &Evidence{Cause: CauseRequested, Boot: s.Boot}
		return s.enter(RollingBack), nil
	}
	if m.Fallback == nil {
		return s, fmt.Errorf("cannot roll back %s %s: %w", m.Running.Name, m.Running.Version, ErrNoFallback)
	}
	next := s.history()
	fallback := *m.Fallback
	next.Target, next.From, next.Boot = &Target{Installed: m.Running}, &fallback, m.Boot
	next.Left = &Evidence{Cause: CauseRequested, Boot: m.Boot}
	return next.enter(RollingBack), nil
}

func (s State) did(d Did) State {
	if d.Action != s.next() {
		return s // an answer that came too late
	}
	switch d.Action {
	case Write:
		return s.enter(Written)
	case Verify:
		return s.enter(Verified)
	case Arm:
		s.Done = true
	case Commit:
		s = s.enter(Committed)
		s.Floor = floor(s)
	case MarkBad:
		if s.Phase == Returned {
			return s.settle()
		}
		s.Done = true
	}
	return s
}

// floor returns the rollback floor after a commit: what the release says, yet never above the version to fall back to.
func floor(s State) images.Version {
	next := s.Target.Update.RollbackFloor
	if s.From.Version != "" && next.Compare(s.From.Version) > 0 {
		next = s.From.Version
	}
	if next == "" || s.Floor != "" && next.Compare(s.Floor) < 0 {
		return s.Floor
	}
	return next
}

// settle ends an update whose version was left.
func (s State) settle() State {
	cause := s.Left.Cause
	innocent := cause == CauseVanished || cause == CauseRequested && s.Left.Boot == "" // lost, or never started
	known := slices.ContainsFunc(s.Refused, func(r Refusal) bool { return r.Manifest == s.Target.Manifest })
	if !innocent && !known && s.Target.Manifest != "" {
		s.Refused = append(slices.Clone(s.Refused), Refusal{Manifest: s.Target.Manifest, Version: s.Target.Version, Cause: cause})
	}
	return s.enter(RolledBack)
}

func (s State) failure(f Failure) State {
	if f.Action != s.next() {
		return s
	}
	switch s.Phase {
	case Fetched, Written, Verified, Armed:
		s.Reason = f.Reason
		return s.enter(Failed)
	case RollingBack:
		if s.trialled() {
			s.Done = true // the mark failed; the counters will do it, boot by boot
			return s
		}
		s.Left, s.Reason = nil, f.Reason
		return s.enter(Failed)
	}
	return s // committing and returning are tried again
}

// trialled reports whether the target came up on trial, rather than being a version that was good once.
func (s State) trialled() bool { return s.Starts > 0 && s.Target.Update.Tries > 0 }

func (s State) round(r Round) State {
	switch s.Phase {
	case Verified:
		s.Before = r.Results
		return s.enter(Armed)
	case Trial:
		s.Gates = r.Results
	default:
		return s
	}
	failing := s.failing(r.Results)
	if len(failing) == 0 {
		if s.Streak++; s.Streak >= steady {
			return s.enter(Healthy)
		}
		return s
	}
	s.Streak = 0
	if r.Uptime < time.Duration(s.Target.Update.GateSeconds)*time.Second {
		return s
	}
	s.Left = &Evidence{Cause: CauseGate, Gates: failing, Boot: s.Boot}
	return s.enter(RollingBack)
}

// failing returns the gates of the target that must hold and do not: all but those that did not hold before.
func (s State) failing(results []Result) []Result {
	var failing []Result
	for _, gate := range s.Target.Gates {
		excused := slices.ContainsFunc(s.Before, func(r Result) bool { return r.Name == gate.Name && !r.Held })
		i := slices.IndexFunc(results, func(r Result) bool { return r.Name == gate.Name })
		switch {
		case excused || i >= 0 && results[i].Held:
		case i < 0:
			failing = append(failing, Result{Name: gate.Name, Output: "no result"})
		default:
			failing = append(failing, results[i])
		}
	}
	return failing
}

func (s State) found(f Found) State {
	if s.Phase != Returned || s.Left.Detail != "" {
		return s
	}
	left := *s.Left
	left.Log, left.Pstore = f.Log, f.Pstore
	if left.Cause == CauseHang && len(f.Pstore) > 0 {
		left.Cause = CausePanic
	}
	left.Detail = detail(left)
	s.Left = &left
	return s
}
