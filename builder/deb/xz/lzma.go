package xz

import (
	"encoding/binary"
	"errors"
)

// Numbers of the LZMA format (the LZMA specification in the LZMA SDK, by the format's author).
const (
	states        = 16 // only 12 are used; a power of two spares the check of bounds
	literalStates = 7  // states below follow a literal
	posStates     = 16
	lenStates     = 4 // distance slots depend on the length up to here
	minMatch      = 2
	startModelled = 4  // distance slots from here have modelled low bits
	endModelled   = 14 // and from here direct ones
	alignBits     = 4
)

// lengthProbs are the probabilities of match lengths.
type lengthProbs struct {
	choice, choice2 prob
	low, mid        [posStates][8]prob
	high            [256]prob
}

// lzma is what one LZMA chunk leaves to the next.
type lzma struct {
	state                uint32
	rep                  [4]uint32 // latest distances less one, the latest first
	dict                 int       // size of the dictionary
	lc                   uint32
	literalMask, posMask uint32

	isMatch, isRep0Long [states][posStates]prob
	isRep               [states]prob
	isRepG0             [states]prob
	isRepG1             [states]prob
	isRepG2             [states]prob
	distSlot            [lenStates][64]prob
	distSpecial         [128]prob
	distAlign           [1 << alignBits]prob
	matchLen, repLen    lengthProbs
	literals            [16][0x300]prob // lc+lp is at most 4 in LZMA2
}

// setProperties takes the byte that codes lc, lp and pb.
func (l *lzma) setProperties(b byte) bool {
	if b >= 9*5*5 {
		return false
	}
	lc, lp, pb := uint32(b%9), uint32(b/9%5), uint32(b/45)
	if lc+lp > 4 {
		return false
	}
	l.lc, l.literalMask, l.posMask = lc, 1<<lp-1, 1<<pb-1
	return true
}

// reset forgets what was learnt.
func (l *lzma) reset() {
	l.state, l.rep = 0, [4]uint32{}
	for i := range l.isMatch {
		fill(l.isMatch[i][:])
		fill(l.isRep0Long[i][:])
	}
	for _, list := range [][]prob{l.isRep[:], l.isRepG0[:], l.isRepG1[:], l.isRepG2[:], l.distSpecial[:], l.distAlign[:]} {
		fill(list)
	}
	for i := range l.distSlot {
		fill(l.distSlot[i][:])
	}
	for i := range l.literals[:(l.literalMask+1)<<l.lc] {
		fill(l.literals[i][:])
	}
	l.matchLen.reset()
	l.repLen.reset()
}

func (p *lengthProbs) reset() {
	p.choice, p.choice2 = probInit, probInit
	for i := range p.low {
		fill(p.low[i][:])
		fill(p.mid[i][:])
	}
	fill(p.high[:])
}

func fill(list []prob) {
	for i := range list {
		list[i] = probInit
	}
}

var errCorrupt = errors.New("the compressed data is corrupt")

// decode fills window[from:to], and perhaps some of the slack after it, from a chunk of size bytes in in. Distances may
// reach back to window[start], where the dictionary begins, and over no more than its size. total is the number of bytes
// before window[from] since the last reset of the dictionary, which literals and lengths depend on.
func (l *lzma) decode(in *input, size int, window []byte, start, from, to int, total uint64) error {
	c, ok := startCoder(in)
	if !ok {
		return errCorrupt
	}
	window = window[:to+slack]
	base := uint32(total) - uint32(from) // so that base+i is the position in the stream
	for i := from; i < to; {
		state := l.state % states
		posState := (base + uint32(i)) & l.posMask % posStates
		var bit uint32
		if c, bit = c.bit(in, &l.isMatch[state][posState]); bit == 0 {
			c, window[i] = l.literal(c, in, window, start, i, base+uint32(i))
			i++
			continue
		}
		var length uint32
		if c, bit = c.bit(in, &l.isRep[state]); bit == 0 {
			c, length = l.match(c, in, state, posState)
		} else {
			c, length = l.repeat(c, in, state, posState)
		}
		distance := int(l.rep[0]) + 1
		if distance > i-start || distance > l.dict || int(length) > to-i {
			return errCorrupt
		}
		i = copyMatch(window, i, distance, int(length))
	}
	if c.code != 0 || int(c.at) != size {
		return errCorrupt
	}
	return nil
}

