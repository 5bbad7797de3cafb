package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"roost/appliance/linux"
	"roost/images/durable"
	"roost/updater/boot"
	"roost/updater/kept"
)

const (
	keptDir  = "/" + stateDir + "/kept"
	keptFile = "run/roost/kept" // seconds that this boot took for a copy
)

// State keeps the state of components when a new release starts for the first time, and puts it back when the release before
// runs again. It comes before any unit that has state. A trial whose copy cannot be taken ends at once: the machine starts
// again, and when the tries are used up the release before, whose state is untouched.
func State(root string, log *slog.Logger) error {
	machine := linux.Machine{Root: root}
	started, err := machine.Boot()
	if err != nil {
		return err
	}
	journal, err := durable.Open(filepath.Join(root, stateDir), 0o600)
	if err != nil {
		return err
	}
	store, err := keptState(root, started, journal, log)
	if err != nil || store == nil {
		return err
	}
	outcome, err := store.Boot(started.RootHash)
	if err == nil {
		return noteKept(root, outcome.Took)
	}
	if !outcome.Exposed {
		return err
	}
	loaded, unknown := boot.Variables{Dir: filepath.Join(root, boot.EFIVars)}.Started()
	if unknown == nil && loaded.Trial {
		log.Error("this release cannot be tried: going back", "error", err)
		return errors.Join(err, machine.RebootEarly())
	}
	// Nothing to go back to: the machine works on, and what it finds from now on is no state of before.
	return errors.Join(err, unknown, store.Forget())
}

// keptState opens the copies of a machine; nil where there is no slot to return to.
func keptState(root string, started *linux.Boot, journal *durable.Dir, log *slog.Logger) (*kept.Store, error) {
	if started.Origin != "disk" || started.Contained() {
		return nil, nil
	}
	image, err := readComponents(root)
	if err != nil {
		return nil, err
	}
	store := &kept.Store{Journal: journal, Tree: kept.Disk{Root: root}, Area: keptDir, Now: time.Now, Log: log}
	for _, c := range image {
		store.Declared = append(store.Declared, c.State...)
	}
	return store, nil
}

// noteKept and keptFor tell the update engine how much of the time since boot went into a copy.
func noteKept(root string, took time.Duration) error {
	if took == 0 {
		return nil
	}
	if err := os.WriteFile(filepath.Join(root, keptFile), fmt.Appendln(nil, int(took.Seconds()+0.5)), 0o600); err != nil {
		return fmt.Errorf("cannot note how long the copy took: %w", err)
	}
	return nil
}

func keptFor(root string) time.Duration {
	b, err := os.ReadFile(filepath.Join(root, keptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	n, wrong := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || wrong != nil || n < 0 {
		return 0 // the gates have a little less time
	}
	return time.Duration(n) * time.Second
}
