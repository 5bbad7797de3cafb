package service

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roost/appliance/api"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestRun keeps a component up: what breaks later is made again, and a new configuration is followed at once.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{facts: map[string]bool{}, broken: map[string]string{}, slow: map[string]time.Duration{}}
		f := &fake{machine: m, names: []string{"one", "two"}}
		a := &Agent{Components: []Component{f}, Image: []string{"fake"}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		if err := a.Ready("fake"); err != nil {
			t.Errorf("without a configuration nothing is wanted, but %v", err)
		}
		a.Configure(&api.Config{Components: api.Components{Kubernetes: &api.Kubernetes{}}})
		synctest.Wait()
		if err := a.Ready("fake"); err != nil {
			t.Error(err)
		}
		m.facts["two"] = false
		m.broken["two"] = "no room"
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if err := a.Ready("fake"); err == nil || !strings.Contains(err.Error(), "failed at two: no room") {
			t.Errorf("got %v", err)
		}
		clear(m.broken)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if err := a.Ready("fake"); err != nil {
			t.Error(err)
		}
		a.Configure(&api.Config{})
		synctest.Wait()
		if !m.facts["left"] || len(a.Status()) != 0 {
			t.Errorf("the component has not left: %v", a.Status())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestBreakOff gives up a wait for what another configuration no longer wants.
func TestBreakOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{facts: map[string]bool{}, broken: map[string]string{}, slow: map[string]time.Duration{"one": -1}}
		f := &fake{machine: m, names: []string{"one"}}
		a := &Agent{Components: []Component{f}, Image: []string{"fake"}}
		a.Configure(&api.Config{Components: api.Components{Kubernetes: &api.Kubernetes{}}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		time.Sleep(3 * time.Second)
		if s := a.Status(); len(s) != 1 || s[0].State != api.Starting || s[0].Reason != "no one" {
			t.Errorf("got %+v", s)
		}
		a.Configure(&api.Config{})
		synctest.Wait()
		if !m.facts["left"] {
			t.Error("still waits")
		}
		cancel()
		<-ended
	})
}
