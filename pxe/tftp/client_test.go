package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// client is a TFTP client as firmware is one: RFC 1350, 2347, 2348, 2349, 7440.
type client struct {
	conn    net.PacketConn
	server  netip.AddrPort
	name    string
	options []string // name, value, name, value…
	timeout time.Duration
	probe   bool // abort with error 8 once the options are known
	twice   bool // acknowledge everything twice

	oack    map[string]string
	packets int // DATA packets received
	extra   int // of them, not the one expected
	peer    net.Addr
}

var errGone = errors.New("server stopped sending")

func (c *client) request() []byte {
	b := append([]byte{0, opRead}, c.name...)
	b = append(append(b, 0), "octet\x00"...)
	for _, o := range c.options {
		b = append(append(b, o...), 0)
	}
	return b
}

func (c *client) ack(block uint16) error {
	packet := binary.BigEndian.AppendUint16([]byte{0, opAck}, block)
	_, err := c.conn.WriteTo(packet, c.peer)
	if c.twice && err == nil {
		_, err = c.conn.WriteTo(packet, c.peer)
	}
	return err
}

// fetch returns the file.
func (c *client) fetch() ([]byte, error) {
	if c.timeout == 0 {
		c.timeout = time.Second
	}
	if _, err := c.conn.WriteTo(c.request(), net.UDPAddrFromAddrPort(c.server)); err != nil {
		return nil, err
	}
	var file bytes.Buffer
	buffer := make([]byte, 65536)
	block, size, window, inWindow := uint16(0), 512, 1, 0
	repeats := 0
	for {
		if err := c.conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
			return nil, err
		}
		n, from, err := c.conn.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if repeats++; repeats > 5 {
				return nil, errGone
			}
			if c.peer == nil {
				_, err = c.conn.WriteTo(c.request(), net.UDPAddrFromAddrPort(c.server))
			} else {
				err = c.ack(block)
			}
			inWindow = 0
			if err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if c.peer == nil {
			c.peer = from
		}
		if from.String() != c.peer.String() || n < 4 {
			continue
		}
		switch number := binary.BigEndian.Uint16(buffer[2:]); binary.BigEndian.Uint16(buffer) {
		case opError:
			return nil, fmt.Errorf("error %d: %s", number, bytes.TrimRight(buffer[4:n], "\x00"))
		case opOption:
			if block != 0 || file.Len() > 0 {
				continue
			}
			c.oack = map[string]string{}
			fields := strings.Split(strings.TrimSuffix(string(buffer[2:n]), "\x00"), "\x00")
			for i := 0; i+1 < len(fields); i += 2 {
				c.oack[fields[i]] = fields[i+1]
			}
			if v, err := strconv.Atoi(c.oack["blksize"]); err == nil {
				size = v
			}
			if v, err := strconv.Atoi(c.oack["windowsize"]); err == nil {
				window = v
			}
			if c.probe {
				_, err := c.conn.WriteTo(errorPacket(8, "aborted by option negotiation"), c.peer)
				return nil, err
			}
			if err := c.ack(0); err != nil {
				return nil, err
			}
		case opData:
			c.packets++
			if number != block+1 {
				c.extra++
				inWindow = 0 // as EDK2 does: every block that is not the next draws an acknowledgement and starts the count anew
				if err := c.ack(block); err != nil {
					return nil, err
				}
				continue
			}
			repeats = 0
			block = number
			file.Write(buffer[4:n])
			inWindow++
			last := n-4 < size
			if inWindow == window || last {
				inWindow = 0
				if err := c.ack(block); err != nil {
					return nil, err
				}
			}
			if last {
				return file.Bytes(), nil
			}
		}
	}
}

// listen opens a client's socket on loopback.
func listen(t testing.TB) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
