package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Firewall is the machine's packet filter.
type Firewall interface {
	// Load runs a program of nftables in one transaction.
	Load(ctx context.Context, program string) error
	// HasTable returns nil when the table is there.
	HasTable(ctx context.Context, table string) error
}

const (
	settle   = 100 * time.Millisecond // changes that come together are one change
	tryAgain = 2 * time.Second
	maxEvent = 4 << 20 // bytes; an object of Kubernetes has at most 1.5 MB
)

// Enforcer keeps the packet filter of this node as the network policies of the cluster want it. What was in force stays while
// it or the API server is away.
type Enforcer struct {
	Firewall Firewall
	Log      *slog.Logger

	mu      sync.Mutex // guards the fields below
	target  *target
	changed chan struct{} // closed and replaced when the target changes
	loaded  string        // the program in force
	trouble error
}

// target is whose policies to enforce.
type target struct {
	api     *remote
	node    string
	network string
	key     string // tells targets apart
}

// follow gives the enforcer the cluster to follow; nil: none, and its table goes.
func (e *Enforcer) follow(t *target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t == nil && e.target == nil || t != nil && e.target != nil && t.key == e.target.key {
		return
	}
	e.target, e.loaded, e.trouble = t, "", nil
	if e.changed != nil {
		close(e.changed)
	}
	e.changed = make(chan struct{})
}

// holds returns nil when the policies of the cluster are in force.
func (e *Enforcer) holds(ctx context.Context, key string) error {
	e.mu.Lock()
	t, loaded, trouble := e.target, e.loaded, e.trouble
	e.mu.Unlock()
	switch {
	case t == nil || t.key != key:
		return errors.New("network policies are not followed")
	case trouble != nil:
		return trouble
	case loaded == "":
		return errors.New("network policies are not read yet")
	}
	if err := e.Firewall.HasTable(ctx, table); err != nil {
		e.load(ctx, t, loaded) // someone removed it
		return err
	}
	return nil
}

// Run works until ctx ends.
func (e *Enforcer) Run(ctx context.Context) error {
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	for ctx.Err() == nil {
		e.mu.Lock()
		if e.changed == nil {
			e.changed = make(chan struct{})
		}
		t, changed := e.target, e.changed
		e.mu.Unlock()
		within, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-changed:
				cancel()
			case <-within.Done():
			}
		}()
		if t != nil {
			e.enforce(within, t)
		} else {
			<-within.Done()
		}
		cancel()
	}
	return nil
}

// enforce follows one cluster until ctx ends.
func (e *Enforcer) enforce(ctx context.Context, t *target) {
	nudge := make(chan struct{}, 1)
	pods := &collection[pod]{path: "/api/v1/pods", name: func(p *pod) meta { return p.Metadata }, nudge: nudge}
	spaces := &collection[namespace]{path: "/api/v1/namespaces", name: func(n *namespace) meta { return n.Metadata }, nudge: nudge}
	policies := &collection[policy]{path: "/apis/networking.k8s.io/v1/networkpolicies", name: func(p *policy) meta { return p.Metadata }, nudge: nudge}
	var group sync.WaitGroup
	defer group.Wait()
	for _, follow := range []func(context.Context, *remote, func(error)){pods.follow, spaces.follow, policies.follow} {
		group.Go(func() { follow(ctx, t.api, e.note) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-nudge:
		}
		w := world{node: t.node, network: t.network}
		var ok [3]bool
		w.pods, ok[0] = pods.all()
		w.namespaces, ok[1] = spaces.all()
		w.policies, ok[2] = policies.all()
		if ok != [3]bool{true, true, true} {
			continue // half of a world would open or close what must not be
		}
		program := w.ruleset()
		e.mu.Lock()
		same := program == e.loaded
		e.mu.Unlock()
		if !same {
			e.load(ctx, t, program)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
	}
}

func (e *Enforcer) load(ctx context.Context, t *target, program string) {
	err := e.Firewall.Load(ctx, program)
	if err != nil && ctx.Err() != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.target != t {
		return
	}
	e.trouble = err
	if err != nil {
		e.loaded = ""
		e.Log.Error("network policies cannot be put in force", "error", err)
		return
	}
	e.loaded = program
}

func (e *Enforcer) note(err error) {
	e.Log.Debug("cannot follow network policies", "error", err)
}

// collection is all objects of one kind, kept up by a watch.
type collection[T any] struct {
	path  string
	name  func(*T) meta
	nudge chan<- struct{}

	mu    sync.Mutex // guards items
	items map[string]T
}

// all returns a copy of the objects, and whether they were ever read.
func (c *collection[T]) all() (map[string]T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]T, len(c.items))
	for key, value := range c.items {
		out[key] = value
	}
	return out, c.items != nil
}

func (c *collection[T]) changed() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

// follow lists and watches until ctx ends (Kubernetes API concepts: efficient detection of changes).
func (c *collection[T]) follow(ctx context.Context, api *remote, note func(error)) {
	for ctx.Err() == nil {
		version, err := c.list(ctx, api)
		for err == nil {
			version, err = c.watch(ctx, api, version)
		}
		note(err)
		timer := time.NewTimer(tryAgain)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (c *collection[T]) key(item *T) string {
	m := c.name(item)
	if m.Namespace == "" {
		return m.Name
	}
	return m.Namespace + "/" + m.Name
}

func (c *collection[T]) list(ctx context.Context, api *remote) (version string, err error) {
	page := struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []T `json:"items"`
	}{}
	if err := api.get(ctx, c.path, &page); err != nil {
		return "", err
	}
	items := make(map[string]T, len(page.Items))
	for i := range page.Items {
		items[c.key(&page.Items[i])] = page.Items[i]
	}
	c.mu.Lock()
	c.items = items
	c.mu.Unlock()
	c.changed()
	return page.Metadata.ResourceVersion, nil
}

// watch follows changes after a version until the server ends the stream, as it does every few minutes.
func (c *collection[T]) watch(ctx context.Context, api *remote, version string) (string, error) {
	answer, err := api.begin(ctx, http.MethodGet, c.path+"?watch=1&allowWatchBookmarks=true&resourceVersion="+version, "", nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	decoder := json.NewDecoder(answer.Body)
	for {
		event := struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}{}
		err := decoder.Decode(&event)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return version, nil
		}
		if err != nil {
			return "", err
		}
		if version, err = c.take(event.Type, event.Object, version); err != nil {
			return "", err
		}
	}
}

// take keeps one change.
func (c *collection[T]) take(kind string, text []byte, version string) (string, error) {
	if len(text) > maxEvent || kind == "ERROR" {
		return "", fmt.Errorf("cannot follow %s: %s", c.path, bytes.TrimSpace(text[:min(len(text), 300)]))
	}
	at := struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}{}
	if err := json.Unmarshal(text, &at); err != nil {
		return "", err
	}
	if kind == "BOOKMARK" {
		return at.Metadata.ResourceVersion, nil
	}
	var item T
	if err := json.Unmarshal(text, &item); err != nil {
		return "", err
	}
	c.mu.Lock()
	if c.items == nil {
		c.items = map[string]T{}
	}
	if kind == "DELETED" {
		delete(c.items, c.key(&item))
	} else {
		c.items[c.key(&item)] = item
	}
	c.mu.Unlock()
	c.changed()
	return at.Metadata.ResourceVersion, nil
}
