package kept

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"roost/images"
	"roost/images/durable"
)

// Grace is how long the copy stays after the new release was committed.
const Grace = time.Hour

var (
	// ErrNoRoom says that the copy would not fit.
	ErrNoRoom = errors.New("does not fit")
	// ErrNoCopy says that a return would need a copy that is not there.
	ErrNoCopy = errors.New("no copy of it is left")
)

// Tree is the file system of the state, directories as wholes. Nothing lasts until Sync.
type Tree interface {
	Size(dir string) (n int64, found bool, err error) // bytes on the disk
	Free(dir string) (int64, error)                   // bytes that can still be written where dir lies, or would
	Copy(from, to string) error                       // to does not exist
	Rename(from, to string) error                     // atomic; to does not exist, its parents need not
	Remove(dir string) error                          // a missing one is no error
	Sync() error
}

// Release is what this package knows of a release.
type Release struct {
	RootHash string         `json:"rootHash"`
	Version  images.Version `json:"version,omitempty"`
}

// Phase says how far a record is.
type Phase string

// The phases.
const (
	Wanted    Phase = "wanted"    // the copy is to be taken when the target starts
	Kept      Phase = "kept"      // it is complete: what the directories hold now may be the target's
	Returning Phase = "returning" // it is being put back
)

// Record is what is wanted, as stored and as shown.
type Record struct {
	Phase   Phase      `json:"phase"`
	Target  Release    `json:"target"` // the release that may change the state
	From    Release    `json:"from"`   // the release that must find it as it was
	Restore []Restored `json:"restore,omitempty"`
	Drop    []string   `json:"drop,omitempty"`

	Bytes    int64     `json:"bytes,omitempty"`   // of the copy
	Seconds  int       `json:"seconds,omitempty"` // that taking it took
	At       time.Time `json:"at,omitzero"`       // when it was taken
	Returned time.Time `json:"returned,omitzero"` // when it was put back
	Trouble  string    `json:"trouble,omitempty"` // why the last attempt did not succeed
}

// Restored is a directory that a return restores.
type Restored struct {
	Path   string `json:"path"`
	Absent bool   `json:"absent,omitempty"` // it was not there: a return removes it
}

// Store keeps the state of one machine.
type Store struct {
	Journal  *durable.Dir // holds kept.json
	Tree     Tree
	Area     string            // directory of the copies, on the file system of the state and for nobody else
	Declared []images.StateDir // of the running release
	Now      func() time.Time
	Log      *slog.Logger
}

const recordFile = "kept.json"

// Record returns what is on record; nil: nothing.
func (s *Store) Record() (*Record, error) {
	data, err := s.Journal.Read(recordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseRecord(data)
}

func parseRecord(data []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", recordFile, err)
	}
	if !slices.Contains([]Phase{Wanted, Kept, Returning}, r.Phase) {
		return nil, fmt.Errorf("cannot read %s: there is no phase %q", recordFile, r.Phase)
	}
	for _, dir := range r.paths() {
		if path.Clean(dir) != dir || !strings.HasPrefix(dir, "/var/") {
			return nil, fmt.Errorf("cannot read %s: %q is no directory of state", recordFile, dir)
		}
	}
	return &r, nil
}

func (r *Record) paths() []string {
	dirs := slices.Clone(r.Drop)
	for _, d := range r.Restore {
		dirs = append(dirs, d.Path)
	}
	return dirs
}

func (s *Store) write(r *Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", recordFile, err)
	}
	return s.Journal.Write(recordFile, append(data, '\n'))
}

// declare adds what a release declares. A directory inside one that is restored comes back with it; one that holds something
// to restore is not dropped.
func (r *Record) declare(dirs []images.StateDir) {
	restore := map[string]bool{}
	for _, d := range r.Restore {
		restore[d.Path] = true
	}
	drop := r.Drop
	for _, d := range dirs {
		switch d.Rollback {
		case "restore":
			restore[d.Path] = true
		case "drop":
			drop = append(drop, d.Path)
		}
	}
	r.Restore, r.Drop = nil, nil
	var paths []string
	for p := range restore {
		paths = append(paths, p)
	}
	slices.Sort(paths) // parents come before what they hold
	for _, p := range paths {
		if !slices.ContainsFunc(r.Restore, func(d Restored) bool { return below(p, d.Path) }) {
			r.Restore = append(r.Restore, Restored{Path: p})
		}
	}
	slices.Sort(drop)
	for _, p := range slices.Compact(drop) {
		if !slices.ContainsFunc(paths, func(d string) bool { return below(d, p) }) {
			r.Drop = append(r.Drop, p)
		}
	}
}

