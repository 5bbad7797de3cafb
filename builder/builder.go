// Package builder composes a release from a recipe.
//
// [Workshop.Build] is the whole way on one screen: recipe, lock, packages, programs, tree, artifacts, signed release, depot. Every
// stage is a function of values in a package of its own and is skipped when the cache has its output, so a build with
// nothing changed takes a moment. Nothing of the host goes into a release and nothing of the host is changed.
package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"roost/builder/archive"
	"roost/builder/deb"
	"roost/builder/lock"
	"roost/builder/program"
	"roost/builder/recipe"
	"roost/images/durable"
)

// Workshop is where releases are made: a cache, a mirror, and what comes with the roost command. Cache and Shipped are
// needed; Mirror is needed for what the cache lacks.
type Workshop struct {
	Cache   *archive.Cache
	Mirror  archive.Mirror
	Shipped fs.FS  // recipe parts, archive keyring and id table
	Module  string // directory of Roost's own sources
	Offline bool   // use only what the cache has
	Log     *slog.Logger
	Watch   func(Event) // called as the work goes on, from one goroutine at a time; nil for none

	watching sync.Mutex
}

// Event is a step of the work for a person to see.
type Event struct {
	Stage        string        // "index", "fetch", "compile", "assemble", "pack", "publish"
	Done         bool          // the stage ended
	Took         time.Duration // when Done
	Bytes, Total int64         // of a running transfer
	Text         string        // what it deals with
}

func (w *Workshop) watch(e Event) {
	if w.Watch != nil {
		w.watching.Lock()
		defer w.watching.Unlock()
		w.Watch(e)
	}
}

// stage reports the begin and end of one stage.
func (w *Workshop) stage(name, text string, run func() error) error {
	begin := time.Now()
	w.watch(Event{Stage: name, Text: text})
	if err := run(); err != nil {
		return err
	}
	w.watch(Event{Stage: name, Text: text, Done: true, Took: time.Since(begin)})
	return nil
}

func (w *Workshop) source(stage string) *archive.Source {
	return &archive.Source{Cache: w.Cache, Mirror: w.Mirror, Offline: w.Offline, Log: w.Log, Progress: func(p archive.Progress) {
		w.watch(Event{Stage: stage, Text: p.Name, Bytes: p.Bytes, Total: p.BytesTotal})
	}}
}

// Load reads a recipe.
func (w *Workshop) Load(name string) (*recipe.Recipe, error) {
	return recipe.Loader{Shipped: w.Shipped}.Load(name)
}

// LockPath is where the lock of a recipe lies: beside it, with the ending .lock.
func LockPath(recipe string) string {
	return strings.TrimSuffix(recipe, filepath.Ext(recipe)) + ".lock"
}

// ReadLock reads the lock of a recipe and checks that it answers it.
func (w *Workshop) ReadLock(r *recipe.Recipe) (*lock.Lock, error) {
	path := LockPath(r.Source())
	data, err := w.readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot build %s: it has no lock yet: run \"roost lock %s\"", r.Source(), r.Source())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read lock: %w", err)
	}
	l, err := lock.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := lock.Stale(r, l); err != nil {
		return nil, fmt.Errorf("cannot build %s: %w", r.Source(), err)
	}
	return l, nil
}

// readFile reads a file of the host, or one that comes with the command.
func (w *Workshop) readFile(path string) ([]byte, error) {
	if name, shipped := strings.CutPrefix(path, recipe.Shipped); shipped {
		return fs.ReadFile(w.Shipped, name)
	}
	return os.ReadFile(path)
}

// Resolve takes the archive's present state and resolves the recipe against it. With keep, packages of that lock stay at
// their versions where they can.
func (w *Workshop) Resolve(ctx context.Context, r *recipe.Recipe, keep *lock.Lock) (*lock.Lock, error) {
	var index *lock.Index
	err := w.stage("index", "", func() (err error) { index, err = w.index(ctx, r); return err })
	if err != nil {
		return nil, err
	}
	return lock.Resolve(ctx, r, index, keep)
}

