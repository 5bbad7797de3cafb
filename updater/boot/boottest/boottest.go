// Package boottest is an EFI system partition that loses power, and a machine that boots from it, for tests.
//
// A [Partition] behaves as FAT under Linux may at worst: content lasts once the file is synced, names last once the directory
// is synced, and a rename that was cut can leave both names, neither, or the new name without content.
package boottest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"roost/images"
	"roost/images/durable"
	"roost/updater/boot"
)

// ErrPowerCut is what every operation returns once the power is gone.
var ErrPowerCut = errors.New("power cut")

// Partition implements boot.Volume in memory. Its zero value is empty and has power.
type Partition struct {
	// Tick, if set, is asked before each operation that changes or syncs; an error of it is a power cut. It lets several
	// fakes share one order of events.
	Tick     func() error
	Capacity int64 // bytes; 0 means 512 MiB
	Backward bool  // the loader reads the directory from its end; of equal names it takes the first

	files   map[string]*content
	lasting map[string]*content
	pending []change
	cut     bool
}

type content struct{ data, lasting []byte }

type change struct {
	from, to string // rename; only to: create; only from: remove
	content  *content
}

func (c change) apply(files map[string]*content) {
	delete(files, c.from)
	if c.to != "" {
		files[c.to] = c.content
	}
}

// Put places a file as if it had been there for long.
func (p *Partition) Put(name string, data []byte) {
	p.init()
	c := &content{data: bytes.Clone(data), lasting: bytes.Clone(data)}
	p.files[name], p.lasting[name] = c, c
}

// spelled returns a name as the directory has it: FAT does not tell cases apart.
func (p *Partition) spelled(name string) string {
	p.init()
	for have := range p.files {
		if strings.EqualFold(have, name) {
			return have
		}
	}
	return name
}

func (p *Partition) init() {
	if p.files == nil {
		p.files, p.lasting = map[string]*content{}, map[string]*content{}
	}
}

func (p *Partition) tick() error {
	p.init()
	if p.cut {
		return ErrPowerCut
	}
	if p.Tick != nil {
		if err := p.Tick(); err != nil {
			p.cut = true
			return err
		}
	}
	return nil
}

// Restart returns the partition as it is found when power comes back. Seed 0 keeps only what was synced, 1 keeps all, any
// other picks at random, the same each time.
func (p *Partition) Restart(seed uint64) *Partition {
	p.init()
	r := rand.New(rand.NewPCG(seed, 0x455350))
	files := maps.Clone(p.lasting)
	for _, c := range p.pending {
		switch {
		case seed == 0:
		case seed == 1:
			c.apply(files)
		default:
			tear(c, files, r)
		}
	}
	next := &Partition{Capacity: p.Capacity, Backward: p.Backward}
	next.init()
	copies := map[*content]*content{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		c := files[name]
		if copies[c] == nil { // two names that share clusters share them still
			data := survivor(c, seed, r)
			copies[c] = &content{data: data, lasting: data}
		}
		next.files[name] = copies[c]
	}
	next.lasting = maps.Clone(next.files)
	return next
}

func tear(c change, files map[string]*content, r *rand.Rand) {
	switch n := r.IntN(6); {
	case n == 0: // nothing of it
	case c.from != "" && c.to != "" && n == 1: // both names, one chain of clusters
		files[c.to] = c.content
	case c.from != "" && c.to != "" && n == 2: // neither
		delete(files, c.from)
		delete(files, c.to)
	case c.from != "" && c.to != "" && n == 3: // new entry without its cluster and size
		delete(files, c.from)
		files[c.to] = &content{}
	default:
		c.apply(files)
	}
}

func survivor(c *content, seed uint64, r *rand.Rand) []byte {
	if bytes.Equal(c.data, c.lasting) || seed == 1 {
		return bytes.Clone(c.data)
	}
	if seed == 0 {
		return bytes.Clone(c.lasting)
	}
	n := r.IntN(len(c.data) + 1)
	switch r.IntN(4) {
	case 0:
		return bytes.Clone(c.lasting)
	case 1:
		return bytes.Clone(c.data[:n])
	case 2:
		torn := make([]byte, len(c.data))
		copy(torn, c.data[:n])
		return torn
	}
	return bytes.Clone(c.data)
}

// Use lets f work on the partition, as boot.Mounted does with a real one.
func (p *Partition) Use(_ context.Context, f func(boot.ESP) error) error {
	return f(boot.ESP{Volume: p})
}

// Check does what fsck.vfat -a does for two names that share clusters: the first keeps them (by name; backwards with
// reverse), the other becomes empty.
func (p *Partition) Check(reverse bool) {
	p.init()
	names := slices.Sorted(maps.Keys(p.files))
	if reverse {
		slices.Reverse(names)
	}
	seen := map[*content]bool{}
	for _, name := range names {
		c := p.files[name]
		if seen[c] {
			c = &content{}
			p.files[name], p.lasting[name] = c, c
		}
		seen[c] = true
	}
}

