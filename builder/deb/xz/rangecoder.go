package xz

import "encoding/binary"

// The range decoder of LZMA. Its three numbers live in registers: functions take the coder by value and return it. The
// step of one bit is written out in four loops, since the compiler does not inline it and calls would cost more than it.

const (
	probBits  = 11
	probInit  = 1 << probBits / 2
	probShift = 5 // how fast a probability follows what it saw
	topValue  = 1 << 24
)

// prob is the probability of a zero bit, in 1/2048.
type prob = uint16

// inputSize is a power of two above the largest compressed chunk, so that a masked position needs no bounds check. A
// corrupt chunk can read beyond its end and around, which is found afterwards: the position must then be exactly the end.
const inputSize = 1 << 17

type input = [inputSize]byte

// coder is the state of the range decoder.
type coder struct {
	width uint32 // of the current interval
	code  uint32 // the input's place in it
	at    uint32 // next byte of the input
}

// startCoder reads the five bytes that a chunk begins with.
func startCoder(in *input) (coder, bool) {
	return coder{width: 1<<32 - 1, code: binary.BigEndian.Uint32(in[1:5]), at: 5}, in[0] == 0
}

// bit decodes one bit with p, which it adapts.
func (c coder) bit(in *input, p *prob) (coder, uint32) {
	v := uint32(*p)
	bound := (c.width >> probBits) * v
	bit := uint32(0)
	if c.code < bound {
		c.width = bound
		v += (1<<probBits - v) >> probShift
	} else {
		c.width -= bound
		c.code -= bound
		v -= v >> probShift
		bit = 1
	}
	*p = prob(v)
	if c.width < topValue {
		c.width <<= 8
		c.code = c.code<<8 | uint32(in[c.at%inputSize])
		c.at++
	}
	return c, bit
}

// tree decodes a symbol of n bits, the highest first. probs has 1<<n elements.
func (c coder) tree(in *input, probs []prob, n int) (coder, uint32) {
	symbol := uint32(1)
	width, code, at := c.width, c.code, c.at
	probs = probs[:1<<n]
	for range n {
		p := &probs[symbol]
		v := uint32(*p)
		bound := (width >> probBits) * v
		if code < bound {
			width = bound
			v += (1<<probBits - v) >> probShift
			symbol <<= 1
		} else {
			width -= bound
			code -= bound
			v -= v >> probShift
			symbol = symbol<<1 | 1
		}
		*p = prob(v)
		if width < topValue {
			width <<= 8
			code = code<<8 | uint32(in[at%inputSize])
			at++
		}
	}
	return coder{width, code, at}, symbol - 1<<n
}

// reverseTree decodes a number of n bits, the lowest first.
func (c coder) reverseTree(in *input, probs []prob, n int) (coder, uint32) {
	symbol, number := uint32(1), uint32(0)
	var bit uint32
	for i := range n {
		c, bit = c.bit(in, &probs[symbol])
		symbol = symbol<<1 | bit
		number |= bit << i
	}
	return c, number
}

// direct decodes n bits that have no probability.
func (c coder) direct(in *input, n int) (coder, uint32) {
	number := uint32(0)
	for range n {
		c.width >>= 1
		rest := int64(c.code) - int64(c.width)
		zero := uint32(rest >> 63)
		c.code = uint32(rest) + c.width&zero
		number = number<<1 + 1 + zero
		if c.width < topValue {
			c.width <<= 8
			c.code = c.code<<8 | uint32(in[c.at%inputSize])
			c.at++
		}
	}
	return c, number
}

// literal decodes a byte. Its bits are so close to random that a branch on each would be predicted wrongly every third
// time; so the two outcomes are selected by a mask. Each bit waits for the one before, so what it needs of memory is
// loaded before it is known: the probabilities of both the bits that may follow.
func (c coder) literal(in *input, probs *[0x300]prob) (coder, byte) {
	symbol := uint32(1)
	width, code, at := c.width, c.code, c.at
	v := int32(probs[1])
	for symbol < 0x100 {
		after0, after1 := int32(probs[symbol<<1&0xff]), int32(probs[(symbol<<1+1)&0xff])
		bound := (width >> probBits) * uint32(v)
		rest := int64(code) - int64(bound)
		zero := uint32(rest >> 63) // all ones when the bit is 0
		other := width - bound
		width = other ^ (other^bound)&zero
		code = uint32(rest) + bound&zero
		probs[symbol&0xff] = prob(v - (v-int32(zero&(1<<probBits-31)))>>probShift)
		symbol = symbol<<1 + 1 + zero
		v = after1 ^ (after1^after0)&int32(zero)
		if width < topValue {
			width <<= 8
			code = code<<8 | uint32(in[at%inputSize])
			at++
		}
	}
	return coder{width, code, at}, byte(symbol)
}

// matchedLiteral decodes a byte that follows a match and therefore differs from predicted, the byte that would have
// continued it. While bits agree with those of predicted, its upper halves of probs apply.
func (c coder) matchedLiteral(in *input, probs *[0x300]prob, predicted byte) (coder, byte) {
	symbol, offset, expect := uint32(1), uint32(0x100), uint32(predicted)
	width, code, at := c.width, c.code, c.at
	for symbol < 0x100 {
		expect <<= 1
		match := expect & offset
		p := &probs[(offset+match+symbol)%0x300]
		v := int32(*p)
		bound := (width >> probBits) * uint32(v)
		rest := int64(code) - int64(bound)
		zero := uint32(rest >> 63)
		other := width - bound
		width = other ^ (other^bound)&zero
		code = uint32(rest) + bound&zero
		*p = prob(v - (v-int32(zero&(1<<probBits-31)))>>probShift)
		symbol = symbol<<1 + 1 + zero
		offset &= match ^ zero // stays set while the decoded bit is the expected one
		if width < topValue {
			width <<= 8
			code = code<<8 | uint32(in[at%inputSize])
			at++
		}
	}
	return coder{width, code, at}, byte(symbol)
}