// slack is how far beyond its end copyMatch may write.
const slack = 8

// copyMatch repeats length bytes from distance back, which may overlap what it writes. Most matches are short: they are
// copied eight bytes at a time without regard to their end, as what follows is written later.
func copyMatch(window []byte, at, distance, length int) int {
	end := at + length
	if distance >= 8 && length <= 32 {
		to, from := window[at:end+slack], window[at-distance:end-distance+slack]
		for len(to) > slack {
			binary.LittleEndian.PutUint64(to, binary.LittleEndian.Uint64(from))
			to, from = to[8:], from[8:]
		}
		return end
	}
	for at < end { // doubles what there is to copy from each time
		at += copy(window[at:end], window[end-length-distance:at])
	}
	return end
}

func (l *lzma) literal(c coder, in *input, window []byte, start, i int, position uint32) (coder, byte) {
	previous := uint32(0)
	if i > start {
		previous = uint32(window[i-1])
	}
	probs := &l.literals[((position&l.literalMask)<<l.lc+previous>>(8-l.lc))%16]
	state := l.state
	switch {
	case state < 4:
		l.state = 0
	case state < 10:
		l.state = state - 3
	default:
		l.state = state - 6
	}
	if state < literalStates {
		return c.literal(in, probs)
	}
	predicted := byte(0)
	if from := i - int(l.rep[0]) - 1; from >= start {
		predicted = window[from]
	}
	return c.matchedLiteral(in, probs, predicted)
}

// match decodes length and distance of a new match.
func (l *lzma) match(c coder, in *input, state, posState uint32) (coder, uint32) {
	if l.state = 7; state >= literalStates {
		l.state = 10
	}
	c, length := l.matchLen.decode(c, in, posState)
	var slot, low uint32
	c, slot = c.tree(in, l.distSlot[min(length-minMatch, lenStates-1)][:], 6)
	distance := slot
	if slot >= startModelled {
		n := int(slot>>1 - 1)
		distance = (2 | slot&1) << n
		if slot < endModelled {
			c, low = c.reverseTree(in, l.distSpecial[distance-slot:], n)
			distance += low
		} else {
			c, low = c.direct(in, n-alignBits)
			distance += low << alignBits
			c, low = c.reverseTree(in, l.distAlign[:], alignBits)
			distance += low
		}
	}
	l.rep = [4]uint32{distance, l.rep[0], l.rep[1], l.rep[2]}
	return c, length
}

// repeat decodes a match at one of the latest four distances.
func (l *lzma) repeat(c coder, in *input, state, posState uint32) (coder, uint32) {
	long := uint32(8)
	if state >= literalStates {
		long = 11
	}
	var bit uint32
	if c, bit = c.bit(in, &l.isRepG0[state]); bit == 0 {
		if c, bit = c.bit(in, &l.isRep0Long[state][posState]); bit == 0 {
			l.state = long + 1
			if long == 11 {
				l.state = 11
			}
			return c, 1
		}
	} else if c, bit = c.bit(in, &l.isRepG1[state]); bit == 0 {
		l.rep[0], l.rep[1] = l.rep[1], l.rep[0]
	} else if c, bit = c.bit(in, &l.isRepG2[state]); bit == 0 {
		l.rep = [4]uint32{l.rep[2], l.rep[0], l.rep[1], l.rep[3]}
	} else {
		l.rep = [4]uint32{l.rep[3], l.rep[0], l.rep[1], l.rep[2]}
	}
	l.state = long
	return l.repLen.decode(c, in, posState)
}

func (p *lengthProbs) decode(c coder, in *input, posState uint32) (coder, uint32) {
	var bit, n uint32
	if c, bit = c.bit(in, &p.choice); bit == 0 {
		c, n = c.tree(in, p.low[posState][:], 3)
		return c, n + minMatch
	}
	if c, bit = c.bit(in, &p.choice2); bit == 0 {
		c, n = c.tree(in, p.mid[posState][:], 3)
		return c, n + minMatch + 8
	}
	c, n = c.tree(in, p.high[:], 8)
	return c, n + minMatch + 16
}
