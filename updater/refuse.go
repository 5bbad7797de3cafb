package updater

import (
	"errors"
	"fmt"
)

// Reasons to refuse a request. A refusal changes nothing.
var (
	ErrBusy         = errors.New("an update is under way")
	ErrFailedBefore = errors.New("this machine failed with this release, or was told to leave it; clear it to try again")
	ErrOlder        = errors.New("older than what runs; force it to go back")
	ErrRebuilt      = errors.New("the version that runs, but built anew; force it to replace it")
	ErrFloor        = errors.New("below the rollback floor")
	ErrArchitecture = errors.New("for another architecture")
	ErrName         = errors.New("another recipe's release")
	ErrDoesNotFit   = errors.New("does not fit")
	ErrNoSlots      = errors.New("it has no slots")
	ErrNoFallback   = errors.New("no other version to return to")
)

// refuse judges a request against the machine and its history; nil means: go on.
func refuse(s State, r Request) error {
	release, m := r.Release, r.Machine
	problem := func() error {
		switch {
		case release.Architecture != m.Architecture:
			return fmt.Errorf("it is for %s, this machine is %s: %w", release.Architecture, m.Architecture, ErrArchitecture)
		case m.Running.Name != "" && release.Name != m.Running.Name:
			return fmt.Errorf("this machine runs %s: %w", m.Running.Name, ErrName)
		case s.refuses(r):
			return ErrFailedBefore
		case s.Floor != "" && release.Version.Compare(s.Floor) < 0:
			return fmt.Errorf("floor is %s: %w", s.Floor, ErrFloor)
		}
		if order := release.Version.Compare(m.Running.Version); m.Running.Version != "" && !r.Force {
			if order < 0 {
				return fmt.Errorf("%s runs: %w", m.Running.Version, ErrOlder)
			}
			if order == 0 {
				return ErrRebuilt
			}
		}
		return fits(r)
	}
	if err := problem(); err != nil {
		return fmt.Errorf("cannot update to %s %s: %w", release.Name, release.Version, err)
	}
	return nil
}

func (s State) refuses(r Request) bool {
	for _, refusal := range s.Refused {
		if refusal.Manifest == r.Manifest {
			return true
		}
	}
	return false
}

// fits checks the room before anything is fetched. The partition must take two copies of the new UKI beside the running one:
// committing copies it rather than rename it.
func fits(r Request) error {
	const slack = 1 << 20 // directory entries and rounding to clusters
	release, m := r.Release, r.Machine
	switch {
	case m.Running.RootHash == release.RootHash: // the slot is not written
	case release.Root.Size > m.Spare.Root:
		return fmt.Errorf("root image of %d bytes into a slot of %d: %w", release.Root.Size, m.Spare.Root, ErrDoesNotFit)
	case release.Verity.Size > m.Spare.Verity:
		return fmt.Errorf("verity data of %d bytes into a partition of %d: %w", release.Verity.Size, m.Spare.Verity, ErrDoesNotFit)
	}
	if need := 2*release.UKI.Size + slack; need > m.Room {
		return fmt.Errorf("UKI of %d bytes needs %d on the EFI system partition, %d can be freed: %w", release.UKI.Size, need, m.Room, ErrDoesNotFit)
	}
	return nil
}
