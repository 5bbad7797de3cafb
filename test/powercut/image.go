package powercut

import (
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"

	"roost/updater/slot"
)

// Mode says how what was not flushed may come apart.
type Mode int

// The modes.
const (
	Prefix  Mode = iota // the first writes are there whole, the rest is not
	Subset              // any whole writes are there, in any order
	Torn4K              // any blocks of 4096 bytes
	Torn512             // any sectors
)

// State is one disk that a power cut may leave.
type State struct {
	Cut  int // entries that were issued; of those after the last flush before it, what Mode and Seed say is there
	Mode Mode
	Seed uint64
}

// States returns, for each flush and the end of the record, the disk as flushed; and for each stretch between flushes, as many
// seeded states of each mode as asked for, cut at seeded places in it. A stretch without a write adds none.
func (l *Log) States(seeds int) iter.Seq[State] {
	return func(yield func(State) bool) {
		start := 0
		for i := 0; i <= len(l.Entries); i++ {
			if i < len(l.Entries) && !l.Entries[i].Flush {
				continue
			}
			random := rand.New(rand.NewPCG(uint64(i), 0x706f776572))
			writes := i - start
			for n := range seeds {
				for _, mode := range []Mode{Prefix, Subset, Torn4K, Torn512} {
					if writes == 0 || mode == Prefix && n >= writes {
						continue
					}
					cut := start + 1 + random.IntN(writes)
					if mode == Prefix && seeds >= writes {
						cut = start + 1 + n // all of them, where there are few
					}
					if !yield(State{Cut: cut, Mode: mode, Seed: random.Uint64()}) {
						return
					}
				}
			}
			start = i + 1
			if !yield(State{Cut: min(start, len(l.Entries)), Mode: Prefix}) {
				return
			}
		}
	}
}

// Image is a rebuilt disk. What is written to it stays in memory. It is a slot.Device.
type Image struct {
	base    io.ReaderAt
	size    int64
	log     *Log
	durable map[int64]place // by sector number; shared with the rebuilder
	loose   map[int64]place // what survived of the writes after the last flush
	watched []region        // of the rebuilder
	written map[int64][]byte
}

// find returns where a sector is, if the record holds it.
func (m *Image) find(sector int64) (place, bool) {
	p, ok := m.loose[sector]
	if !ok {
		p, ok = m.durable[sector]
	}
	return p, ok
}

// place is where the bytes of a sector are: in an entry of the log, so many bytes in.
type place struct {
	entry int
	at    int64
}

// Rebuilder makes images of one log on one disk. It keeps what is common to the states it has seen last.
type Rebuilder struct {
	Log  *Log
	Base io.ReaderAt // the disk when the record began
	Size int64       // bytes

	flushed int             // entries that are in durable
	durable map[int64]place // as of the last flush before them
	watched []region
}

// region is a stretch of the disk whose content is told apart by a sum over where its sectors come from.
type region struct {
	offset, length int64
	sum            uint64
}

func (r region) holds(sector int64) bool {
	return sector*sectorSize >= r.offset && sector*sectorSize < r.offset+r.length
}

// weight is what a sector from a place adds to the sum of its region.
func (p place) weight(sector int64) uint64 {
	return mix(uint64(sector)) * (mix(uint64(p.entry)<<20^uint64(p.at)+1) | 1)
}

// Watch makes Image.Sum tell a stretch of the disk apart cheaply, however large it is. It comes before the first Image.
func (r *Rebuilder) Watch(offset, length int64) {
	r.watched = append(r.watched, region{offset: offset, length: length})
}

// Image rebuilds a state. It is valid until Image is called again. States are quickest in the order of States.
func (r *Rebuilder) Image(s State) *Image {
	start := s.Cut
	for start > 0 && !r.Log.Entries[start-1].Flush {
		start--
	}
	if r.durable == nil || r.flushed > start {
		r.durable, r.flushed = map[int64]place{}, 0
		for i := range r.watched {
			r.watched[i].sum = 0
		}
	}
	for ; r.flushed < start; r.flushed++ {
		r.Log.apply(r.durable, r.flushed, r.account)
	}
	image := &Image{base: r.Base, size: r.Size, log: r.Log, durable: r.durable, loose: map[int64]place{}, watched: r.watched}
	for i := start; i < s.Cut; i++ {
		survives := s.survives(i, r.Log.Entries[i])
		r.Log.apply(image.loose, i, func(sector int64, _ place) bool { return survives(sector) })
	}
	return image
}

// account keeps the sums of the watched regions while a sector becomes durable.
func (r *Rebuilder) account(sector int64, p place) bool {
	for i := range r.watched {
		if !r.watched[i].holds(sector) {
			continue
		}
		if old, ok := r.durable[sector]; ok {
			r.watched[i].sum -= old.weight(sector)
		}
		r.watched[i].sum += p.weight(sector)
	}
	return true
}

// survives returns which sectors of an unflushed write are there.
func (s State) survives(i int, e Entry) func(sector int64) bool {
	block := int64(1)
	switch {
	case s.Mode == Prefix || e.FUA:
		return func(int64) bool { return true }
	case s.Mode == Subset:
		block = 1 << 62
	case s.Mode == Torn4K:
		block = 8
	}
	return func(sector int64) bool {
		h := mix(s.Seed ^ mix(uint64(i)) ^ mix(uint64(sector/block)+1<<40))
		return h&1 == 1
	}
}

