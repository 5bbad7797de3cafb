// Package store keeps the objects of the control plane: typed, transactional, watchable, durable.
//
// The engine is etcd, inside this process: the same engine for one, three or five voters, with years of fault testing
// that no log of our own would have. This cut runs one voter and opens no socket at all, neither for clients nor for
// peers; the process reaches the engine by function calls, so nothing unauthenticated can.
//
// Promises:
//   - [Store.Update] is atomic, durable when it returns, and serialisable with every other update, of other processes
//     too. One guard key is compared and rewritten by each transaction. Comparing only the keys that were read was
//     rejected: it misses objects that appear in, or vanish from, a listed range, and our rate (hundreds of writes a
//     second at most, against thousands the engine does) does not need the concurrency.
//   - [Store.View] reads one revision.
//   - [Store.Watch] delivers every change after a revision, in order, none twice; when the history is no longer there
//     it fails with kind gone, and the caller lists again.
//
// The stored form is the JSON of package api. Memory stays small: the history is compacted hourly, few log entries are
// kept, and only hosts that control a site open a store.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const (
	prefix = "/roost/v1/"
	guard  = "/roost/guard" // rewritten by every transaction; its value is the transaction's actor

	quota   = 512 << 20 // bytes; a site of 200 hosts needs a few MB
	retries = 16        // attempts of an update against other processes' updates
)

// Config says where and how a store is kept.
type Config struct {
	Dir  string           // directory of the data, made if absent; mode 0700
	Name string           // of this member; stable for the life of Dir
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger     // nil: silent
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	now    func() time.Time

	mu sync.Mutex // one update at a time within this process; guards nothing but spares retries

	decoded cache
}

// Open starts the engine and returns when it can write, or when ctx ends.
func Open(ctx context.Context, config Config) (*Store, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	engine, err := embed.StartEtcd(engineConfig(config))
	if err != nil {
		return nil, fmt.Errorf("cannot open store %s: %w", config.Dir, err)
	}
	select {
	case <-engine.Server.ReadyNotify():
	case err := <-engine.Err():
		engine.Close()
		return nil, fmt.Errorf("cannot open store %s: %w", config.Dir, err)
	case <-ctx.Done():
		engine.Close()
		return nil, fmt.Errorf("cannot open store %s: %w", config.Dir, ctx.Err())
	}
	return &Store{etcd: engine, client: v3client.New(engine.Server), now: config.Now}, nil
}

func engineConfig(config Config) *embed.Config {
	c := embed.NewConfig()
	c.Name = config.Name
	c.Dir = filepath.Join(config.Dir, "etcd")
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(config.Log))
	// No listeners. The advertised address is only the member's name toward itself until it has peers.
	c.ListenClientUrls, c.ListenPeerUrls = []url.URL{}, []url.URL{}
	self := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	c.AdvertisePeerUrls = []url.URL{self}
	c.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}
	c.InitialCluster = c.Name + "=" + self.String()
	c.TickMs, c.ElectionMs = 60, 300 // a lone voter waits one election at every restart
	c.QuotaBackendBytes = quota
	c.AutoCompactionMode, c.AutoCompactionRetention = "periodic", "1h"
	c.SnapshotCount, c.SnapshotCatchUpEntries = 5000, 500
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.WarningApplyDuration = time.Second
	c.Metrics = "basic"
	return c
}

// Close stops the engine. Watches end first.
func (s *Store) Close() {
	s.client.Close()
	s.etcd.Close()
}

// Failed delivers the engine's error if it stops by itself.
func (s *Store) Failed() <-chan error { return s.etcd.Err() }

// Update runs f in a transaction and commits what it put and deleted. It returns the revision of the commit. When
// another update came first, f runs again on newer data, so it must have no effect outside tx. A transaction that
// changes nothing commits nothing and returns the revision it read.
func (s *Store) Update(ctx context.Context, f func(tx *Tx) error) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range retries {
		tx, seen, err := s.begin(ctx)
		if err != nil {
			return 0, err
		}
		if err := f(tx); err != nil {
			return 0, err
		}
		if tx.err != nil {
			return 0, tx.err
		}
		if len(tx.writes) == 0 {
			return tx.revision, nil
		}
		answer, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(guard), "=", seen)).
			Then(append(tx.operations(), clientv3.OpPut(guard, ""))...).Commit()
		if err != nil {
			return 0, fmt.Errorf("cannot commit to store: %w", err)
		}
		if answer.Succeeded {
			return answer.Header.Revision, nil
		}
	}
	return 0, errors.New("cannot commit to store: too many competing updates")
}

// View runs f on the newest revision. Puts and deletes in f are discarded.
func (s *Store) View(ctx context.Context, f func(tx *Tx) error) error {
	tx, _, err := s.begin(ctx)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	return tx.err
}

// begin reads the guard linearizably, which fixes the revision all other reads of the transaction are made at.
func (s *Store) begin(ctx context.Context) (tx *Tx, seen int64, err error) {
	answer, err := s.client.Get(ctx, guard)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read store: %w", err)
	}
	if len(answer.Kvs) > 0 {
		seen = answer.Kvs[0].ModRevision
	}
	tx = &Tx{ctx: ctx, client: s.client, decoded: &s.decoded, revision: answer.Header.Revision, now: s.now().UTC(), writes: map[string][]byte{}}
	return tx, seen, nil
}
