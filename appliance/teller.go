package appliance

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"roost/appliance/api"
	"roost/appliance/client"
)

// teller reports the progress of an installation every few seconds.
type teller struct {
	site   *client.Client
	bootID string
	vitals func(context.Context) *api.Vitals
	log    *slog.Logger
	done   atomic.Int64 // percent
}

func (t *teller) progress(done, total int64) {
	if total > 0 {
		t.done.Store(done * 100 / total)
	}
}

func (t *teller) say(ctx context.Context, phase api.Phase, percent int, reason string) error {
	report := api.Report{Schema: 1, Phase: phase, BootID: t.bootID, Reason: reason, Software: api.Software{Phase: string(phase), Progress: percent}}
	if t.vitals != nil {
		report.Vitals = t.vitals(ctx)
	}
	_, err := t.site.Report(ctx, report)
	return err
}

func (t *teller) run(ctx context.Context) {
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := t.say(ctx, api.Installing, int(t.done.Load()), "writes its disk"); err != nil && ctx.Err() == nil {
			t.log.Warn("cannot report progress", "error", err)
		}
	}
}
