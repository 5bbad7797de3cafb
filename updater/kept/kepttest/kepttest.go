// Package kepttest is a file system of states that loses power, for tests of package kept and of what uses it.
//
// A [Tree] holds directories as wholes, each with one text for all its files. Operations take effect one by one on the disk
// that a durabletest.Disk counts; until Sync a power cut keeps the first few of them, and a copy or a removal that it
// interrupts is torn.
package kepttest

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"strings"

	"roost/images/durable/durabletest"
)

// Torn is the text of a directory that was being copied or removed when the power went.
const Torn = "torn"

// Tree is a kept.Tree in memory.
type Tree struct {
	Disk *durabletest.Disk // whose operations are counted
	Dirs map[string]string // directory to the text of its files
	Room int64             // bytes free

	lasting map[string]string
	pending []map[string]string // the whole after each operation since the last Sync
}

// New returns a tree with what dirs hold, on a disk.
func New(disk *durabletest.Disk, dirs map[string]string) *Tree {
	return &Tree{Disk: disk, Dirs: maps.Clone(dirs), lasting: maps.Clone(dirs), Room: 1 << 40}
}

// Restart returns the tree as it is found when the power comes back, by a seed as those of durabletest.
func (t *Tree) Restart(disk *durabletest.Disk, seed uint64) *Tree {
	n := rand.New(rand.NewPCG(seed, 0x6b657074)).IntN(len(t.pending) + 1)
	switch seed {
	case durabletest.OnlySynced:
		n = 0
	case durabletest.Everything:
		n = len(t.pending)
	}
	survived := t.lasting
	if n > 0 {
		survived = t.pending[n-1]
	}
	next := New(disk, survived)
	next.Room = t.Room
	return next
}

// change is one operation: the power may go before it.
func (t *Tree) change(f func()) error {
	if err := t.Disk.Tick(); err != nil {
		return err
	}
	f()
	t.pending = append(t.pending, maps.Clone(t.Dirs))
	return nil
}

// Write sets the text of a directory, as a component does that works.
func (t *Tree) Write(dir, text string) error { return t.change(func() { t.Dirs[dir] = text }) }

// Size finds a directory, or one that only holds others.
func (t *Tree) Size(dir string) (n int64, found bool, err error) {
	for name, text := range t.Dirs {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			n, found = n+int64(len(text)), true
		}
	}
	return n, found, nil
}

// Free returns Room.
func (t *Tree) Free(string) (int64, error) { return t.Room, nil }

// Copy is torn half-way.
func (t *Tree) Copy(from, to string) error {
	if _, exists := t.Dirs[to]; exists {
		return fs.ErrExist
	}
	return errors.Join(t.change(func() { t.Dirs[to] = Torn }), t.change(func() { t.Dirs[to] = t.Dirs[from] }))
}

// Rename is one operation.
func (t *Tree) Rename(from, to string) error {
	if _, exists := t.Dirs[to]; exists {
		return fs.ErrExist
	}
	return t.change(func() {
		t.Dirs[to] = t.Dirs[from]
		delete(t.Dirs, from)
	})
}

// Remove is torn half-way.
func (t *Tree) Remove(dir string) error {
	inside := func(f func(name string)) func() {
		return func() {
			for name := range maps.Clone(t.Dirs) {
				if name == dir || strings.HasPrefix(name, dir+"/") {
					f(name)
				}
			}
		}
	}
	if _, found, _ := t.Size(dir); !found {
		return nil
	}
	return errors.Join(t.change(inside(func(name string) { t.Dirs[name] = Torn })), t.change(inside(func(name string) { delete(t.Dirs, name) })))
}

// Sync makes all before it last.
func (t *Tree) Sync() error {
	if err := t.Disk.Tick(); err != nil {
		return err
	}
	t.lasting, t.pending = maps.Clone(t.Dirs), nil
	return nil
}
