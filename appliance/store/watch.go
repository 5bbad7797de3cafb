package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"roost/appliance/api"
)

// Watch calls each for every change after the given revision, in the order of commits, until each returns an error, which
// it returns, or ctx ends. Changes of one transaction share a revision and come together. It fails with kind gone when
// the history since then is compacted.
func (s *Store) Watch(ctx context.Context, after int64, each func(events []api.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := s.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1))
	for answer := range changes {
		if err := answer.Err(); err != nil {
			if errors.Is(err, rpctypes.ErrCompacted) || answer.CompactRevision > 0 {
				return api.Gone.Errorf("cannot watch from revision %d: the history before %d is compacted", after, answer.CompactRevision)
			}
			return fmt.Errorf("cannot watch store: %w", err)
		}
		events := make([]api.Event, 0, len(answer.Events))
		for _, change := range answer.Events {
			events = append(events, event(change))
		}
		if len(events) == 0 {
			continue
		}
		if err := each(events); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Follow calls each now, after changes of objects of the given kinds, and at least every so often, until ctx ends. Changes
// that come while each runs, or within pause of its last call, lead to one call. It is for managers, which compare wish and
// fact as a whole; what each fails to do it does at its next call.
func (s *Store) Follow(ctx context.Context, kinds []string, pause, every time.Duration, each func(context.Context)) {
	changed, watching := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(watching)
		s.signal(ctx, kinds, changed)
	}()
	defer func() { <-watching }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		each(ctx)
		if !rest(ctx, pause) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// signal puts a token into changed for each change; one that is not taken yet stands for all later ones.
func (s *Store) signal(ctx context.Context, kinds []string, changed chan<- struct{}) {
	nudge := func(events []api.Event) error {
		if slices.ContainsFunc(events, func(e api.Event) bool { return slices.Contains(kinds, e.Kind) }) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		return nil
	}
	for {
		var now int64
		err := s.View(ctx, func(tx *Tx) error { now = tx.Revision(); return nil })
		if err == nil {
			nudge([]api.Event{{Kind: kinds[0]}}) // what came before the watch began
			s.Watch(ctx, now, nudge)             // it ends with ctx, or fails and is begun again
		}
		if !rest(ctx, time.Second) {
			return
		}
	}
}

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func event(change *clientv3.Event) api.Event {
	kind, id, _ := strings.Cut(strings.TrimPrefix(string(change.Kv.Key), prefix), "/")
	e := api.Event{Revision: change.Kv.ModRevision, Kind: kind, ID: id}
	if change.Type == mvccpb.Event_PUT {
		e.Object = change.Kv.Value
	}
	return e
}
