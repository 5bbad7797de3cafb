package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roost/appliance/api"
)

// Tx is one transaction: a fixed revision to read and a set of writes to commit. It sees its own writes. It belongs to
// the function it was given to and holds that call's context, which is why the accessors of [Table] take none.
type Tx struct {
	ctx      context.Context
	client   *clientv3.Client
	decoded  *cache
	revision int64
	now      time.Time
	serial   int               // of objects whose id this transaction made
	writes   map[string][]byte // nil: delete
	err      error             // first failure of an accessor; fails the transaction
}

// Revision returns the revision the transaction reads.
func (tx *Tx) Revision() int64 { return tx.revision }

// Now returns the time of the transaction, the same at every call.
func (tx *Tx) Now() time.Time { return tx.now }

// NextID returns an id that sorts after those of earlier transactions: the time in nanoseconds and a serial.
func (tx *Tx) NextID() string {
	tx.serial++
	return fmt.Sprintf("%016x%02x", tx.now.UnixNano(), tx.serial)
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

func (tx *Tx) operations() []clientv3.Op {
	keys := make([]string, 0, len(tx.writes))
	for key := range tx.writes {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	operations := make([]clientv3.Op, 0, len(keys))
	for _, key := range keys {
		if value := tx.writes[key]; value != nil {
			operations = append(operations, clientv3.OpPut(key, string(value)))
		} else {
			operations = append(operations, clientv3.OpDelete(key))
		}
	}
	return operations
}

// Table is one kind of object in the store, by id.
type Table[T any] struct {
	kind     string
	identify func(*T) string
	stamp    func(*T, int64) // sets the object's revision; nil when it shows none
}

// Hosts are the machines of the site.
func Hosts() Table[api.Host] {
	return Table[api.Host]{"host", func(h *api.Host) string { return h.ID }, func(h *api.Host, r int64) { h.Revision = r }}
}

// Updates are the rollouts, running and past. Their ids sort by time.
func Updates() Table[api.Update] {
	return Table[api.Update]{"update", func(u *api.Update) string { return u.ID }, func(u *api.Update, r int64) { u.Revision = r }}
}

// Sites holds one object, named "site".
func Sites() Table[api.Site] {
	return Table[api.Site]{"site", func(*api.Site) string { return "site" }, func(s *api.Site, r int64) { s.Revision = r }}
}

// Records is the audit record. Ids sort by time.
func Records() Table[api.Record] {
	return Table[api.Record]{"audit", func(r *api.Record) string { return r.ID }, nil}
}

// PerHost is a table of something that every host may have one of, kept beside the host: inventory, config, enrolment,
// grant. Its objects do not know their host, so they are put with [Table.PutAs].
func PerHost[T any](kind string) Table[T] {
	return Table[T]{kind: kind}
}

// Configs are the wanted configurations of hosts, by host id.
func Configs() Table[api.Config] {
	return Table[api.Config]{"config", nil, func(c *api.Config, r int64) { c.Revision = r }}
}

func (t Table[T]) key(id string) string { return prefix + t.kind + "/" + id }

// Get returns the object, or nil when there is none.
func (t Table[T]) Get(tx *Tx, id string) *T {
	key := t.key(id)
	if value, written := tx.writes[key]; written {
		if value == nil {
			return nil
		}
		return t.decode(tx, id, value, 0)
	}
	answer, err := tx.client.Get(tx.ctx, key, clientv3.WithRev(tx.revision), clientv3.WithSerializable())
	if err != nil {
		tx.fail(fmt.Errorf("cannot read %s %s: %w", t.kind, id, err))
		return nil
	}
	if len(answer.Kvs) == 0 {
		return nil
	}
	return t.decode(tx, id, answer.Kvs[0].Value, answer.Kvs[0].ModRevision)
}

// List returns all objects in the order of their ids.
func (t Table[T]) List(tx *Tx) []*T {
	items, _ := t.Page(tx, "", 0)
	return items
}

// Page returns at most limit objects (0: no limit) whose ids sort after after, and the id to continue from if there are more.
func (t Table[T]) Page(tx *Tx, after string, limit int) (items []*T, next string) {
	found := map[string]*T{}
	ids := t.stored(tx, after, limit, found)
	for key, value := range tx.writes {
		id, ok := strings.CutPrefix(key, t.key(""))
		if !ok || id <= after {
			continue
		}
		if _, seen := found[id]; !seen {
			ids = append(ids, id)
		}
		found[id] = nil
		if value != nil {
			found[id] = t.decode(tx, id, value, 0)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		if limit > 0 && len(items) == limit {
			return items, next
		}
		if found[id] != nil {
			items = append(items, found[id])
			next = id
		}
	}
	return items, ""
}

// stored reads one page and one object more from the engine into found.
func (t Table[T]) stored(tx *Tx, after string, limit int, found map[string]*T) (ids []string) {
	options := []clientv3.OpOption{
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(t.key(""))), clientv3.WithRev(tx.revision), clientv3.WithSerializable(),
	}
	if limit > 0 {
		options = append(options, clientv3.WithLimit(int64(limit)+1))
	}
	from := t.key(after)
	if after != "" {
		from += "\x00"
	}
	answer, err := tx.client.Get(tx.ctx, from, options...)
	if err != nil {
		tx.fail(fmt.Errorf("cannot list %ss: %w", t.kind, err))
		return nil
	}
	for _, kv := range answer.Kvs {
		id := strings.TrimPrefix(string(kv.Key), t.key(""))
		found[id] = t.decode(tx, id, kv.Value, kv.ModRevision)
		ids = append(ids, id)
	}
	return ids
}

func (t Table[T]) decode(tx *Tx, id string, value []byte, revision int64) *T {
	object := new(T)
	if err := json.Unmarshal(value, object); err != nil {
		tx.fail(fmt.Errorf("cannot read %s %s: %w", t.kind, id, err))
		return nil
	}
	if t.stamp != nil {
		t.stamp(object, revision)
	}
	return object
}

// Put writes the object at commit.
func (t Table[T]) Put(tx *Tx, object *T) { t.PutAs(tx, t.identify(object), object) }

// PutAs writes the object under the given id at commit.
func (t Table[T]) PutAs(tx *Tx, id string, object *T) {
	if id == "" || strings.Contains(id, "/") {
		tx.fail(fmt.Errorf("cannot write %s: bad id %q", t.kind, id))
		return
	}
	stored := *object
	if t.stamp != nil {
		t.stamp(&stored, 0) // the engine knows it
	}
	value, err := json.Marshal(&stored)
	if err != nil {
		tx.fail(fmt.Errorf("cannot write %s %s: %w", t.kind, id, err))
		return
	}
	tx.writes[t.key(id)] = value
}

// Delete removes the object at commit.
func (t Table[T]) Delete(tx *Tx, id string) { tx.writes[t.key(id)] = nil }