// Files returns the content of every file by name.
func (p *Partition) Files() map[string][]byte {
	p.init()
	files := map[string][]byte{}
	for name, c := range p.files {
		files[name] = bytes.Clone(c.data)
	}
	return files
}

func (p *Partition) Names() ([]string, error) {
	p.init()
	if p.cut {
		return nil, ErrPowerCut
	}
	return slices.Sorted(maps.Keys(p.files)), nil
}

func (p *Partition) Size(name string) (int64, error) {
	name = p.spelled(name)
	if c := p.files[name]; c != nil && !p.cut {
		return int64(len(c.data)), nil
	}
	return 0, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

func (p *Partition) Open(name string) (io.ReadCloser, error) {
	p.init()
	if p.cut {
		return nil, ErrPowerCut
	}
	c := p.files[p.spelled(name)]
	if c == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(bytes.Clone(c.data))), nil
}

func (p *Partition) Create(name string) (durable.File, error) {
	if err := p.tick(); err != nil {
		return nil, err
	}
	name = p.spelled(name)
	c := p.files[name]
	if c == nil {
		c = &content{}
		p.change(change{to: name, content: c})
	}
	c.data = nil
	return &file{p, c}, nil
}

func (p *Partition) change(c change) {
	c.apply(p.files)
	p.pending = append(p.pending, c)
}

func (p *Partition) Rename(from, to string) error {
	if err := p.tick(); err != nil {
		return err
	}
	from = p.spelled(from)
	c := p.files[from]
	if c == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if p.files[p.spelled(to)] != nil {
		return fmt.Errorf("rename %s: %s exists; the order of effects on FAT would be open", from, to)
	}
	p.change(change{from: from, to: to, content: c})
	return nil
}

func (p *Partition) Remove(name string) error {
	if err := p.tick(); err != nil {
		return err
	}
	name = p.spelled(name)
	if p.files[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	p.change(change{from: name})
	return nil
}

func (p *Partition) Sync() error {
	if err := p.tick(); err != nil {
		return err
	}
	p.lasting, p.pending = maps.Clone(p.files), nil
	return nil
}

// Space counts every content once, as the allocation table does.
func (p *Partition) Space() (size, free int64, err error) {
	p.init()
	size = p.Capacity
	if size == 0 {
		size = 512 << 20
	}
	free = size
	for _, c := range p.files {
		free -= int64(len(c.data))
	}
	return size, free, nil
}

type file struct {
	p *Partition
	c *content
}

func (f *file) Write(b []byte) (int, error) {
	if err := f.p.tick(); err != nil {
		f.c.data = append(f.c.data, b[:len(b)/2]...)
		return 0, err
	}
	if _, free, _ := f.p.Space(); free < int64(len(b)) {
		return 0, &fs.PathError{Op: "write", Path: "ESP", Err: errors.New("no space left on device")}
	}
	f.c.data = append(f.c.data, b...)
	return len(b), nil
}

func (f *file) Sync() error {
	if err := f.p.tick(); err != nil {
		return err
	}
	f.c.lasting = bytes.Clone(f.c.data)
	return nil
}

func (f *file) Close() error { return nil }

// UKI returns the bytes of a pretended UKI and what the partition should know about it.
func UKI(recipe, version string) (boot.UKI, []byte) {
	data := bytes.Repeat(fmt.Appendf(nil, "%s\n%s\n", recipe, version), 40)
	return boot.UKI{Base: boot.BaseName(recipe, version), Digest: images.DigestOf(data), Size: int64(len(data))}, data
}

// Model returns what the loader sees: a pretended UKI whose first half is there is listed.
func (p *Partition) Model(options int) boot.Model {
	m := boot.Model{Options: options}
	names := slices.Sorted(maps.Keys(p.Files()))
	if p.Backward {
		slices.Reverse(names)
	}
	for _, name := range names {
		data := p.files[name].data
		image := boot.Image{File: name, Digest: images.DigestOf(data)}
		if lines := bytes.SplitN(data, []byte("\n"), 3); len(lines) == 3 {
			_, whole := UKI(string(lines[0]), string(lines[1]))
			image.Listed = len(data) >= len(whole)/2 && bytes.Equal(data[:len(whole)/2], whole[:len(whole)/2])
			image.SortKey, image.Version = string(lines[0]), string(lines[1])
		}
		m.Images = append(m.Images, image)
	}
	return m
}

// PowerOn boots: the loader renames counters on the partition as it goes, and the file and version that came up are returned.
// start says how a complete image of a version behaves; an incomplete one is refused by the firmware.
func (p *Partition) PowerOn(options, attempts int, start func(version string) boot.Outcome) (file, version string, ok bool) {
	before := p.Model(options)
	up, after, ok := before.PowerOn(attempts, func(i boot.Image) boot.Outcome {
		if whole, _ := UKI(i.SortKey, i.Version); whole.Digest != i.Digest {
			return boot.Refused
		}
		return start(i.Version)
	})
	files := map[string]*content{}
	for i, image := range after.Images {
		files[image.File] = p.files[before.Images[i].File]
	}
	p.files, p.lasting, p.pending = files, maps.Clone(files), nil
	return up.File, up.Version, ok
}
