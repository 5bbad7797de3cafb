package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
)

// Operations (RFC 1350 §5, RFC 2347).
const (
	opRead   = 1
	opWrite  = 2
	opData   = 3
	opAck    = 4
	opError  = 5
	opOption = 6
)

// Error codes (RFC 1350 appendix, RFC 2347).
const (
	codeUndefined = 0
	codeNotFound  = 1
	codeAccess    = 2
	codeIllegal   = 4
)

const (
	defaultBlock = 512
	maxRequest   = 512 // RFC 2347: a request with its options is one packet of at most 512 bytes
	headerSize   = 4   // operation and block number
)

// request is a read or write request as far as the server understands it. Zero fields were not asked for.
type request struct {
	write     bool
	name      string
	mode      string // lower case
	blockSize int    // 8 to 65464 (RFC 2348)
	window    int    // 1 to 65535 (RFC 7440)
	timeout   int    // 1 to 255 seconds (RFC 2349)
	wantSize  bool   // tsize 0 (RFC 2349)
}

var (
	errNotRequest   = errors.New("packet is not a request")
	errUnterminated = errors.New("request has a string without end")
	errLong         = errors.New("request is longer than 512 bytes")
	errName         = errors.New("request names no file")
)

// parseRequest reads a packet that came to port 69. Options with values outside of their range are as if not asked; of an option
// named twice the first counts. Names of options and modes are compared without case (RFC 2347).
func parseRequest(packet []byte) (request, error) {
	if len(packet) > maxRequest {
		return request{}, errLong
	}
	if len(packet) < 2 {
		return request{}, errNotRequest
	}
	op := binary.BigEndian.Uint16(packet)
	if op != opRead && op != opWrite {
		return request{}, errNotRequest
	}
	name, rest, ok := bytes.Cut(packet[2:], []byte{0})
	if !ok {
		return request{}, errUnterminated
	}
	if len(name) == 0 {
		return request{}, errName
	}
	mode, rest, ok := bytes.Cut(rest, []byte{0})
	if !ok {
		return request{}, errUnterminated
	}
	r := request{write: op == opWrite, name: string(name), mode: strings.ToLower(string(mode))}
	for len(rest) > 0 {
		var option, value []byte
		if option, rest, ok = bytes.Cut(rest, []byte{0}); !ok {
			return request{}, errUnterminated
		}
		if value, rest, ok = bytes.Cut(rest, []byte{0}); !ok {
			return request{}, errUnterminated
		}
		r.option(strings.ToLower(string(option)), string(value))
	}
	return r, nil
}

func (r *request) option(name, value string) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return
	}
	set := func(field *int, low, high uint64) {
		if *field == 0 && n >= low && n <= high {
			*field = int(n)
		}
	}
	switch name {
	case "blksize":
		set(&r.blockSize, 8, 65464)
	case "windowsize":
		set(&r.window, 1, 65535)
	case "timeout":
		set(&r.timeout, 1, 255)
	case "tsize":
		r.wantSize = r.wantSize || n == 0
	}
}

// plain reports whether pin/tftp does what r asks. Without options it would repeat the first block to whoever is named as source.
func (r *request) plain() bool {
	return r.window == 0 && r.timeout == 0 && (r.blockSize >= defaultBlock || r.blockSize == 0 && r.wantSize)
}

// packet writes r as a request for another name, in normal form.
func (r *request) packet(name string) []byte {
	b := []byte{0, opRead}
	add := func(parts ...string) {
		for _, part := range parts {
			b = append(append(b, part...), 0)
		}
	}
	add(name, "octet")
	if r.blockSize != 0 {
		add("blksize", strconv.Itoa(r.blockSize))
	}
	if r.wantSize {
		add("tsize", "0")
	}
	return b
}

// accepted appends the OACK for what is granted. It returns nil when nothing is, so that the transfer starts with data.
func (r *request) accepted(size int64) []byte {
	b := []byte{0, opOption}
	add := func(name string, value int64) {
		b = append(append(b, name...), 0)
		b = append(strconv.AppendInt(b, value, 10), 0)
	}
	if r.blockSize != 0 {
		add("blksize", int64(r.blockSize))
	}
	if r.wantSize {
		add("tsize", size)
	}
	if r.timeout != 0 {
		add("timeout", int64(r.timeout))
	}
	if r.window != 0 {
		add("windowsize", int64(r.window))
	}
	if len(b) == 2 {
		return nil
	}
	return b
}

// errorPacket is an ERROR with a text for the client's screen.
func errorPacket(code uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opError}, code)
	return append(append(b, text...), 0)
}
