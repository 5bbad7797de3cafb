package store

import (
	"fmt"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// cache keeps decoded objects by key and revision, for [Table.Scan].
type cache struct {
	mu    sync.Mutex // guards kinds
	kinds map[string]map[string]decoded
}

type decoded struct {
	revision int64
	object   any
}

// Scan returns all objects in the order of their ids, as List does, without decoding again what has not changed. The objects
// are shared: they must not be changed, not even in part. What is to be changed is read again with Get. It is for looking
// through many objects often; a thousand hosts cost a millisecond.
func (t Table[T]) Scan(tx *Tx) []*T {
	for key := range tx.writes {
		if strings.HasPrefix(key, t.key("")) {
			return t.List(tx)
		}
	}
	answer, err := tx.client.Get(tx.ctx, t.key(""), clientv3.WithPrefix(), clientv3.WithRev(tx.revision), clientv3.WithSerializable())
	if err != nil {
		tx.fail(fmt.Errorf("cannot list %ss: %w", t.kind, err))
		return nil
	}
	c := tx.decoded
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kinds == nil {
		c.kinds = map[string]map[string]decoded{}
	}
	known := c.kinds[t.kind]
	if known == nil || len(known) > 2*len(answer.Kvs) {
		known = make(map[string]decoded, len(answer.Kvs)) // forgets what was removed
		c.kinds[t.kind] = known
	}
	items := make([]*T, 0, len(answer.Kvs))
	for _, kv := range answer.Kvs {
		id := strings.TrimPrefix(string(kv.Key), t.key(""))
		entry, ok := known[id]
		if !ok || entry.revision != kv.ModRevision {
			entry = decoded{kv.ModRevision, t.decode(tx, id, kv.Value, kv.ModRevision)}
			known[id] = entry
		}
		if object := entry.object.(*T); object != nil {
			items = append(items, object)
		}
	}
	return items
}
