package powercut

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"

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
	Entries, States int
	Up              map[string]int // states by the version that came up
	Sample          []State        // to be really booted, spread evenly and picked by seed
}

// Prove judges every flush of a record and so many seeded states of each kind between two. It fails at the first disk on
// which nothing comes up, or on which a version that crashes on trial keeps the machine. Images of the sample are made with
// a Rebuilder over Base and Log, and Image.Overlay onto a copy of Base.
func Prove(ctx context.Context, r Record, seeds, sample int) (*Proof, error) {
	judge, closeFiles, err := r.open()
	if err != nil {
		return nil, fmt.Errorf("cannot judge the record %s: %w", r.Log, err)
	}
	defer closeFiles()
	proof := &Proof{Entries: len(judge.Rebuilder.Log.Entries), Up: map[string]int{}}
	random := rand.New(rand.NewPCG(1, uint64(sample)))
	for s := range judge.Rebuilder.Log.States(seeds) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		up, err := judge.Judge(ctx, s, nil)
		if err != nil {
			return nil, fmt.Errorf("cannot judge %+v: %w", s, err)
		}
		if up.Version == "" {
			return nil, fmt.Errorf("after a power cut at %+v nothing comes up of %q", s, up.Offered)
		}
		if up.Trial && up.Version != r.Good {
			back, err := judge.Judge(ctx, s, func(version string) boot.Outcome {
				if version == up.Version {
					return boot.Reset
				}
				return boot.Up
			})
			if err != nil || back.Version != r.Good {
				return nil, fmt.Errorf("after a power cut at %+v version %s keeps the machine though it crashes: %q (%v)", s, up.Version, up.Offered, err)
			}
		}
		proof.Up[up.Version]++
		proof.States++
		// A reservoir: every state is as likely to be in the sample.
		if len(proof.Sample) < sample {
			proof.Sample = append(proof.Sample, s)
		} else if n := random.IntN(proof.States); n < sample {
			proof.Sample[n] = s
		}
	}
	return proof, nil
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
