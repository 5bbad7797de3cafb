package powercut

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"

	"roost/updater/boot"
)

// Record is what a machine wrote during an update: its disk as it was before, and the log of QEMU's blklogwrites.
type Record struct {
	Base     string // file of the disk when the machine was started; the machine writes to a copy
	Log      string // file of the log
	Versions []Version
	Good     string // version that ran before, to which the machine must return when any other crashes on trial
	// Read takes a UKI apart; nil means ReadUKI.
	Read func(content []byte) (sortKey, version string, ok bool)
}

// Proof is what came of judging a record.
type Proof struct {
	Entries, Flushes, States int
	Up                       map[string]int // states by the version that came up
	Sample                   []Sample       // to be really booted
}

// Sample is a state and the version that must come up after it.
type Sample struct {
	State   State
	Version string
	Offered []string // what the loader sees, in its order
}

// Prove judges every flush of a record and so many seeded states of each kind between two. It fails at the first disk on
// which nothing comes up, or on which a version that crashes on trial keeps the machine.
//
// The sample is picked by seed, from each situation that the loader may find in turn: nearly all states fall into the time
// in which a slot is written, when there is little to see at the start.
func Prove(ctx context.Context, r Record, seeds, sample int) (*Proof, error) {
	judge, closeFiles, err := r.open()
	if err != nil {
		return nil, fmt.Errorf("cannot judge the record %s: %w", r.Log, err)
	}
	defer closeFiles()
	proof := &Proof{Up: map[string]int{}}
	for _, e := range judge.Rebuilder.Log.Entries {
		proof.Entries++
		if e.Flush {
			proof.Flushes++
		}
	}
	picker := picker{random: rand.New(rand.NewPCG(1, uint64(sample))), limit: sample}
	for s := range judge.Rebuilder.Log.States(seeds) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		up, err := r.judgeOne(ctx, judge, s)
		if err != nil {
			return nil, err
		}
		proof.Up[up.Version]++
		proof.States++
		picker.add(Sample{State: s, Version: up.Version, Offered: up.Offered})
	}
	proof.Sample = picker.pick()
	return proof, nil
}

// judgeOne demands of a state that a version comes up, and that the good one does when the other crashes on trial.
func (r Record) judgeOne(ctx context.Context, judge *Judge, s State) (Verdict, error) {
	image := judge.Rebuilder.Image(s)
	up, err := judge.powerOn(ctx, image, nil)
	if err != nil {
		return up, fmt.Errorf("cannot judge %+v: %w", s, err)
	}
	if up.Version == "" {
		return up, fmt.Errorf("after a power cut at %+v nothing comes up of %q", s, up.Offered)
	}
	if !up.Trial || up.Version == r.Good {
		return up, nil
	}
	back, err := judge.powerOn(ctx, image, func(version string) boot.Outcome {
		if version == up.Version {
			return boot.Reset
		}
		return boot.Up
	})
	if err != nil || back.Version != r.Good {
		return up, fmt.Errorf("after a power cut at %+v version %s keeps the machine though it crashes: %q (%v)", s, up.Version, up.Offered, err)
	}
	return up, nil
}

// picker picks samples while they pass by: each of one situation is as likely as any other.
type picker struct {
	random     *rand.Rand
	limit      int
	situations []situation // in the order of their first state
}

type situation struct {
	key  string
	seen int
	kept []Sample
}

func (p *picker) add(s Sample) {
	key := fmt.Sprint(s.Version, s.Offered)
	i := slices.IndexFunc(p.situations, func(k situation) bool { return k.key == key })
	if i < 0 {
		i = len(p.situations)
		p.situations = append(p.situations, situation{key: key})
	}
	k := &p.situations[i]
	k.seen++
	if len(k.kept) < p.limit {
		k.kept = append(k.kept, s)
	} else if n := p.random.IntN(k.seen); n < p.limit {
		k.kept[n] = s
	}
}

// pick takes one of each situation, in an order by seed, until it has enough.
func (p *picker) pick() (picked []Sample) {
	for i := range p.situations {
		kept := p.situations[i].kept
		p.random.Shuffle(len(kept), func(a, b int) { kept[a], kept[b] = kept[b], kept[a] })
	}
	p.random.Shuffle(len(p.situations), func(a, b int) { p.situations[a], p.situations[b] = p.situations[b], p.situations[a] })
	for round := 0; len(picked) < p.limit; round++ {
		before := len(picked)
		for _, k := range p.situations {
			if round < len(k.kept) && len(picked) < p.limit {
				picked = append(picked, k.kept[round])
			}
		}
		if len(picked) == before {
			break
		}
	}
	return picked
}

// open opens the files and the judge.
func (r Record) open() (*Judge, func(), error) {
	base, err := os.Open(r.Base)
	if err != nil {
		return nil, nil, err
	}
	file, err := os.Open(r.Log)
	if err != nil {
		base.Close()
		return nil, nil, err
	}
	closeFiles := func() { base.Close(); file.Close() }
	judge, err := r.judge(base, file)
	if err != nil {
		closeFiles()
		return nil, nil, err
	}
	return judge, closeFiles, nil
}

func (r Record) judge(base, file *os.File) (*Judge, error) {
	info, err := base.Stat()
	if err != nil {
		return nil, err
	}
	logged, err := file.Stat()
	if err != nil {
		return nil, err
	}
	log, err := Open(file, logged.Size())
	if err != nil {
		return nil, err
	}
	judge := &Judge{Rebuilder: &Rebuilder{Log: log, Base: base, Size: info.Size()}, Versions: r.Versions, Options: 3, Read: r.Read}
	return judge, judge.Open()
}

// Restore writes the disk of a state to the file path, which must be a copy of Base.
func (r Record) Restore(s State, path string) error {
	judge, closeFiles, err := r.open()
	if err != nil {
		return fmt.Errorf("cannot restore %s: %w", path, err)
	}
	defer closeFiles()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot restore %s: %w", path, err)
	}
	if err := judge.Rebuilder.Image(s).Overlay(f); err != nil {
		f.Close()
		return fmt.Errorf("cannot restore %s: %w", path, err)
	}
	return f.Close()
}

// Matches compares the machine's disk, in the file path, with all that was written to it: a record that lacks a write proves
// nothing.
func (r Record) Matches(path string) error {
	judge, closeFiles, err := r.open()
	if err != nil {
		return fmt.Errorf("cannot compare %s with its record: %w", path, err)
	}
	defer closeFiles()
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot compare %s with its record: %w", path, err)
	}
	defer f.Close()
	all := State{Cut: len(judge.Rebuilder.Log.Entries)}
	if err := judge.Rebuilder.Image(all).Overlay(comparer{f}); err != nil {
		return fmt.Errorf("cannot trust the record of %s: %w", path, err)
	}
	return nil
}

// comparer takes writes of what is there already.
type comparer struct{ there io.ReaderAt }

func (c comparer) WriteAt(p []byte, at int64) (int, error) {
	have := make([]byte, len(p))
	if n, err := c.there.ReadAt(have, at); n < len(have) {
		return 0, err
	}
	if !bytes.Equal(have, p) {
		return 0, fmt.Errorf("%d bytes at %d differ", len(p), at)
	}
	return len(p), nil
}
