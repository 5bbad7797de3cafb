package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"

	"roost/appliance/api"
)

// machine is the facts of a fake host, and what happened to it.
type machine struct {
	facts  map[string]bool
	broken map[string]string // making it fails
	slow   map[string]time.Duration
	made   []string
	crash  int // before the effect of this act, counted from 1; 0: never
	after  bool
	acts   int
}

var errCrash = errors.New("crash")

// make is an act: it takes effect at once, or later, or never.
func (m *machine) make(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		m.acts++
		if m.acts == m.crash && !m.after {
			panic(errCrash)
		}
		if why := m.broken[name]; why != "" {
			return errors.New(why)
		}
		m.made = append(m.made, name)
		if d := m.slow[name]; d > 0 {
			go func() {
				rest(ctx, d)
				m.facts[name] = true
			}()
		} else if d == 0 {
			m.facts[name] = true
		}
		if m.acts == m.crash {
			panic(errCrash)
		}
		return nil
	}
}

func (m *machine) holds(name string) func(context.Context) error {
	return func(context.Context) error {
		if !m.facts[name] {
			return fmt.Errorf("no %s", name)
		}
		return nil
	}
}

func (m *machine) steps(names ...string) (list []Step) {
	for _, name := range names {
		step := Step{Name: name, Holds: m.holds(name), Make: m.make(name)}
		if strings.HasPrefix(name, "wait-") {
			step.Make = nil
		}
		list = append(list, step)
	}
	return list
}

// fake is a component of such steps.
type fake struct {
	machine *machine
	names   []string
}

func (f *fake) Name() string              { return "fake" }
func (f *fake) Wanted(c *api.Config) bool { return c.Kubernetes != nil }
func (f *fake) Steps(c *api.Config) []Step {
	if !f.Wanted(c) {
		return f.machine.steps("left")
	}
	return f.machine.steps(f.names...)
}

// TestSteps walks components through text: each command says what the machine is like, the output is all that came of one
// Ensure, at fake time.
func TestSteps(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		m := &machine{facts: map[string]bool{}, broken: map[string]string{}, slow: map[string]time.Duration{}}
		f := &fake{machine: m}
		agent := &Agent{Components: []Component{f}, Image: []string{"fake"}}
		wanted := true
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "steps":
				f.names = strings.Fields(d.Input)
			case "facts": // "name" or "-name"
				for _, name := range strings.Fields(d.Input) {
					m.facts[strings.TrimPrefix(name, "-")] = !strings.HasPrefix(name, "-")
				}
			case "broken":
				clear(m.broken)
				if name, why, ok := strings.Cut(d.Input, ": "); ok {
					m.broken[name] = why
				}
			case "slow": // name duration; a negative one never comes
				name, text, _ := strings.Cut(d.Input, " ")
				duration, err := time.ParseDuration(text)
				if err != nil {
					t.Fatal(err)
				}
				m.slow[name] = duration
			case "image":
				agent.Image = strings.Fields(d.Input)
			case "wanted":
				wanted = d.Input == "yes"
			case "ensure":
				var out string
				synctest.Test(t, func(t *testing.T) { out = ensure(t.Context(), agent, f, m, wanted) })
				return out
			default:
				t.Fatalf("unknown command %s", d.Cmd)
			}
			return ""
		})
	})
}

func ensure(ctx context.Context, a *Agent, f *fake, m *machine, wanted bool) string {
	begin := time.Now()
	m.made = nil
	kept := a
	a = &Agent{Components: kept.Components, Image: kept.Image, state: kept.state, Now: time.Now, Log: discard()}
	defer func() { kept.state = a.state }()
	config := &api.Config{}
	if wanted {
		config.Kubernetes = &api.Kubernetes{}
	}
	a.Configure(config)
	err := a.Ensure(ctx, f, config)
	var out strings.Builder
	fmt.Fprintf(&out, "made %s in %s\n", strings.Join(m.made, " "), time.Since(begin).Round(10*time.Millisecond))
	if err != nil {
		fmt.Fprintf(&out, "error: %v\n", err)
	}
	for _, s := range a.Status() {
		fmt.Fprintf(&out, "%s %d/%d %s %s\n", s.State, s.Done, s.Steps, s.Step, s.Reason)
	}
	fmt.Fprintf(&out, "gate: %v\n", a.Ready("fake"))
	return out.String()
}

// TestCrash ends a bring-up before and after the effect of every act; whoever comes next must end with all facts, and must
// not repeat what the facts say is done.
func TestCrash(t *testing.T) {
	names := []string{"keys", "settings", "start", "network", "ready"}
	for _, after := range []bool{false, true} {
		for n := 1; n <= len(names); n++ {
			t.Run(fmt.Sprintf("act %d, effect %v", n, after), func(t *testing.T) {
				m := &machine{facts: map[string]bool{}, crash: n, after: after}
				run := func() (crashed bool) {
					defer func() {
						if r := recover(); r != nil {
							crashed = true
						}
					}()
					f := &fake{machine: m, names: names}
					a := &Agent{Components: []Component{f}, Image: []string{"fake"}, Now: time.Now, Log: discard()}
					config := &api.Config{Components: api.Components{Kubernetes: &api.Kubernetes{}}}
					a.Configure(config)
					if err := a.Ensure(t.Context(), f, config); err != nil {
						t.Fatal(err)
					}
					if err := a.Ready("fake"); err != nil {
						t.Error(err)
					}
					return false
				}
				if !run() {
					t.Fatal("did not crash")
				}
				if run() {
					t.Fatal("crashed again")
				}
				for _, name := range names {
					if !m.facts[name] {
						t.Errorf("%s does not hold", name)
					}
				}
				if got := strings.Join(m.made, " "); got != strings.Join(names, " ") {
					t.Errorf("made %s", got)
				}
			})
		}
	}
}

// TestLanes walks rows side by side: the time is that of the longest, one that fails holds up no other, and a crash leaves
// nothing that is not made later.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{facts: map[string]bool{}, broken: map[string]string{}, slow: map[string]time.Duration{}}
		step := func(name string, d time.Duration) Step {
			fact := make(chan struct{})
			return Step{Name: name, Holds: func(context.Context) error {
				select {
				case <-fact:
					return nil
				default:
					return errors.New("no " + name)
				}
			}, Make: func(context.Context) error {
				time.AfterFunc(d, func() { close(fact) })
				return nil
			}}
		}
		var told []string
		begin := time.Now()
		failing := Step{Name: "bad", Holds: m.holds("bad"), Make: func(context.Context) error { return errors.New("no room") }}
		last := step("c", 0)
		lanes := Step{Name: "all", Lanes: [][]Step{{step("a", 5*time.Second)}, {step("b", 4*time.Second), last}, {failing}}}
		n, err := walk(t.Context(), []Step{lanes, step("after", 0)}, func(n int, why error) { told = append(told, why.Error()) })
		if n != 0 || err == nil || err.Error() != "bad: no room" {
			t.Errorf("at %d: %v", n, err)
		}
		if took := time.Since(begin); took < 5*time.Second || took > 7*time.Second {
			t.Errorf("took %s", took)
		}
		if last.Holds(t.Context()) != nil {
			t.Error("a lane was held up by another that failed")
		}
		if !strings.Contains(strings.Join(told, "\n"), "b: no b") {
			t.Errorf("told %q", told)
		}
		lanes.Lanes = lanes.Lanes[:2]
		if n, err := walk(t.Context(), []Step{lanes, step("after", 0)}, func(int, error) {}); n != 2 || err != nil {
			t.Errorf("at %d: %v", n, err)
		}
	})
}
