package kept

import (
	"fmt"
	"strconv"
	"time"
)

// Outcome is what a boot found to do.
type Outcome struct {
	Took    time.Duration // how long taking a copy held up the boot
	Exposed bool          // the copy should have been taken and was not: units of this release must not touch the state
}

// step is what a boot has to do.
type step int

const (
	nothing step = iota
	take
	putBack
)

// next decides from a record and the root hash that runs.
func (r *Record) next(running string) step {
	switch {
	case r == nil:
		return nothing
	case r.Phase == Returning: // whatever runs: it must be whole first
		return putBack
	case r.Phase == Wanted && running == r.Target.RootHash:
		return take
	case r.Phase == Kept && running == r.From.RootHash:
		return putBack
	}
	return nothing
}

// Boot takes the copy or puts it back, as the record and the running root want it. It comes before any unit that uses the
// state. After an error it can be called again, in this boot or another.
func (s *Store) Boot(running string) (Outcome, error) {
	for {
		r, err := s.Record()
		if err != nil {
			return Outcome{}, err
		}
		switch r.next(running) {
		case take:
			took, err := s.take(r)
			if err != nil {
				return Outcome{Exposed: true}, s.trouble(r, fmt.Errorf("cannot keep the state of before %s: %w", r.Target.Version, err))
			}
			return Outcome{Took: took}, nil
		case putBack:
			if err := s.putBack(r); err != nil {
				return Outcome{}, s.trouble(r, fmt.Errorf("cannot put back the state of before %s: %w", r.Target.Version, err))
			}
		default:
			return Outcome{}, nil
		}
	}
}

// trouble notes why something failed, for the daemon to tell. When that cannot be written either, the log has it.
func (s *Store) trouble(r *Record, cause error) error {
	noted, err := s.Record()
	if err == nil && noted != nil {
		noted.Trouble = cause.Error()
		err = s.write(noted)
	}
	if err != nil {
		s.Log.Error("cannot note why the state is not as it should be", "error", err)
	}
	return cause
}

func (s *Store) take(r *Record) (time.Duration, error) {
	begun := s.Now()
	if err := s.Tree.Remove(s.Area); err != nil { // of an attempt that was cut short
		return 0, err
	}
	kept := *r
	kept.declare(s.Declared)
	if err := s.room(&kept); err != nil {
		return 0, err
	}
	kept.Bytes = 0
	for i := range kept.Restore {
		d := &kept.Restore[i]
		n, found, err := s.Tree.Size(d.Path)
		if err != nil {
			return 0, err
		}
		if d.Absent = !found; d.Absent {
			continue
		}
		s.Log.Info("keeping the state of before this release", "directory", d.Path, "bytes", n)
		if err := s.Tree.Copy(d.Path, s.copyOf(i)); err != nil {
			return 0, err
		}
		kept.Bytes += n
	}
	if err := s.Tree.Sync(); err != nil {
		return 0, err
	}
	took := s.Now().Sub(begun)
	kept.Phase, kept.At, kept.Seconds, kept.Trouble, kept.Returned = Kept, s.Now().UTC().Truncate(time.Second), int(took.Seconds()+0.5), "", time.Time{}
	if err := s.write(&kept); err != nil {
		return 0, err
	}
	s.Log.Info("state kept", "bytes", kept.Bytes, "took", took.Round(time.Millisecond))
	return took, nil
}

// putBack restores and drops. A copy that is still in the area was not put back yet, whatever lies in its place.
func (s *Store) putBack(r *Record) error {
	back := *r
	if back.Phase != Returning {
		back.Phase = Returning
		if err := s.write(&back); err != nil {
			return err
		}
	}
	for i, d := range back.Restore {
		if err := s.restore(d, s.copyOf(i), s.left(strconv.Itoa(i))); err != nil {
			return fmt.Errorf("%s: %w", d.Path, err)
		}
	}
	for i, dir := range back.Drop {
		if err := s.aside(dir, s.left("dropped-"+strconv.Itoa(i))); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	// Should the release that was left start once more, what it finds is to be kept once more.
	back.Phase, back.Returned, back.Trouble = Wanted, s.Now().UTC().Truncate(time.Second), ""
	if err := s.write(&back); err != nil {
		return err
	}
	s.Log.Info("the state is what it was before the update", "of", back.At, "directories", len(back.Restore), "dropped", len(back.Drop))
	return nil
}

func (s *Store) restore(d Restored, from, left string) error {
	_, found, err := s.Tree.Size(from)
	if err != nil {
		return err
	}
	if !found && !d.Absent {
		return nil // back already
	}
	if err := s.aside(d.Path, left); err != nil || d.Absent {
		return err
	}
	if err := s.Tree.Rename(from, d.Path); err != nil {
		return err
	}
	return s.Tree.Sync()
}

// aside moves what a release left out of the way.
func (s *Store) aside(dir, left string) error {
	_, found, err := s.Tree.Size(dir)
	if err != nil || !found {
		return err
	}
	if err := s.Tree.Remove(left); err != nil {
		return err
	}
	if err := s.Tree.Rename(dir, left); err != nil {
		return err
	}
	return s.Tree.Sync()
}
