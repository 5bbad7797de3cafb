package cores

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
)

// TestOrder lets one processor do many things: each in its turn.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(1)
		var order []int
		var g errgroup.Group
		for i := range 50 {
			p.Go(t.Context(), &g, func() error {
				time.Sleep(time.Second) // the order would be another if two ran at once
				order = append(order, i)
				return nil
			})
		}
		begun := time.Now()
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSorted(order) || len(order) != 50 || time.Since(begun) != 50*time.Second {
			t.Errorf("order %v in %v", order, time.Since(begun))
		}
	})
}

// TestUrgent shows how many run at a time: as many as processors, less those of urgent work, which itself never waits.
func TestUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(2)
		var mu sync.Mutex
		running := 0
		count := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			running += n
			return running
		}
		var g errgroup.Group
		for range 6 {
			p.Go(t.Context(), &g, func() error {
				count(1)
				time.Sleep(10 * time.Second)
				count(-1)
				return nil
			})
		}
		expect := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if got := count(0); got != want {
				t.Errorf("%s: %d run, want %d", when, got, want)
			}
		}
		expect("at first", 2)
		failed := errors.New("failed")
		urgent := func() error {
			return p.Urgent(func() error {
				time.Sleep(15 * time.Second)
				return failed
			})
		}
		for range 2 {
			g.Go(func() error {
				if err := urgent(); err != failed {
					t.Errorf("urgent work ended in %v", err)
				}
				return nil
			})
		}
		expect("when urgent work comes", 2)
		time.Sleep(11 * time.Second)
		expect("when the first are done", 0)
		time.Sleep(5 * time.Second)
		expect("when urgent work is done", 2)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if p.free != 2 || len(p.queue) != 0 {
			t.Errorf("in the end %d are free and %d wait", p.free, len(p.queue))
		}
	})
}

// TestCancel takes work back that waits, and such whose turn has just come.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(1)
		ctx, cancel := context.WithCancel(t.Context())
		var waiting, working errgroup.Group
		p.Go(t.Context(), &working, func() error { time.Sleep(time.Minute); return nil })
		for range 3 {
			p.Go(ctx, &waiting, func() error { t.Error("cancelled work was done"); return nil })
		}
		synctest.Wait()
		cancel()
		if err := waiting.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled work ended in %v", err)
		}
		if err := working.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := p.Do(ctx, func() error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("work of an ended context: %v", err)
		}
		if err := p.Do(t.Context(), func() error { return nil }); err != nil || p.free != 1 || len(p.queue) != 0 {
			t.Errorf("in the end %v, %d are free and %d wait", err, p.free, len(p.queue))
		}
	})
}
