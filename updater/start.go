package updater

import (
	"fmt"
	"strings"

	"roost/updater/slot"
)

// runs reports whether a boot runs a release.
func (e Started) runs(i slot.Installed) bool {
	return e.RootHash == i.RootHash && (e.File == "" || i.File == "" || strings.EqualFold(e.File, i.File))
}

// runs tells which of the two releases of an update a boot runs. The root hash tells; where both have the same root and
// differ in the UKI, the name of the UKI does.
func (s State) runs(e Started) (onTarget, onFrom bool) {
	if s.Target.RootHash == s.From.RootHash {
		return e.runs(s.Target.Installed), e.runs(*s.From)
	}
	return e.RootHash == s.Target.RootHash, e.RootHash == s.From.RootHash
}

// started decides what a start of the daemon means: a mere restart, the trial, or a return.
func (s State) started(e Started) State {
	if s.Target == nil || s.From == nil {
		return s
	}
	restart := e.Boot == s.Boot
	onTarget, onFrom := s.runs(e)
	switch s.Phase {
	case Fetched, Written, Verified:
		if !onFrom {
			return s.astray(e)
		}
		s.Boot = e.Boot
		return s
	case Armed:
		if restart {
			return s
		}
		return s.firstStart(e, onTarget, onFrom)
	case Trial, Healthy:
		if onTarget && !restart {
			s.Boot, s.Streak = e.Boot, 0
			s.Starts++
		}
		if onTarget {
			return s
		}
	case RollingBack:
		if onTarget && !restart {
			return s.stillThere(e)
		}
		if onTarget {
			return s
		}
	case Committed:
		if onTarget || !onFrom {
			return s
		}
		s.Left = &Evidence{Boot: s.Boot}
	case RolledBack, Failed:
		if onTarget && e.Trial && !onFrom { // left, and yet started: it must not stay
			left := Evidence{Cause: CausePassed}
			if s.Left != nil {
				left.Cause = s.Left.Cause
			}
			s.Left, s.Starts = &left, 0
			return s.enter(RollingBack).stillThere(e)
		}
		return s
	default:
		return s
	}
	if !onFrom {
		return s.astray(e)
	}
	return s.returned(e)
}

// stillThere is a boot of the version that the machine wants to leave: the power went before the mark was made, or the
// loader found nothing else that starts. The mark is made again; but a machine that has nothing else must not go round
// for ever, so it stays after as many starts as a trial has, and two more.
func (s State) stillThere(e Started) State {
	s.Boot, s.Done = e.Boot, false
	if s.Starts++; s.Starts > max(s.Target.Update.Tries, 1)+2 {
		s.Reason = fmt.Sprintf("%s should be left (%s), but nothing else starts", s.Target.Version, s.Left.Cause)
		s.From = nil
		return s.enter(Failed)
	}
	return s
}

// firstStart is the first boot after arming began.
func (s State) firstStart(e Started, onTarget, onFrom bool) State {
	switch {
	case onTarget:
		s.Boot, s.Starts = e.Boot, s.Starts+1
		return s.enter(Trial)
	case !onFrom:
		return s.astray(e)
	case !s.Done && (e.Target == nil || e.Target.Counted && e.Target.Done == 0 && e.Target.Left > 0):
		s.Boot = e.Boot // the power went before the trial could begin
		return s
	}
	s.Left = &Evidence{}
	return s.returned(e)
}

// returned is a boot of the old version after the new one was, or should have been, started.
func (s State) returned(e Started) State {
	left := Evidence{}
	if s.Left != nil {
		left = *s.Left
	}
	if e.Target != nil {
		left.Tries = e.Target.Done
	}
	if left.Boot == "" && s.Starts > 0 {
		left.Boot = s.Boot
	}
	if left.Cause == "" {
		left.Cause = cause(s, e)
	}
	left.Detail = "" // evidence is to be gathered
	s.Left, s.Boot = &left, e.Boot
	return s.enter(Returned)
}

func cause(s State, e Started) Cause {
	switch {
	case e.Target == nil:
		return CauseVanished
	case !e.Target.Bad():
		return CausePassed
	case e.Option > 0 && s.Starts == 0:
		return CauseFirmware
	}
	return CauseHang // Gather may find it was a panic
}

// astray is a boot of neither version: somebody else decided, and there is nothing to go on with.
func (s State) astray(e Started) State {
	s.Reason = fmt.Sprintf("the machine started another version than the update knows (%s, root hash %.12s…)", e.File, e.RootHash)
	s.Boot = e.Boot
	return s.enter(Failed)
}

// detail is the one line that tells people why.
func detail(e Evidence) string {
	tries := fmt.Sprintf("%d boot attempts", e.Tries)
	if e.Tries == 1 {
		tries = "1 boot attempt"
	}
	switch e.Cause {
	case CauseGate:
		var names []string
		for _, gate := range e.Gates {
			names = append(names, gate.Name)
		}
		return fmt.Sprintf("held before the update and not after it: %s", strings.Join(names, ", "))
	case CausePanic:
		return fmt.Sprintf("the kernel panicked; %s used up", tries)
	case CauseHang:
		return fmt.Sprintf("hung, or crashed without leaving a record; %s used up", tries)
	case CauseFirmware:
		return fmt.Sprintf("the firmware did not load the kernel image; %s used up", tries)
	case CausePassed:
		return "the boot loader started the old version though the new one had attempts left"
	case CauseVanished:
		return "the new kernel image is gone from the EFI system partition"
	case CauseRequested:
		return "rolled back on request"
	}
	return string(e.Cause)
}
