package lease

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Range is a block of addresses to give out, with the reservations of its network.
type Range struct {
	First, Last netip.Addr         // inclusive; both zero: reservations only
	Reserved    map[Key]netip.Addr // these clients get exactly this address, in the block or outside of it
}

// maxRange bounds memory: a /12 has 2^20 addresses.
const maxRange = 1 << 20

// entry is the record of one address that is or was used.
type entry struct {
	Lease
	block *block
	place int // index in the block's heap, -1 when not there (reserved addresses never compete)
}

// block is the table of one Range. All its work is O(log n) whatever a hostile client asks.
type block struct {
	first, size uint32
	reserved    map[Key]netip.Addr
	owner       map[netip.Addr]Key // the reverse of reserved
	byAddress   map[netip.Addr]*entry
	byKey       map[Key]*entry
	free        []uint32 // offsets that nobody ever used, in no order
	position    []int32  // where an offset sits in free, -1 when it does not
	ends        byEnd    // used addresses, the one that ends first on top
}

func newBlock(r Range) (*block, error) {
	b := &block{reserved: r.Reserved, owner: map[netip.Addr]Key{}, byAddress: map[netip.Addr]*entry{}, byKey: map[Key]*entry{}}
	for key, address := range r.Reserved {
		if other, ok := b.owner[address]; ok {
			return nil, fmt.Errorf("cannot reserve %s for %s: it is reserved for %s", address, key, other)
		}
		b.owner[address] = key
	}
	if !r.First.IsValid() && !r.Last.IsValid() {
		return b, nil
	}
	if !r.First.Is4() || !r.Last.Is4() || r.Last.Less(r.First) {
		return nil, fmt.Errorf("cannot use range %s to %s: want two IPv4 addresses in order", r.First, r.Last)
	}
	b.first = number(r.First)
	b.size = number(r.Last) - b.first + 1
	if b.size > maxRange || b.size == 0 {
		return nil, fmt.Errorf("cannot use range %s to %s: more than %d addresses", r.First, r.Last, maxRange)
	}
	b.position = make([]int32, b.size)
	for offset := range b.size {
		b.position[offset] = -1
		if _, ok := b.owner[b.at(offset)]; !ok {
			b.position[offset] = int32(len(b.free))
			b.free = append(b.free, offset)
		}
	}
	return b, nil
}

func number(a netip.Addr) uint32 {
	four := a.As4()
	return binary.BigEndian.Uint32(four[:])
}

func (b *block) at(offset uint32) netip.Addr {
	var four [4]byte
	binary.BigEndian.PutUint32(four[:], b.first+offset)
	return netip.AddrFrom4(four)
}

// covers reports whether the block may ever give address to key.
func (b *block) covers(address netip.Addr, key Key) bool {
	if reserved, ok := b.reserved[key]; ok {
		return reserved == address
	}
	if _, ok := b.owner[address]; ok || !address.Is4() {
		return false
	}
	n := number(address)
	return n >= b.first && n-b.first < b.size
}

// available reports whether key may have address now.
func (b *block) available(now time.Time, address netip.Addr, key Key) bool {
	if !b.covers(address, key) {
		return false
	}
	e := b.byAddress[address]
	return e == nil || e.free(now) || (e.Key == key && e.State != Declined)
}

// free reports whether anybody may have the address of e: what is declined or held becomes free when its time is over.
func (e *entry) free(now time.Time) bool { return e.State == Released || !now.Before(e.Until) }

// choose picks an address for key: its reservation, the one it had, the one it wants, one that its key points at (so that a
// server that lost its table still gives most machines what they had), any unused, the one longest out of use.
func (b *block) choose(now time.Time, key Key, want netip.Addr) (netip.Addr, bool) {
	if address, ok := b.reserved[key]; ok {
		e := b.byAddress[address]
		return address, e == nil || e.State != Declined || e.free(now)
	}
	if e := b.byKey[key]; e != nil && e.State != Declined {
		return e.Address, true
	}
	if want.IsValid() && b.available(now, want, key) {
		return want, true
	}
	if len(b.free) > 0 {
		offset := hash(key) % b.size
		if b.position[offset] < 0 {
			offset = b.free[int(hash(key))%len(b.free)]
		}
		return b.at(offset), true
	}
	if len(b.ends) > 0 && b.ends[0].free(now) {
		return b.ends[0].Address, true
	}
	return netip.Addr{}, false
}

// hash is FNV-1a folded to 31 bits: stable across restarts, unlike package hash/maphash.
func hash(key Key) uint32 {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return (h ^ h>>16) & 0x7fffffff
}

// set makes l the record of its address and takes the key's former address away from it.
func (b *block) set(l Lease) *entry {
	e := b.byAddress[l.Address]
	if e == nil {
		e = &entry{block: b, place: -1}
		b.byAddress[l.Address] = e
		b.unfree(l.Address)
	} else if e.Key != l.Key && b.byKey[e.Key] == e {
		delete(b.byKey, e.Key)
	}
	if old := b.byKey[l.Key]; old != nil && old != e && l.State != Declined {
		old.State, old.Until = Released, l.Until
		b.order(old)
	}
	e.Lease = l
	if l.State == Declined {
		if b.byKey[l.Key] == e {
			delete(b.byKey, l.Key)
		}
	} else {
		b.byKey[l.Key] = e
	}
	b.order(e)
	return e
}

func (b *block) unfree(address netip.Addr) {
	offset := number(address) - b.first
	if offset >= b.size || b.position[offset] < 0 {
		return
	}
	hole, last := b.position[offset], b.free[len(b.free)-1]
	b.free[hole] = last
	b.position[last] = hole
	b.free = b.free[:len(b.free)-1]
	b.position[offset] = -1
}

// order puts e at its place in the heap of ends.
func (b *block) order(e *entry) {
	offset := number(e.Address) - b.first
	_, reserved := b.owner[e.Address]
	switch {
	case offset >= b.size || reserved:
	case e.place < 0:
		heap.Push(&b.ends, e)
	default:
		heap.Fix(&b.ends, e.place)
	}
}

// byEnd is a heap: released addresses first, then by end.
type byEnd []*entry

func (h byEnd) Len() int { return len(h) }
func (h byEnd) Less(i, j int) bool {
	if a, b := h[i].State == Released, h[j].State == Released; a != b {
		return a
	}
	return h[i].Until.Before(h[j].Until)
}
func (h byEnd) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *byEnd) Push(x any) {
	e := x.(*entry)
	e.place = len(*h)
	*h = append(*h, e)
}
func (h *byEnd) Pop() any {
	old := *h
	e := old[len(old)-1]
	e.place = -1
	*h = old[:len(old)-1]
	return e
}
