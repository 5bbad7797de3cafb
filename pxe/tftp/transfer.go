package tftp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Bounds of the pace of repeats.
const (
	fastest  = 20 * time.Millisecond // firmware on a busy host is away for longer than a round trip
	tries    = 3                     // at one timeout each, until the client has acknowledged something
	patience = 8                     // timeouts without any acknowledgement, after that
	echoes   = 8                     // windows that must go well between two repeats that no clock asked for
)

// errAborted is the client's ERROR packet.
var errAborted = errors.New("client aborted")

// errSilent means that the client does not acknowledge any more.
var errSilent = errors.New("client stopped answering")

// transfer sends one file in windows of blocks (RFC 7440); a window of one is the protocol of RFC 1350.
type transfer struct {
	conn    net.Conn // connected to the client: the kernel drops what others send
	segment func(size int) error
	block   int // bytes of data in a block
	window  int // blocks in a window
	timeout time.Duration
	source  *bufio.Reader

	buffer  []byte        // the window: blocks with headers, back to back
	blocks  int           // blocks in buffer
	first   int64         // number of the first block in buffer, counting from 1
	last    bool          // buffer holds the last block of the file
	tail    int           // bytes (with header) of the last block in buffer
	trip    time.Duration // smoothed round trip of a window
	jitter  time.Duration // its smoothed deviation
	sentAt  time.Time
	fresh   bool // the window was sent once: its acknowledgement measures the round trip
	smooth  int  // windows acknowledged since the last repeat on a hint
	stale   int  // acknowledgements that repeats may have drawn and that say nothing
	answer  [64]byte
	sent    int64 // bytes of data acknowledged
	repeats int   // windows sent again
	offered bool  // the client has acknowledged something: it is there and wants the file
}

// greet sends the OACK until the client acknowledges it with block 0.
func (t *transfer) greet(oack []byte) error {
	for range tries {
		if _, err := t.conn.Write(oack); err != nil {
			return fmt.Errorf("cannot send options: %w", err)
		}
		begun := time.Now()
		deadline := begun.Add(t.timeout)
		for {
			ack, err := t.receive(deadline)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			if ack == 0 {
				t.offered, t.trip = true, time.Since(begun)
				t.jitter = t.trip / 2
				return nil
			}
		}
	}
	return errSilent
}

// send moves the whole file.
func (t *transfer) send(file io.Reader) error {
	t.source = bufio.NewReaderSize(file, 64<<10)
	t.buffer = make([]byte, t.window*(headerSize+t.block))
	t.first, t.smooth = 1, echoes
	for {
		if err := t.fill(); err != nil {
			return err
		}
		if err := t.deliver(); err != nil {
			return err
		}
		if t.last && t.blocks == 0 {
			return nil
		}
	}
}

// fill reads blocks from the file until the window is full or the file ends.
func (t *transfer) fill() error {
	size := headerSize + t.block
	for t.blocks < t.window && !t.last {
		slot := t.buffer[t.blocks*size : (t.blocks+1)*size]
		binary.BigEndian.PutUint16(slot, opData)
		binary.BigEndian.PutUint16(slot[2:], uint16(t.first+int64(t.blocks))) // rolls over to 0
		n, err := io.ReadFull(t.source, slot[headerSize:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("cannot read file: %w", err)
		}
		t.blocks++
		t.tail = headerSize + n
		t.last = n < t.block
	}
	return nil
}

// deliver sends the window until some of it is acknowledged.
func (t *transfer) deliver() error {
	begun, wait := time.Now(), t.pace()
	for try := 1; ; try++ {
		if err := t.push(); err != nil {
			return err
		}
		if t.fresh = try == 1; !t.fresh {
			t.repeats++
			t.stale += t.blocks // what of this is not news to the client draws an acknowledgement of its own
		}
		for again := false; !again; {
			ack, err := t.receive(t.sentAt.Add(wait))
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				// Before its first acknowledgement the client may be a forged address: it gets one packet and asks again.
				// One that has proved to be there may be busy: firmware on a crowded host can sleep for seconds.
				if !t.offered || time.Since(begun) >= patience*t.timeout {
					return errSilent
				}
				again, wait = true, min(2*wait, t.timeout)
			case errors.Is(err, syscall.ECONNREFUSED) && t.last:
				t.take(t.blocks) // the client closed its port after the last block: its acknowledgement was lost
				return nil
			case err != nil:
				return err
			default:
				taken := int(uint16(ack - uint16(t.first-1)))
				if taken > 0 && taken <= t.blocks {
					t.take(taken)
					return nil
				}
				again = taken == 0 && t.hinted()
			}
		}
	}
}

