package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

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

func event(change *clientv3.Event) api.Event {
	kind, id, _ := strings.Cut(strings.TrimPrefix(string(change.Kv.Key), prefix), "/")
	e := api.Event{Revision: change.Kv.ModRevision, Kind: kind, ID: id}
	if change.Type == mvccpb.Event_PUT {
		e.Object = change.Kv.Value
	}
	return e
}
