package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"roost/images"
	"roost/images/durable"
	"roost/updater"
)

// system is what gates ask of the running machine; linux.Machine is one.
type system interface {
	UnitState(ctx context.Context, unit string) (string, error)
	FailedUnits(ctx context.Context) ([]string, error)
	RunConfined(ctx context.Context, name string, argv []string, limit time.Duration) error
}

const gateLimit = 60 * time.Second // for one program

// Gates are the health checks of a release on this machine.
type Gates struct {
	System     system
	Controller func(context.Context) error // the site answers
	Component  func(name string) error     // it is ready, or not wanted here

	mu     sync.Mutex // guards the fields below
	names  string
	held   bool
	reason string
	at     time.Time
}

// Check runs the gates in order. Each has a result; one that cannot be run did not hold.
func (g *Gates) Check(ctx context.Context, gates []images.Gate) []updater.Result {
	results := make([]updater.Result, 0, len(gates))
	for _, gate := range gates {
		result := updater.Result{Name: gate.Name, Held: true}
		if err := g.check(ctx, gate); err != nil {
			result.Held, result.Output = false, err.Error()
		}
		results = append(results, result)
	}
	return results
}

func (g *Gates) check(ctx context.Context, gate images.Gate) error {
	switch gate.Kind {
	case "unit":
		state, err := g.System.UnitState(ctx, gate.Unit)
		if err == nil && state != "active" {
			err = fmt.Errorf("%s is %s", gate.Unit, state)
		}
		return err
	case "units":
		failed, err := g.System.FailedUnits(ctx)
		if err == nil && len(failed) > 0 {
			err = fmt.Errorf("failed: %s", strings.Join(failed, ", "))
		}
		return err
	case "controller":
		return g.Controller(ctx)
	case "component":
		return g.Component(gate.Name)
	case "program":
		return g.System.RunConfined(ctx, gate.Name, gate.Exec, gateLimit)
	}
	return fmt.Errorf("gate kind %q is not known to this release", gate.Kind)
}

// Healthy reports whether every gate holds, and which does not. The answer is at most a quarter of a minute old: gates can
// be programs, and the site asks every few seconds.
func (g *Gates) Healthy(ctx context.Context, gates []images.Gate, now time.Time) (bool, string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := fmt.Sprint(gates)
	if names == g.names && g.held && now.Sub(g.at) < 15*time.Second {
		return g.held, g.reason
	}
	g.names, g.held, g.reason, g.at = names, true, "", now
	for _, result := range g.Check(ctx, gates) {
		if !result.Held && g.held {
			g.held, g.reason = false, "gate "+result.Name+" does not hold: "+result.Output
		}
	}
	return g.held, g.reason
}

// PrintGates runs the gates of the running release once and prints a line for each. It fails when one does not hold.
func PrintGates(ctx context.Context, out io.Writer) error {
	d, err := openDaemon("/", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	gates := &Gates{System: d.machine, Controller: d.reachController, Component: func(name string) error { return readStatus(d.root, name) }}
	state, err := readUpdate(d.state)
	if err != nil {
		return err
	}
	list, err := d.gatesOf(state)
	if err != nil {
		return err
	}
	failed := 0
	for _, result := range gates.Check(ctx, list) {
		word := "holds"
		if !result.Held {
			word = "fails: " + result.Output
			failed++
		}
		fmt.Fprintf(out, "%s %s\n", result.Name, word)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d gates do not hold", failed, len(list))
	}
	return nil
}

// readUpdate reads the update engine's journal without an engine.
func readUpdate(dir *durable.Dir) (state updater.State, err error) {
	b, err := dir.Read("update.json")
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &state)
	}
	if err != nil {
		return state, fmt.Errorf("cannot read the update journal: %w", err)
	}
	return state, nil
}
