// Package durabletest is a disk that loses power, for tests of code that uses package durable.
//
// A [Disk] holds directories in memory as an unforgiving drive would: file content lasts once the file is synced, names last
// once the directory is synced, and of everything else a power cut keeps what the seed says: nothing, all, some of the
// names, part of a write, a file of the right length with zeros. [EveryCut] runs a step over and over, cuts the power at
// each operation of it, and hands every disk that could result to a check.
//
// Renames are atomic here, as on ext4 and XFS. FAT is worse; its states are modelled where the ESP is written.
package durabletest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"roost/images/durable"
)

// ErrPowerCut is what every operation returns from the moment the power is gone.
var ErrPowerCut = errors.New("power cut")

// Disk is a set of directories that lose power together. It is safe for concurrent use.
type Disk struct {
	mu          sync.Mutex
	directories map[string]*directory
	operations  int
	cut         int // the operation that no longer happens; 0 = the power stays on
	torn        bool
}

// New returns an empty disk with power.
func New() *Disk { return &Disk{directories: map[string]*directory{}} }

// Dir returns the directory called name, empty when it is new.
func (d *Disk) Dir(name string) (*durable.Dir, error) { return durable.On(d.Medium(name)) }

// Medium returns the directory called name as durable.On takes it.
func (d *Disk) Medium(name string) durable.Medium {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.directories[name] == nil {
		d.directories[name] = &directory{disk: d, names: map[string]*content{}, lasting: map[string]*content{}}
	}
	return d.directories[name]
}

// Operations returns how many operations that change or sync the disk have begun.
func (d *Disk) Operations() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.operations
}

// CutAt takes the power when the n-th operation from now begins (1 is the next). With torn set and that operation a
// write, half of it still reaches the drive's cache.
func (d *Disk) CutAt(n int, torn bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut, d.torn = d.operations+n, torn
}

// Tick counts one operation of something that is not a durable.Dir (a partition, a firmware variable) in the same
// order of events, and returns ErrPowerCut when it must not happen.
func (d *Disk) Tick() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tick()
}

func (d *Disk) tick() error {
	d.operations++
	if d.cut != 0 && d.operations >= d.cut {
		return ErrPowerCut
	}
	return nil
}

// Seeds of Restart with a fixed meaning. Any other seed picks what survives at random, the same each time.
const (
	OnlySynced uint64 = 0 // nothing survives that was not synced
	Everything uint64 = 1 // everything survives, synced or not
)

// Restart returns the disk as it is found when power comes back. The receiver is left as it was.
func (d *Disk) Restart(seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	pick := &survival{seed: seed, random: rand.New(rand.NewPCG(seed, 0x726f6f7374))}
	next := New()
	for _, name := range slices.Sorted(maps.Keys(d.directories)) {
		next.directories[name] = d.directories[name].restart(next, pick)
	}
	return next
}

// survival decides what an unsynced effect comes to.
type survival struct {
	seed   uint64
	random *rand.Rand
}

func (s *survival) keeps() bool {
	if s.seed <= Everything {
		return s.seed == Everything
	}
	return s.random.IntN(2) == 1
}

// data returns what the drive holds of c.
func (s *survival) data(c *content) []byte {
	if bytes.Equal(c.data, c.lasting) || s.seed == Everything {
		return bytes.Clone(c.data)
	}
	if s.seed == OnlySynced {
		return bytes.Clone(c.lasting)
	}
	// What was synced does not go because more is appended behind it: the drive rewrites the same bytes.
	kept := 0
	if bytes.HasPrefix(c.data, c.lasting) {
		kept = len(c.lasting)
	}
	n := kept + s.random.IntN(len(c.data)-kept+1)
	switch s.random.IntN(4) {
	case 0:
		return bytes.Clone(c.lasting)
	case 1:
		return bytes.Clone(c.data[:n])
	case 2:
		torn := make([]byte, len(c.data)) // the length was journaled, the blocks were not written
		copy(torn, c.data[:n])
		return torn
	default:
		return bytes.Clone(c.data)
	}
}

// content is a file apart from its name.
type content struct {
	data    []byte // as the running system sees it
	lasting []byte // as synced
}

// directory is one durable.Medium of a disk.
type directory struct {
	disk    *Disk
	names   map[string]*content
	lasting map[string]*content
	pending []func(map[string]*content) // changes of names since the last sync, in order
}

func (d *directory) change(f func(map[string]*content)) {
	f(d.names)
	d.pending = append(d.pending, f)
}