// hinted decides on an acknowledgement that brings no progress: the client misses the first block of the window, or this is an echo
// of an older acknowledgement; they look the same. So as many are passed over as repeats may have caused, only some windows are repeated on
// such a hint, and a lone block waits for the clock.
func (t *transfer) hinted() bool {
	if t.stale > 0 {
		t.stale--
		return false
	}
	if t.window == 1 || t.smooth < echoes || time.Since(t.sentAt) < t.trip/2 {
		return false
	}
	t.smooth = 0
	return true
}

// pace is the wait before the first repeat: the round trip and four times its usual deviation, as TCP does (RFC 6298).
func (t *transfer) pace() time.Duration {
	if t.trip == 0 {
		return t.timeout
	}
	return min(max(t.trip+4*t.jitter, fastest), t.timeout)
}

// take removes n acknowledged blocks from the head of the window.
func (t *transfer) take(n int) {
	if t.fresh {
		off := time.Since(t.sentAt) - t.trip
		t.trip += off / 8
		t.jitter += (max(off, -off) - t.jitter) / 4
	}
	t.offered = true
	if t.smooth++; t.smooth >= echoes {
		t.stale = 0
	}
	size := headerSize + t.block
	t.sent += int64(n) * int64(t.block)
	if n == t.blocks {
		t.sent -= int64(size - t.tail)
	}
	copy(t.buffer, t.buffer[n*size:t.blocks*size])
	t.blocks -= n
	t.first += int64(n)
}

// push sends all blocks of the window, in one system call where the kernel can cut it up (UDP_SEGMENT).
func (t *transfer) push() error {
	t.sentAt = time.Now()
	size := headerSize + t.block
	all := t.buffer[:(t.blocks-1)*size+t.tail]
	for len(all) > 0 {
		n := min(len(all), size)
		if t.segment != nil {
			n = min(len(all), maxSegments/size*size)
		}
		_, err := t.conn.Write(all[:n])
		if t.segment != nil && (errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL)) {
			if err := t.segment(0); err != nil { // an interface that cannot checksum what it is to cut
				return fmt.Errorf("cannot send: %w", err)
			}
			t.segment = nil
			continue
		}
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOBUFS) {
			return fmt.Errorf("cannot send: %w", err)
		}
		all = all[n:]
	}
	return nil
}

// maxSegments is the largest datagram that is cut up: the kernel takes 64 segments and 65507 bytes.
const maxSegments = 64000

// receive waits for an acknowledgement and returns its block number.
func (t *transfer) receive(deadline time.Time) (uint16, error) {
	if err := t.conn.SetReadDeadline(deadline); err != nil {
		return 0, fmt.Errorf("cannot wait: %w", err)
	}
	for {
		n, err := t.conn.Read(t.answer[:])
		if err != nil {
			return 0, err
		}
		if n < headerSize {
			continue
		}
		switch binary.BigEndian.Uint16(t.answer[:]) {
		case opAck:
			return binary.BigEndian.Uint16(t.answer[2:]), nil
		case opError:
			return 0, fmt.Errorf("%w with code %d", errAborted, binary.BigEndian.Uint16(t.answer[2:]))
		}
	}
}
