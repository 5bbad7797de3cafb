package updater_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"roost/images/durable/durabletest"
	"roost/updater"
	"roost/updater/boot"
	"roost/updater/boot/boottest"
)

// journeys are whole updates, by what the new version does.
func journeys() map[string]behaviour {
	return map[string]behaviour{
		"good":             {},
		"gate":             {failing: []string{"daemon"}},
		"panics":           {outcome: boot.Reset},
		"not loaded":       {outcome: boot.Refused},
		"requested":        {}, // an operator rolls back once it is committed
		"older":            {}, // version 0.9, forced
		"older, gate":      {failing: []string{"daemon"}},
		"older, requested": {},
		"kernel":           {}, // version 1.1 has the root of 1 and another UKI
		"kernel, gate":     {failing: []string{"daemon"}},
	}
}

// journey runs one update to its end. It stops at a power cut.
func journey(t *testing.T, m *machine, name string) {
	ctx := context.Background()
	reference := "2"
	switch {
	case strings.HasPrefix(name, "older"):
		reference = "0.9"
	case strings.HasPrefix(name, "kernel"):
		reference = "1.1"
	}
	if s := m.updater.Status(); s.Phase == updater.Idle {
		if err := m.updater.Update(ctx, reference, reference == "0.9"); err != nil {
			if cut(err) {
				return
			}
			t.Fatal(err)
		}
	}
	if !m.work(t) {
		return
	}
	if strings.HasSuffix(name, "requested") && m.updater.Status().Phase == updater.Committed {
		if err := m.updater.Rollback(ctx); err != nil {
			if cut(err) {
				return
			}
			t.Fatal(err)
		}
		m.work(t)
	}
}

func cut(err error) bool {
	return errors.Is(err, durabletest.ErrPowerCut) || errors.Is(err, boottest.ErrPowerCut)
}

// TestPowerCutAnywhere cuts the power at every durable operation of every journey, and once more at every operation of the
// recovery (of those pairs every seventeenth, all with ROOST_TEST_SOAK set), with what survives picked at worst. The machine must always come
// up, end on the right version with the right memory, and then take another update.
func TestPowerCutAnywhere(t *testing.T) {
	stride, seeds := 17, uint64(3)
	if os.Getenv("ROOST_TEST_SOAK") != "" {
		stride, seeds = 1, 12
	}
	for name, b := range journeys() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			total := operations(t, name, b)
			runs := 0
			for first := 1; first <= total; first++ {
				for seed := range seeds {
					runs++
					crashed(t, name, b, first, 0, seed)
				}
				for second := 1 + first%stride; second <= total; second += stride {
					runs++
					crashed(t, name, b, first, second, uint64(first*31+second))
				}
			}
			t.Logf("%d operations, %d runs", total, runs)
		})
	}
}

func set(m *machine, name string, b behaviour) {
	m.behaviours["2"], m.behaviours["0.9"], m.behaviours["1.1"] = b, b, b
}

func operations(t *testing.T, name string, b behaviour) int {
	m := newMachine(t)
	set(m, name, b)
	before := m.disk.Operations()
	m.on(t, 0)
	journey(t, m, name)
	return m.disk.Operations() - before
}

func crashed(t *testing.T, name string, b behaviour, first, second int, seed uint64) {
	t.Helper()
	where := fmt.Sprintf("cut at %d and %d, seed %d", first, second, seed)
	m := newMachine(t)
	set(m, name, b)
	for _, at := range []int{first, second, 0} {
		if at > 0 {
			m.disk.CutAt(at, seed%2 == 1)
		}
		if !m.on(t, seed) {
			t.Fatalf("%s: nothing comes up:\n%s", where, m.describe())
		}
		if m.updater != nil && m.disk.Tick() == nil {
			journey(t, m, name)
		}
		if at == 0 {
			break
		}
		m.restart(seed)
	}
	if t.Failed() {
		t.Fatal(where)
	}
	judge(t, m, name, b, where)
}

// judge looks at a machine that has come to rest.
func judge(t *testing.T, m *machine, name string, b behaviour, where string) {
	t.Helper()
	s := m.updater.Status()
	bad := func(text string) { t.Helper(); t.Fatalf("%s: %s:\n%s", where, text, m.describe()) }
	switch {
	case m.spoilt != "":
		bad(m.spoilt)
	case s.Phase.Busy():
		bad("not at rest")
	case s.Phase == updater.Committed && (m.version != string(s.Target.Version) || !b.works()):
		bad("committed and not running, or not to be committed")
	case s.Phase != updater.Committed && m.version != "1":
		bad("the old version should run")
	case s.Phase == updater.RolledBack && s.Left.Detail == "":
		bad("no evidence")
	}
	refused := len(s.Refused) > 0
	lost := s.Left != nil && (s.Left.Cause == updater.CauseVanished || s.Left.Cause == updater.CausePassed)
	if (!b.works() || strings.HasSuffix(name, "requested")) && s.Phase == updater.RolledBack && !refused && !lost {
		bad("forgot that it failed")
	}
	// Whatever happened, the next release gets in.
	if err := m.updater.Update(context.Background(), "3", false); err != nil {
		t.Fatalf("%s: next update: %v\n%s", where, err, m.describe())
	}
	if m.work(t); m.spoilt != "" || m.version != "3" || m.updater.Status().Phase != updater.Committed {
		bad("the next update did not get in")
	}
}
