package linux

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRebootIsAsKindAsCanBe(t *testing.T) {
	refused := errors.New("refused")
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, test := range map[string]struct {
		order  func(context.Context) error
		force  error
		want   string
		within time.Duration
	}{
		"systemd takes the order":             {order: func(context.Context) error { return nil }, want: "order", within: 0},
		"systemd refuses, then dies by force": {order: func(context.Context) error { return refused }, want: "order force kernel", within: time.Minute},
		"systemd refuses all":                 {order: func(context.Context) error { return refused }, force: refused, want: "order force kernel", within: 0},
		"systemd hangs":                       {order: hang, force: refused, want: "order force kernel", within: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var did []string
				note := func(what string, err error) error { did = append(did, what); return err }
				r := restart{patience: time.Minute,
					order:  func(ctx context.Context) error { return note("order", test.order(ctx)) },
					force:  func() error { return note("force", test.force) },
					kernel: func() error { return note("kernel", nil) },
				}
				start := time.Now()
				if err := r.run(t.Context()); err != nil {
					t.Error(err)
				}
				if got := strings.Join(did, " "); got != test.want || time.Since(start) != test.within {
					t.Errorf("did %s in %s, want %s in %s", got, time.Since(start), test.want, test.within)
				}
			})
		})
	}
}

// TestRebootThatEndsTheDaemonIsNotForced is the second call of a restart under way: systemd ends the daemon, so the bus call
// fails. Forcing then would cut off everything that systemd still ends in order.
func TestRebootThatEndsTheDaemonIsNotForced(t *testing.T) {
	forced := func() error { t.Error("forced"); return nil }
	ctx, cancel := context.WithCancel(t.Context())
	order := func(ctx context.Context) error { cancel(); return ctx.Err() }
	r := restart{patience: time.Minute, order: order, force: forced, kernel: forced}
	if err := r.run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	synctest.Test(t, func(t *testing.T) { // and while force is awaited
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		r := restart{patience: time.Minute, order: func(context.Context) error { return errors.New("refused") }, force: func() error { return nil }, kernel: forced}
		if err := r.run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRebootTellsAllThatFailed(t *testing.T) {
	fail := func(what string) error { return errors.New(what) }
	r := restart{patience: time.Minute, order: func(context.Context) error { return fail("one") }, force: func() error { return fail("two") }, kernel: func() error { return fail("three") }}
	err := r.run(t.Context())
	for _, part := range []string{"one", "two", "three"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not tell of %s", err, part)
		}
	}
}