// mix spreads bits (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (l *Log) apply(sectors map[int64]place, i int, survives func(sector int64, p place) bool) {
	e := l.Entries[i]
	for at := int64(0); at < e.Length; at += sectorSize {
		if sector := (e.Offset + at) / sectorSize; survives(sector, place{i, at}) {
			sectors[sector] = place{i, at}
		}
	}
}

// ReadAt reads the disk.
func (m *Image) ReadAt(p []byte, offset int64) (int, error) {
	end := min(offset+int64(len(p)), m.size)
	for at := offset; at < end; {
		from, n := m.run(at, end)
		if err := m.readFrom(from, p[at-offset:at-offset+n]); err != nil {
			return int(at - offset), err
		}
		at += n
	}
	if n := int(max(end-offset, 0)); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

// source is where bytes of an image are: in memory, in an entry of the log so many bytes in, or (entry -1) on the base.
type source struct {
	memory []byte
	place
}

// source returns where a sector is.
func (m *Image) source(sector int64) source {
	if data := m.written[sector]; data != nil {
		return source{memory: data}
	}
	if p, logged := m.find(sector); logged {
		return source{place: p}
	}
	return source{place: place{-1, sector * sectorSize}}
}

// run returns where the bytes at an offset are, and how many follow each other there before end.
func (m *Image) run(at, end int64) (source, int64) {
	sector, skip := at/sectorSize, at%sectorSize
	from := m.source(sector)
	if from.memory != nil {
		from.memory = from.memory[skip:]
		return from, min(int64(len(from.memory)), end-at)
	}
	next := from.place
	n := sectorSize - skip
	for at+n < end {
		sector++
		next.at += sectorSize
		if s := m.source(sector); s.memory != nil || s.place != next {
			break
		}
		n += sectorSize
	}
	from.at += skip
	return from, min(n, end-at)
}

// readFrom fills p from one source.
func (m *Image) readFrom(from source, p []byte) (err error) {
	n := 0
	switch {
	case from.memory != nil:
		n = copy(p, from.memory)
	case from.entry < 0:
		n, err = m.base.ReadAt(p, from.at)
	case !m.log.Entries[from.entry].Discard:
		n, err = m.log.data.ReadAt(p, m.log.Entries[from.entry].data+from.at)
	}
	clear(p[n:])
	if err == io.EOF { // the base may be a file that ends early
		return nil
	}
	return err
}

// WriteAt changes the image, not the record.
func (m *Image) WriteAt(p []byte, offset int64) (int, error) {
	if m.written == nil {
		m.written = map[int64][]byte{}
	}
	for done := 0; done < len(p); {
		sector := offset / sectorSize
		data := m.written[sector]
		if data == nil {
			data = make([]byte, sectorSize)
			if _, err := m.ReadAt(data, sector*sectorSize); err != nil {
				return done, err
			}
			m.written[sector] = data
		}
		n := copy(data[offset%sectorSize:], p[done:])
		done, offset = done+n, offset+int64(n)
	}
	return len(p), nil
}

// Sync does nothing: an image is judged as it is.
func (m *Image) Sync() error { return nil }

// Size returns the bytes of the disk.
func (m *Image) Size() int64 { return m.size }

// Fresh returns the image itself.
func (m *Image) Fresh() (slot.View, error) { return view{m}, nil }

// Sum tells the content of the n-th watched region apart without reading it: equal sums of images of one rebuilder mean
// equal bytes, but for one chance in 2^64. What was written to the image itself is not in it.
func (m *Image) Sum(n int) uint64 {
	r := m.watched[n]
	for sector, p := range m.loose {
		if !r.holds(sector) {
			continue
		}
		if old, ok := m.durable[sector]; ok {
			r.sum -= old.weight(sector)
		}
		r.sum += p.weight(sector)
	}
	return r.sum
}

// sum is Sum for a stretch that is not watched; it takes time in proportion to it.
func (m *Image) sum(offset, length int64) (sum uint64) {
	for sector := offset / sectorSize; sector < (offset+length+sectorSize-1)/sectorSize; sector++ {
		p, logged := m.find(sector)
		if !logged {
			p = place{-1, sector}
		}
		sum += p.weight(sector)
	}
	return sum
}

// Overlay writes the part of the disk that the record or the tests changed over a copy of the base, which is how a state is
// really booted: w is a file that holds the base already.
func (m *Image) Overlay(w io.WriterAt) error {
	sectors := slices.Collect(maps.Keys(m.durable))
	sectors = slices.AppendSeq(sectors, maps.Keys(m.loose))
	sectors = slices.AppendSeq(sectors, maps.Keys(m.written))
	slices.Sort(sectors)
	sectors = slices.Compact(sectors)
	buffer := make([]byte, 1<<20)
	for len(sectors) > 0 {
		n := 1
		for n < len(sectors) && n < len(buffer)/sectorSize && sectors[n] == sectors[0]+int64(n) {
			n++
		}
		chunk := buffer[:n*sectorSize]
		if _, err := m.ReadAt(chunk, sectors[0]*sectorSize); err != nil {
			return err
		}
		if _, err := w.WriteAt(chunk, sectors[0]*sectorSize); err != nil {
			return err
		}
		sectors = sectors[n:]
	}
	return nil
}