// index fetches the verified package indexes of the recipe's suites.
func (w *Workshop) index(ctx context.Context, r *recipe.Recipe) (*lock.Index, error) {
	keyring, err := w.keyring()
	if err != nil {
		return nil, err
	}
	request := archive.Request{Architecture: r.Architecture, Keyring: keyring}
	for _, s := range r.Base.Suites {
		request.Suites = append(request.Suites, s.Name)
		for _, c := range s.Components {
			if !slices.Contains(request.Components, c) {
				request.Components = append(request.Components, c)
			}
		}
	}
	snapshot, err := w.source("index").Snapshot(ctx, request)
	if err != nil {
		return nil, err
	}
	index := &lock.Index{}
	for _, s := range snapshot.Suites {
		index.Suites = append(index.Suites, lock.IndexSuite{Name: s.Name, Date: s.Release.Date, InRelease: s.InRelease, Packages: s.Packages})
	}
	return index, nil
}

// keyring reads the archive keys that come with the command.
func (w *Workshop) keyring() (*deb.Keyring, error) {
	names, err := fs.Glob(w.Shipped, "keys/*")
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("cannot find the archive keyring among the shipped recipes: %v", err)
	}
	var all []io.Reader
	for _, name := range names {
		data, err := fs.ReadFile(w.Shipped, name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the archive keyring: %w", err)
		}
		all = append(all, bytes.NewReader(data))
	}
	return deb.ReadKeyring(all...)
}

// fetch brings every package of the lock into the cache.
func (w *Workshop) fetch(ctx context.Context, l *lock.Lock) error {
	var items []archive.Item
	for p := range l.Packages() {
		items = append(items, archive.Item{Suite: p.Suite, Path: p.File, Size: p.Size, SHA256: p.SHA256})
	}
	return w.source("fetch").Fetch(ctx, items)
}

// Lock resolves the recipe anew, writes its lock beside it, and returns what changed. Without update, packages keep their
// locked versions where they can. A lock that says the same as before is not written.
func (w *Workshop) Lock(ctx context.Context, name string, update bool) ([]lock.Change, error) {
	if strings.HasPrefix(name, recipe.Shipped) {
		return nil, fmt.Errorf("cannot lock %s: it comes with the command; include it in a recipe of yours", name)
	}
	r, err := w.Load(name)
	if err != nil {
		return nil, err
	}
	path := LockPath(name)
	old, err := w.oldLock(path)
	if err != nil {
		return nil, err
	}
	keep := old
	if update {
		keep = nil
	}
	next, err := w.Resolve(ctx, r, keep)
	if err != nil {
		return nil, err
	}
	if err := w.pin(ctx, r, next, keep); err != nil {
		return nil, err
	}
	changes := lock.Diff(old, next)
	if old != nil && len(changes) == 0 && old.Wants == next.Wants {
		return nil, nil
	}
	dir, err := durable.Open(filepath.Dir(path), 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot write lock: %w", err)
	}
	if err := dir.Write(filepath.Base(path), next.Encode()); err != nil {
		return nil, fmt.Errorf("cannot write lock: %w", err)
	}
	return changes, nil
}

// pin fills in what a lock says besides packages. What keep pins for the same wish stays.
func (w *Workshop) pin(ctx context.Context, r *recipe.Recipe, next, keep *lock.Lock) error {
	next.Programs = []lock.Program{}
	for _, p := range r.Programs {
		if _, pinned := p.Locked(); !pinned {
			continue
		}
		if keep != nil {
			if old, ok := keep.Program(p.Name); ok && old.Wants == p.WantsDigest() {
				next.Programs = append(next.Programs, old)
				continue
			}
		}
		err := w.stage("index", "Go modules of "+p.Name, func() error {
			pin, err := program.Pin(ctx, p)
			next.Programs = append(next.Programs, pin)
			return err
		})
		if err != nil {
			return err
		}
	}
	next.Containers = nil
	for _, c := range r.Containers {
		if c.From == "" {
			continue
		}
		if keep != nil && keep.Wants == next.Wants {
			if old, ok := keep.Container(c.Name); ok {
				next.Containers = append(next.Containers, old)
				continue
			}
		}
		pin, err := w.puller(r).Pin(ctx, c)
		if err != nil {
			return err
		}
		next.Containers = append(next.Containers, pin)
	}
	slices.SortFunc(next.Containers, func(a, b lock.Container) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(next.Programs, func(a, b lock.Program) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// oldLock reads the present lock; nil when there is none, or an empty file.
func (w *Workshop) oldLock(path string) (*lock.Lock, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read lock: %w", err)
	}
	old, err := lock.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to make a new one", path, err)
	}
	return old, nil
}