func (d *directory) restart(next *Disk, pick *survival) *directory {
	names := maps.Clone(d.lasting)
	for _, f := range d.pending {
		if pick.keeps() {
			f(names)
		}
	}
	r := &directory{disk: next, names: map[string]*content{}}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		data := pick.data(names[name])
		r.names[name] = &content{data: data, lasting: data}
	}
	r.lasting = maps.Clone(r.names)
	return r
}

func (d *directory) Create(name string) (durable.File, error) {
	d.disk.mu.Lock()
	defer d.disk.mu.Unlock()
	if err := d.disk.tick(); err != nil {
		return nil, err
	}
	c := d.names[name]
	if c == nil {
		c = &content{}
		d.change(func(names map[string]*content) { names[name] = c })
	}
	c.data = nil
	return &file{disk: d.disk, content: c}, nil
}

func (d *directory) ReadFile(name string) ([]byte, error) {
	d.disk.mu.Lock()
	defer d.disk.mu.Unlock()
	if d.disk.cut != 0 && d.disk.operations >= d.disk.cut {
		return nil, ErrPowerCut
	}
	c := d.names[name]
	if c == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return bytes.Clone(c.data), nil
}

func (d *directory) Rename(from, to string, replace bool) error {
	d.disk.mu.Lock()
	defer d.disk.mu.Unlock()
	if err := d.disk.tick(); err != nil {
		return err
	}
	c := d.names[from]
	if c == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if !replace && d.names[to] != nil {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	d.change(func(names map[string]*content) {
		delete(names, from)
		names[to] = c
	})
	return nil
}

func (d *directory) Remove(name string) error {
	d.disk.mu.Lock()
	defer d.disk.mu.Unlock()
	if err := d.disk.tick(); err != nil {
		return err
	}
	if d.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	d.change(func(names map[string]*content) { delete(names, name) })
	return nil
}

func (d *directory) Names() ([]string, error) {
	d.disk.mu.Lock()
	defer d.disk.mu.Unlock()
	if d.disk.cut != 0 && d.disk.operations >= d.disk.cut {
		return nil, ErrPowerCut
	}
	return slices.Collect(maps.Keys(d.names)), nil
}

func (d *directory) Sync() error {
	d.disk.mu.Lock()
	defer d.disk.mu.Unlock()
	if err := d.disk.tick(); err != nil {
		return err
	}
	d.lasting, d.pending = maps.Clone(d.names), nil
	return nil
}

type file struct {
	disk    *Disk
	content *content
}

func (f *file) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	before := f.disk.operations + 1
	if err := f.disk.tick(); err != nil {
		if f.disk.torn && before == f.disk.cut {
			f.content.data = append(f.content.data, p[:len(p)/2]...)
		}
		return 0, err
	}
	f.content.data = append(f.content.data, p...)
	return len(p), nil
}

func (f *file) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.tick(); err != nil {
		return err
	}
	f.content.lasting = bytes.Clone(f.content.data)
	return nil
}

func (f *file) Close() error { return nil }

// Cut names one power cut, for the message of a failed check.
type Cut struct {
	Operation int // 1 is the first of the step; one more than the last means: just after the step
	Torn      bool
	Seed      uint64 // what survived, see Disk.Restart
}

func (c Cut) String() string {
	return fmt.Sprintf("power cut at operation %d (torn %t, survivors by seed %d)", c.Operation, c.Torn, c.Seed)
}

// EveryCut tries step with the power cut at each of its operations, and calls check with each disk found after. The disk
// is made anew by setup for every cut. A cut past the last operation is tried too: there step must return nil, and check is
// told by done that its effect was promised.
func EveryCut(t testing.TB, setup func(*Disk) error, step func(*Disk) error, check func(d *Disk, cut Cut, done bool)) {
	t.Helper()
	const seeds = 12
	for operation := 1; ; operation++ {
		for _, torn := range []bool{false, true} {
			disk := New()
			if err := setup(disk); err != nil {
				t.Fatalf("cannot set up: %v", err)
			}
			disk.CutAt(operation, torn)
			err := step(disk)
			done := err == nil
			if !done && !errors.Is(err, ErrPowerCut) {
				t.Fatalf("cut at operation %d: step failed with %v, want %v", operation, err, ErrPowerCut)
			}
			for seed := range uint64(seeds) {
				check(disk.Restart(seed), Cut{operation, torn, seed}, done)
			}
			if done && torn {
				return
			}
		}
	}
}
