package updater_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"roost/images"
	"roost/updater"
	"roost/updater/boot"
	"roost/updater/slot"
)

// TestStep runs the files in testdata: an event in, the whole state and the next action out.
func TestStep(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s, running := updater.State{}, "1"
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "running" {
				running = d.CmdArgs[0].Key
				return ""
			}
			next, action, err := updater.Step(s, event(t, d, s, running))
			s = next
			text := show(s, action)
			if err != nil {
				text = "refused: " + err.Error() + "\n" + text
			}
			return text
		})
	})
}

func show(s updater.State, action updater.Action) string {
	data, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("%s → %s\n", s.Phase, orNone(action))
	if s.Target != nil {
		from := images.Version("nothing")
		if s.From != nil {
			from = s.From.Version
		}
		text += fmt.Sprintf("  from %s to %s as %s, slot %q\n", from, s.Target.Version, s.Target.File, s.Slot)
	}
	for _, name := range []string{"boot", "done", "before", "gates", "streak", "starts", "reason", "left", "refused", "floor"} {
		if value, ok := fields[name]; ok {
			text += fmt.Sprintf("  %s %s\n", name, strings.ReplaceAll(string(value), `,"at":"0001-01-01T00:00:00Z"`, ""))
		}
	}
	return text
}

func orNone(a updater.Action) string {
	if a == updater.None {
		return "nothing to do"
	}
	return string(a)
}

// event builds the event a test line names.
func event(t *testing.T, d *datadriven.TestData, s updater.State, running string) updater.Event {
	t.Helper()
	arg := func(key, otherwise string) string {
		if a, ok := d.Arg(key); ok {
			if len(a.Vals) == 0 {
				return "yes"
			}
			return strings.Join(a.Vals, ",")
		}
		return otherwise
	}
	number := func(key string, otherwise int) int {
		n := otherwise
		if _, err := fmt.Sscan(arg(key, fmt.Sprint(otherwise)), &n); err != nil {
			d.Fatalf(t, "%s: %v", key, err)
		}
		return n
	}
	switch d.Cmd {
	case "request":
		r := request(arg("version", "2"), running)
		r.Force = arg("force", "") != ""
		r.Release.Architecture = arg("arch", "amd64")
		r.Release.Name = arg("name", "edge")
		r.Release.Update.RollbackFloor = images.Version(arg("floor", ""))
		r.Release.Root.Size = int64(number("size", 100))
		r.Machine.Room = int64(number("room", 100<<20))
		r.Machine.Spare.RootHash = "hash of " + arg("spare", "nothing")
		if arg("rebuilt", "") != "" {
			r.Manifest = images.DigestOf([]byte("another build"))
		}
		if arg("same-root", "") != "" {
			r.Release.RootHash = r.Machine.Running.RootHash
		}
		return r
	case "rollback":
		m := machineOf(running)
		if to := arg("to", ""); to != "" {
			i := installed(to)
			m.Fallback = &i
		}
		return updater.Rollback{Machine: m}
	case "clear":
		return updater.Clear{Manifest: manifest(arg("version", "2"))}
	case "started":
		return startedEvent(arg, number, s)
	case "did":
		return updater.Did{Action: updater.Action(d.CmdArgs[0].Key)}
	case "failed":
		return updater.Failure{Action: updater.Action(d.CmdArgs[0].Key), Reason: arg("reason", "it broke")}
	case "damaged":
		return updater.Damaged{}
	case "round":
		r := updater.Round{Uptime: time.Duration(number("uptime", 1)) * time.Second}
		broken := strings.Split(arg("broken", ""), ",")
		for _, name := range []string{"units", "daemon"} {
			if name != arg("without", "") {
				r.Results = append(r.Results, updater.Result{Name: name, Held: !slices.Contains(broken, name)})
			}
		}
		return r
	case "found":
		f := updater.Found{Log: []string{"last line"}}
		if arg("pstore", "") != "" {
			f.Pstore = []string{"Kernel panic"}
		}
		return f
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return nil
}

func startedEvent(arg func(string, string) string, number func(string, int) int, s updater.State) updater.Started {
	e := updater.Started{Boot: arg("boot", s.Boot), Option: number("option", 0)}
	switch on := arg("on", "from"); on {
	case "from":
		e.RootHash, e.File = s.From.RootHash, s.From.File
	case "target":
		e.RootHash, e.File, e.Trial = s.Target.RootHash, s.Target.File, arg("trial", "yes") == "yes"
	default:
		e.RootHash, e.File = "hash of "+on, "edge_"+on
	}
	if arg("left", "") != "" {
		e.Target = &boot.Name{Base: s.Target.File, Counted: true, Left: number("left", 0), Done: number("done", 0)}
	}
	return e
}

func installed(version string) slot.Installed {
	return slot.Installed{Manifest: manifest(version), Name: "edge", Version: images.Version(version), RootHash: "hash of " + version,
		UKI: images.Part{Digest: "d", Size: 50}, File: "edge_" + version}
}

func machineOf(running string) updater.Machine {
	return updater.Machine{Boot: "boot-1", Architecture: "amd64", Running: installed(running), Room: 100 << 20,
		Spare: slot.Slot{ID: slot.B, RootHash: "hash of nothing", Root: 1000, Verity: 1000}}
}

func request(version, running string) updater.Request {
	i := installed(version)
	return updater.Request{Reference: version, Manifest: i.Manifest, Machine: machineOf(running), Release: images.Release{
		Name: "edge", Version: i.Version, Architecture: "amd64", RootHash: i.RootHash, UKI: i.UKI,
		Root: images.Part{Size: 100}, Verity: images.Part{Size: 10}, Update: images.Update{Tries: 2, GateSeconds: 60},
		Gates: []images.Gate{{Name: "units", Kind: "units"}, {Name: "daemon", Kind: "unit", Unit: "roostd.service"}},
	}}
}

// TestEveryEventInEveryState walks all states that any order of events reaches, and holds what must hold in each.
func TestEveryEventInEveryState(t *testing.T) {
	key := func(s updater.State) string { // what a decision may depend on
		left, from := "", ""
		if s.Left != nil {
			left = fmt.Sprint(s.Left.Cause, s.Left.Detail != "", s.Left.Boot != "")
		}
		if s.From != nil {
			from = string(s.From.Version)
		}
		target := ""
		if s.Target != nil {
			target = string(s.Target.Version)
		}
		return fmt.Sprint(s.Phase, s.Done, s.Streak, s.Starts, s.Boot, s.Slot, from, target, left, len(s.Refused), s.Before)
	}
	seen := map[string]updater.State{"": {}}
	queue := []updater.State{{}}
	edges := 0
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		for _, e := range everyEvent(s) {
			edges++
			next, action, err := updater.Step(s, e)
			hold(t, s, e, next, action, err)
			next.Starts, next.Streak = min(next.Starts, 6), min(next.Streak, 2)
			if k := key(next); seen[k].Phase == "" {
				seen[k] = next
				queue = append(queue, next)
			}
		}
		if len(seen) > 20000 {
			t.Fatalf("more than %d states: the walk does not end", len(seen))
		}
	}
	t.Logf("%d states, %d steps", len(seen), edges)
	for _, phase := range []updater.Phase{updater.Idle, updater.Fetched, updater.Written, updater.Verified, updater.Armed, updater.Trial,
		updater.Healthy, updater.Committed, updater.RollingBack, updater.Returned, updater.RolledBack, updater.Failed} {
		found := false
		for _, s := range seen {
			found = found || s.Phase == phase
		}
		if !found {
			t.Errorf("no order of events reaches %s", phase)
		}
	}
}

