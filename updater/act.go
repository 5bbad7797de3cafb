package updater

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"roost/images"
	"roost/updater/boot"
	"roost/updater/slot"
)

// Advance performs the one action that the state asks for and tells Step what came of it. It reports false when there is
// nothing to do: no update is under way, or the machine is going down. An error means that the action may be tried again.
func (u *Updater) Advance(ctx context.Context) (more bool, err error) {
	state := u.Status()
	action := state.next()
	var e Event
	switch action {
	case None:
		return false, nil
	case Write:
		e, err = u.write(ctx, state)
	case Verify:
		e, err = u.verify(ctx, state)
	case Snapshot:
		e, err = u.check(ctx, state)
	case Arm:
		err = u.arm(ctx, state)
	case Check:
		if state.Gates != nil {
			u.pause(ctx)
		}
		e, err = u.check(ctx, state)
	case Commit:
		if err := u.commit(ctx, state); err != nil {
			return true, err // the version is good: it is tried until it succeeds
		}
	case MarkBad:
		err = u.markBad(ctx, state)
		if err != nil && state.Phase == Returned {
			return true, err
		}
	case Gather:
		e, err = u.gather(ctx, state)
	case Reboot:
		return false, u.Host.Reboot(ctx)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return false, ctx.Err() // the daemon goes down; the action is asked for again when it comes back
	case err != nil:
		u.Log.Warn("update action failed", "action", action, "error", err)
		e = Failure{Action: action, Reason: err.Error()}
	case e == nil:
		e = Did{Action: action}
	}
	return true, u.tell(e)
}

// open opens the release of the update again.
func (u *Updater) open(ctx context.Context, s State) (*Source, error) {
	source, err := u.Fetcher.Open(ctx, s.Target.Reference)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", s.Target.Reference, err)
	}
	if source.Manifest != s.Target.Manifest {
		source.close()
		return nil, fmt.Errorf("cannot fetch %s: it is %s now, asked for was %s", s.Target.Reference, source.Manifest, s.Target.Manifest)
	}
	return source, nil
}

// write removes the UKIs that the slot about to be overwritten could boot, and only then writes it.
func (u *Updater) write(ctx context.Context, s State) (Event, error) {
	source, err := u.open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer source.close()
	keep, err := u.keep(ctx, s, func(i slot.Installed) bool { return i.RootHash == s.From.RootHash })
	if err != nil {
		return nil, err
	}
	if err := u.Boot.Use(ctx, func(esp boot.ESP) error { return esp.Collect(keep...) }); err != nil {
		return nil, err
	}
	content := slot.Content{RootHash: s.Target.RootHash, Root: s.Target.Root, Verity: s.Target.Verity, Open: source.Open}
	return nil, u.Slots.Write(ctx, s.Slot, content)
}

// keep returns the UKIs of the version to return to and of all others on record that match.
func (u *Updater) keep(ctx context.Context, s State, match func(slot.Installed) bool) ([]boot.UKI, error) {
	list, err := u.records().List()
	if err != nil {
		u.Log.Warn("cannot read the record of slots", "error", err)
	}
	keep := []boot.UKI{ukiOf(*s.From)}
	for _, i := range list {
		if match(i) && i.File != s.From.File && i.Manifest != s.Target.Manifest && !refused(s, i) {
			keep = append(keep, ukiOf(i))
		}
	}
	return u.present(ctx, keep)
}

