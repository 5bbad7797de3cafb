package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/images/depot"
	"roost/test/lab"
	"roost/test/powercut"
	"roost/updater"
)

// How much is judged and booted after the update.
const (
	cutSeeds     = 10 // states of each kind between two flushes
	cutSeedsLong = 200
	cutChecks    = 20               // state partitions checked; in the long journey as many as machines are booted
	cutMachines  = 2                // booted at a time
	cutLimit     = 10 * time.Minute // for one machine to come up
)

func (j *Journey) recording() lab.Recording { return lab.Recording{Dir: j.path("recording")} }

// record records the worker's disk, from before its update on.
func (j *Journey) record(ctx context.Context) error {
	if j.Cuts == 0 {
		return nil
	}
	if err := os.Mkdir(j.recording().Dir, 0o700); err != nil {
		return err
	}
	return j.worker.Record(ctx, j.recording())
}

// stopRecording comes when the worker has been updated, was rolled back on request, and has taken release 2 again.
func (j *Journey) stopRecording(ctx context.Context) error {
	if j.Cuts == 0 {
		return nil
	}
	return j.worker.StopRecording(ctx, func() error {
		return powercut.Record{Base: j.recording().Base(), Log: j.recording().Log()}.Matches(j.worker.DiskPath())
	})
}

// powerCuts judges the disks that a power cut could have left at any moment of the recording, and boots a sample of them:
// each must come up, on the version that the model foretells.
func (j *Journey) powerCuts(ctx context.Context) error {
	if err := j.noteMemory(ctx); err != nil {
		return err
	}
	for _, m := range []*lab.Machine{j.worker, j.controller} {
		if err := m.PowerOff(); err != nil { // they are not needed any more
			return err
		}
	}
	record := powercut.Record{Base: j.recording().Base(), Log: j.recording().Log()}
	for _, n := range []string{"1", "2"} {
		v, err := j.version(ctx, n)
		if err != nil {
			return err
		}
		record.Versions = append(record.Versions, v)
	}
	record.Good = record.Versions[0].Name
	seeds := cutSeeds
	if !j.Short {
		seeds = cutSeedsLong
	}
	start := time.Now()
	proof, err := powercut.Prove(ctx, record, seeds, max(j.Cuts, cutChecks))
	if err != nil {
		return err
	}
	j.note("  disks judged, each as a power cut could have left it", fmt.Sprintf("%d at %d flushes, in %s", proof.States, proof.Flushes, since(start)))
	fmt.Fprintf(j.Out, "      all of %d states of the disk (%d writes and %d flushes) come up: %v\n", proof.States, proof.Entries-proof.Flushes, proof.Flushes, proof.Up)
	if len(proof.Sample) < j.Cuts || len(proof.Up) != len(record.Versions) {
		return fmt.Errorf("the recording is too short: %d states to boot, versions %v", len(proof.Sample), proof.Up)
	}
	if err := j.checkStates(ctx, record, proof.Sample); err != nil {
		return err
	}
	start = time.Now()
	if err := j.bootSample(ctx, record, proof.Sample[:j.Cuts]); err != nil {
		return err
	}
	j.note("  machines booted after a power cut", fmt.Sprintf("%d, in %s", j.Cuts, since(start)))
	return nil
}

// checkStates checks the state partition of each sample, and shows how far the update was by its journal.
func (j *Journey) checkStates(ctx context.Context, record powercut.Record, samples []powercut.Sample) error {
	start, phases := time.Now(), map[updater.Phase]int{}
	for _, s := range samples {
		phase, err := record.CheckState(ctx, s.State, j.path("state.raw"))
		if err != nil {
			return err
		}
		phases[phase]++
	}
	fmt.Fprintf(j.Out, "      the state partition is good in all of %d, in %s; the update journal says %v\n", len(samples), since(start), phases)
	return os.Remove(j.path("state.raw"))
}

// version is what the judge must know of release n.
func (j *Journey) version(ctx context.Context, n string) (powercut.Version, error) {
	shelf, err := depot.Open(ctx, j.path("depot"), depot.Options{})
	if err != nil {
		return powercut.Version{}, err
	}
	defer shelf.Close()
	r, err := shelf.Get(ctx, j.releases[n])
	if err != nil {
		return powercut.Version{}, err
	}
	return powercut.Version{Name: string(r.Document.Version), UKI: r.Document.UKI.Digest, RootHash: r.Document.RootHash}, nil
}

// bootSample boots a machine for each sample, some at a time.
func (j *Journey) bootSample(ctx context.Context, record powercut.Record, samples []powercut.Sample) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cutMachines)
	for n, s := range samples {
		group.Go(func() error {
			start := time.Now()
			up, err := j.bootState(ctx, fmt.Sprintf("cut%d", n), record, s.State)
			if err == nil && up != s.Version {
				err = fmt.Errorf("%s came up, where the model says %s", up, s.Version)
			}
			if err != nil {
				return fmt.Errorf("power cut at %+v with %q on the ESP: %w", s.State, s.Offered, err)
			}
			fmt.Fprintf(j.Out, "      power cut at write %d of the log, %q on the ESP: %s is up after %s\n", s.State.Cut, s.Offered, up, since(start))
			return nil
		})
	}
	return group.Wait()
}

// bootState boots a machine with the disk of a state until its daemon says which version runs. The machine has no network:
// it would be taken for the worker.
func (j *Journey) bootState(ctx context.Context, name string, record powercut.Record, s powercut.State) (version string, err error) {
	m, err := j.lab.Add(lab.Spec{Name: name, Image: record.Base, Vars: j.recording().Variables()})
	if err != nil {
		return "", err
	}
	if err := record.Restore(s, m.DiskPath()); err != nil {
		return "", err
	}
	if err := m.SetCable(false); err != nil {
		return "", err
	}
	if err := m.PowerOn(ctx); err != nil {
		return "", err
	}
	up, err := awaitConsole(ctx, m, runsLine)
	if err != nil {
		return "", err
	}
	return up[1], m.Remove()
}

// runsLine is what the daemon says on the console when it is up.
var runsLine = regexp.MustCompile(`roost: worker-0 of site journey runs edge (\S+)`)

// awaitConsole waits for a line on the console and returns what the pattern found in it.
func awaitConsole(ctx context.Context, m *lab.Machine, pattern *regexp.Regexp) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	seen := &watcher{pattern: pattern, stop: cancel}
	in, hold := io.Pipe() // nothing is typed
	defer hold.Close()
	if err := m.Console(ctx, in, seen); err != nil {
		return nil, err
	}
	if seen.found == nil {
		log, _ := os.ReadFile(m.ConsoleLog())
		return nil, fmt.Errorf("it is not up after %s; its console ends with\n%s", cutLimit, log[max(0, len(log)-4000):])
	}
	return seen.found, nil
}

// watcher looks for a pattern in what is written to it, line by line.
type watcher struct {
	pattern *regexp.Regexp
	stop    func()
	found   []string
	line    []byte
}

func (w *watcher) Write(b []byte) (int, error) {
	w.line = append(w.line, b...)
	for w.found == nil {
		line, rest, whole := bytes.Cut(w.line, []byte("\n"))
		if !whole {
			break
		}
		if found := w.pattern.FindSubmatch(line); found != nil {
			for _, f := range found {
				w.found = append(w.found, string(f))
			}
			w.stop()
		}
		w.line = rest
	}
	return len(b), nil
}