func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// Check tells whether there is room for a copy of what the running release declares.
func (s *Store) Check() error {
	r := &Record{}
	r.declare(s.Declared)
	return s.room(r)
}

// room compares what the copy takes with what is free, the room of an older copy included: that one goes first.
func (s *Store) room(r *Record) error {
	const slack = 64 << 20 // directories, journals, and what else writes meanwhile
	var need int64
	var parts []string
	for _, d := range r.Restore {
		n, found, err := s.Tree.Size(d.Path)
		if err != nil {
			return fmt.Errorf("cannot measure %s: %w", d.Path, err)
		}
		if found {
			need += n
			parts = append(parts, fmt.Sprintf("%s (%s)", d.Path, size(n)))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	free, err := s.Tree.Free(s.Area)
	if err != nil {
		return fmt.Errorf("cannot measure %s: %w", s.Area, err)
	}
	old, _, err := s.Tree.Size(s.Area)
	if err != nil {
		return fmt.Errorf("cannot measure %s: %w", s.Area, err)
	}
	if want := need + need/20 + slack; want > free+old {
		return fmt.Errorf("a copy of %s has to be kept for a return: it takes %s of /var with what else needs room, %s are free: %w",
			strings.Join(parts, " and "), size(want), size(free+old), ErrNoRoom)
	}
	return nil
}

func size(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// Prepare records that the state of from is to be kept when target starts. It comes before anything can start target, and
// may be called again.
func (s *Store) Prepare(from, target Release) error {
	if from.RootHash == target.RootHash {
		return s.Forget() // the same programs: they understand each other's state
	}
	old, err := s.Record()
	if err != nil {
		return err
	}
	if old != nil && old.Phase == Returning {
		return fmt.Errorf("the state of before %s is not back yet: %s", old.Target.Version, cmp.Or(old.Trouble, "it is being put back"))
	}
	r := &Record{Phase: Wanted, Target: target, From: from}
	r.declare(s.Declared)
	if err := s.write(r); err != nil {
		return err
	}
	if err := s.Tidy(); err != nil {
		return err
	}
	return s.room(r)
}

// Returnable tells whether from can find its state, should the running release be left for it on request.
func (s *Store) Returnable(running, from Release) error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	if running.RootHash == from.RootHash || r != nil && r.Phase == Kept && r.From.RootHash == from.RootHash && r.Target.RootHash == running.RootHash {
		return nil
	}
	declared := &Record{}
	declared.declare(s.Declared)
	for _, d := range declared.Restore {
		_, found, err := s.Tree.Size(d.Path)
		if err != nil {
			return fmt.Errorf("cannot measure %s: %w", d.Path, err)
		}
		if found {
			return fmt.Errorf("%s has to be what it was before %s, and %w (it goes %s after the commit); to run the older release on the state as it is, update to it by force",
				d.Path, running.Version, ErrNoCopy, Grace)
		}
	}
	return nil
}

// Forget drops record and copy: the state as it is now is the only one.
func (s *Store) Forget() error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	if r != nil && r.Phase == Returning {
		return nil // not before it is back
	}
	if r != nil {
		if err := s.Journal.Remove(recordFile); err != nil {
			return err
		}
	}
	return s.Tidy()
}

// Tidy removes what lies in the area for nothing.
func (s *Store) Tidy() error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	gone := s.Area
	switch {
	case r != nil && r.Phase == Kept:
		gone = s.left("")
	case r != nil && r.Phase == Returning:
		return nil
	}
	if err := s.Tree.Remove(gone); err != nil {
		return fmt.Errorf("cannot remove %s: %w", gone, err)
	}
	return nil
}

func (s *Store) copyOf(i int) string     { return path.Join(s.Area, "copy", strconv.Itoa(i)) }
func (s *Store) left(name string) string { return path.Join(s.Area, "left", name) }