// present drops all but the first UKI that the partition does not hold: only what is there can be kept.
func (u *Updater) present(ctx context.Context, ukis []boot.UKI) ([]boot.UKI, error) {
	var there []boot.UKI
	err := u.Boot.Use(ctx, func(esp boot.ESP) error {
		for i, uki := range ukis {
			if err := esp.Intact(uki); i == 0 || err == nil {
				there = append(there, uki)
			} else if !errors.Is(err, boot.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	return there, err
}

func refused(s State, i slot.Installed) bool {
	return slices.ContainsFunc(s.Refused, func(r Refusal) bool { return r.Manifest == i.Manifest })
}

func (u *Updater) verify(ctx context.Context, s State) (Event, error) {
	held, err := u.Slots.Slots()
	if err != nil {
		return nil, err
	}
	reused := slices.ContainsFunc(held, func(h slot.Slot) bool { return h.ID == s.Slot && h.RootHash == s.Target.RootHash })
	if err := u.Slots.Seal(ctx, s.Slot, s.Target.RootHash); err != nil {
		if reused && ctx.Err() == nil {
			u.Log.Warn("slot no longer holds what it held, writing it anew", "slot", s.Slot, "error", err)
			return Damaged{}, nil
		}
		return nil, err
	}
	return nil, nil
}

func (u *Updater) check(ctx context.Context, s State) (Event, error) {
	facts, err := u.Host.Facts(ctx)
	if err != nil {
		return nil, err
	}
	// A gate that hangs must not hold up the verdict: it has until the deadline, and a moment beyond it.
	patience := time.Duration(s.Target.Update.GateSeconds) * time.Second
	if s.Phase == Trial {
		patience = max(patience-facts.Uptime, time.Second)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	results := u.Gates.Check(limited, s.Target.Gates)
	cancel()
	if facts, err = u.Host.Facts(ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // gates that were cut short say nothing
	}
	return Round{Results: results, Uptime: facts.Uptime}, nil
}

func (u *Updater) arm(ctx context.Context, s State) error {
	source, err := u.open(ctx, s)
	if err != nil {
		return err
	}
	defer source.close()
	tries := s.Target.Update.Tries
	demote, err := boot.Plan(candidate(*s.From), candidate(s.Target.Installed), tries)
	if err != nil {
		return err
	}
	if u.Kept != nil {
		if err := u.Kept.Prepare(root(*s.From), root(s.Target.Installed)); err != nil {
			return err
		}
	}
	records := u.records()
	held := func(i slot.Installed) bool { return i.RootHash == s.From.RootHash || i.RootHash == s.Target.RootHash }
	if err := errors.Join(records.Put(*s.From, held), records.Put(s.Target.Installed, held)); err != nil {
		return err
	}
	return u.Boot.Use(ctx, func(esp boot.ESP) error {
		err := esp.Arm(ctx, ukiOf(s.Target.Installed), tries, func(ctx context.Context) (io.ReadCloser, error) {
			return source.Open(ctx, images.KindUKI)
		})
		if err == nil && demote {
			err = esp.Demote(ctx, ukiOf(*s.From))
		}
		if err != nil && ctx.Err() == nil {
			// An update that is given up must not start by itself one day.
			err = errors.Join(err, esp.MarkBad(ukiOf(s.Target.Installed)), esp.Commit(ctx, ukiOf(*s.From)))
		}
		return err
	})
}

func candidate(i slot.Installed) boot.Candidate {
	return boot.Candidate{Base: i.File, Version: string(i.Version)}
}

func (u *Updater) commit(ctx context.Context, s State) error {
	return u.Boot.Use(ctx, func(esp boot.ESP) error {
		if err := esp.Commit(ctx, ukiOf(s.Target.Installed)); err != nil {
			return err
		}
		if err := esp.Collect(ukiOf(s.Target.Installed), ukiOf(*s.From)); err != nil {
			u.Log.Warn("leftovers stay on the EFI system partition", "error", err)
		}
		return nil
	})
}

// markBad puts the target behind all others: before the machine leaves it, and again when it is back, where also the version
// that runs gets its good name back, should it have been demoted.
func (u *Updater) markBad(ctx context.Context, s State) error {
	if s.Phase == RollingBack && !s.trialled() {
		if err := u.checkFallback(ctx, s); err != nil {
			return err
		}
	}
	return u.Boot.Use(ctx, func(esp boot.ESP) error {
		if err := esp.MarkBad(ukiOf(s.Target.Installed)); err != nil || s.Phase != Returned {
			return err
		}
		return esp.Commit(ctx, ukiOf(*s.From))
	})
}

// checkFallback proves the version that an operator wants to return to, while the one that works still runs.
func (u *Updater) checkFallback(ctx context.Context, s State) error {
	err := u.Boot.Use(ctx, func(esp boot.ESP) error { return esp.Intact(ukiOf(*s.From)) })
	if err != nil || s.From.RootHash == s.Target.RootHash {
		return err
	}
	held, err := u.Slots.Slots()
	if err != nil {
		return err
	}
	for _, h := range held {
		if h.RootHash == s.From.RootHash {
			return u.Slots.Check(ctx, h.ID, h.RootHash)
		}
	}
	return fmt.Errorf("no slot holds %s %s: %w", s.From.Name, s.From.Version, ErrNoFallback)
}

func (u *Updater) gather(ctx context.Context, s State) (Event, error) {
	found, err := u.Host.Evidence(ctx, s.Left.Boot)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		found.Log = append(found.Log, "cannot gather more: "+err.Error())
	}
	return found, nil
}

func (u *Updater) records() slot.Records { return slot.Records{Dir: u.Journal} }

// machine collects what Step must know to judge a request.
func (u *Updater) machine(ctx context.Context) (Machine, error) {
	facts, err := u.Host.Facts(ctx)
	if err != nil {
		return Machine{}, err
	}
	held, err := u.Slots.Slots()
	if err != nil {
		return Machine{}, err
	}
	list, err := u.records().List()
	if err != nil {
		u.Log.Warn("cannot read the record of slots", "error", err)
	}
	m := Machine{Boot: facts.Boot, Architecture: facts.Architecture}
	state := u.Status()
	running := slices.IndexFunc(held, func(h slot.Slot) bool { return h.RootHash == facts.RootHash })
	if running < 0 {
		return m, fmt.Errorf("no slot holds the running root %.12s…", facts.RootHash)
	}
	m.Spare = held[1-running]
	err = u.Boot.Use(ctx, func(esp boot.ESP) error {
		if m.Running, err = identify(esp, facts, list); err != nil {
			return err
		}
		m.Fallback = fallback(esp, state, m, list)
		m.Room, err = esp.Room(ukiOf(m.Running))
		return err
	})
	return m, err
}

// identify finds the running release on record. Where the record is lost, what runs is adopted: the loader started it.
func identify(esp boot.ESP, facts Facts, list []slot.Installed) (slot.Installed, error) {
	started := Started{RootHash: facts.RootHash, File: facts.Started.Entry.Base}
	if i := slices.IndexFunc(list, started.runs); i >= 0 {
		return list[i], nil
	}
	started.File = "" // an alias, perhaps
	if i := slices.IndexFunc(list, started.runs); i >= 0 && !slices.ContainsFunc(list[i+1:], started.runs) {
		return list[i], nil
	}
	started.File = facts.Started.Entry.Base
	uki, err := esp.Adopt(started.File)
	if err != nil {
		return slot.Installed{}, fmt.Errorf("cannot tell which release runs: %w", err)
	}
	parts := strings.Split(uki.Base, "_") // neither names nor versions hold one
	installed := slot.Installed{Name: parts[0], RootHash: facts.RootHash, File: uki.Base, UKI: images.Part{Digest: uki.Digest, Size: uki.Size}}
	if len(parts) > 1 {
		installed.Version = images.Version(parts[1])
	}
	return installed, nil
}

// fallback finds the newest other release that this machine can boot and has no bad memory of.
func fallback(esp boot.ESP, s State, m Machine, list []slot.Installed) *slot.Installed {
	list = slices.DeleteFunc(slices.Clone(list), func(i slot.Installed) bool {
		held := i.RootHash == m.Running.RootHash || i.RootHash == m.Spare.RootHash
		_, found, err := esp.Find(ukiOf(i))
		return !held || !found || err != nil || refused(s, i) || i.File == m.Running.File
	})
	if len(list) == 0 {
		return nil
	}
	newest := slices.MaxFunc(list, func(a, b slot.Installed) int { return cmp.Compare(a.Version.Compare(b.Version), 0) })
	return &newest
}