func hold(t *testing.T, s updater.State, e updater.Event, next updater.State, action updater.Action, err error) {
	t.Helper()
	bad := func(text string) {
		t.Helper()
		t.Fatalf("%s\n%T%+v in\n%sgives\n%s", text, e, e, show(s, ""), show(next, action))
	}
	again, sameAction, _ := updater.Step(next, updater.Clear{Manifest: "none"})
	switch {
	case err != nil && s.Phase != "" && !reflect.DeepEqual(s, next):
		bad("a refusal changed the state")
	case next.Phase.Busy() != (action != updater.None):
		bad("busy without anything to do, or the other way round")
	case next.Phase.Busy() && (next.Target == nil || next.From == nil):
		bad("busy with nothing")
	case sameAction != action || !reflect.DeepEqual(again, next):
		bad("the action depends on more than the state")
	case (next.Phase == updater.Returned || next.Phase == updater.RolledBack || next.Phase == updater.RollingBack) && next.Left == nil:
		bad("left without a cause")
	case next.Phase == updater.Armed && next.Before == nil:
		bad("armed without knowing which gates held")
	}
	for _, r := range s.Refused {
		_, isClear := e.(updater.Clear)
		if !isClear && !slices.Contains(next.Refused, r) {
			bad("a failure was forgotten")
		}
	}
	if s.Floor != "" && next.Floor.Compare(s.Floor) < 0 {
		bad("the floor sank")
	}
	if request, ok := e.(updater.Request); ok && err == nil && next.Target != nil && next.Target.Manifest == request.Manifest && !s.Phase.Busy() &&
		next.Phase.Busy() && slices.ContainsFunc(s.Refused, func(r updater.Refusal) bool { return r.Manifest == request.Manifest }) {
		bad("a failed version was taken again")
	}
}

// everyEvent returns one or more of each kind, for the state.
func everyEvent(s updater.State) []updater.Event {
	running := "1"
	if s.Target != nil && s.Phase == updater.Committed {
		running = string(s.Target.Version)
	}
	one := installed("1")
	withFallback := machineOf(running)
	if running != "1" {
		withFallback.Fallback = &one
	}
	events := []updater.Event{request("2", running), updater.Rollback{Machine: withFallback}, updater.Clear{Manifest: manifest("2")},
		updater.Damaged{}, updater.Found{Log: []string{"x"}}, updater.Found{Pstore: []string{"panic"}}}
	reuse := request("2", running)
	reuse.Machine.Spare.RootHash = reuse.Release.RootHash
	same := request("2", running)
	same.Release.RootHash = same.Machine.Running.RootHash
	events = append(events, reuse, same)
	for _, action := range []updater.Action{updater.Write, updater.Verify, updater.Snapshot, updater.Arm, updater.Check, updater.Commit, updater.MarkBad, updater.Gather} {
		events = append(events, updater.Did{Action: action}, updater.Failure{Action: action, Reason: "broken"})
	}
	good := []updater.Result{{Name: "units", Held: true}, {Name: "daemon", Held: true}}
	half := []updater.Result{{Name: "units", Held: true}, {Name: "daemon"}}
	for _, results := range [][]updater.Result{good, half} {
		events = append(events, updater.Round{Results: results, Uptime: time.Second}, updater.Round{Results: results, Uptime: time.Hour})
	}
	names := []*boot.Name{nil, {Counted: true, Left: 2}, {Counted: true, Left: 1, Done: 1}, {Counted: true, Done: 2}, {}}
	for _, root := range []string{"1", "2", "7"} {
		for _, id := range []string{"boot-1", "boot-2"} {
			for _, name := range names {
				for _, option := range []int{0, 2} {
					events = append(events, updater.Started{Boot: id, RootHash: "hash of " + root, File: "edge_" + root, Trial: root == "2", Option: option, Target: name})
				}
			}
		}
	}
	return events
}
