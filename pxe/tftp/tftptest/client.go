// Package tftptest is a TFTP client as firmware is one, for tests and load generators.
package tftptest

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
	"time"
)

// Client fetches one file (RFC 1350, 2347, 2348, 2349, 7440). It behaves as EDK2 does: every block that is not the next draws an
// acknowledgement and starts the count of the window anew.
type Client struct {
	Conn    net.PacketConn
	Server  netip.AddrPort
	Name    string
	Options []string      // name, value, name, value…
	Timeout time.Duration // 0 = 1 s
	Probe   bool          // abort with error 8 once the options are known
	Twice   bool          // acknowledge everything twice
	Peer    net.Addr      // where the answer comes from, when it is known before

	OACK    map[string]string // what was granted
	Packets int               // DATA packets received
}

// ErrGone means that the server stopped sending.
var ErrGone = errors.New("server stopped sending")

const (
	opRead   = 1
	opData   = 3
	opAck    = 4
	opError  = 5
	opOption = 6
)

// Request returns the read request.
func (c *Client) Request() []byte {
	b := append([]byte{0, opRead}, c.Name...)
	b = append(append(b, 0), "octet\x00"...)
	for _, o := range c.Options {
		b = append(append(b, o...), 0)
	}
	return b
}

func (c *Client) ack(block uint16) error {
	packet := binary.BigEndian.AppendUint16([]byte{0, opAck}, block)
	_, err := c.Conn.WriteTo(packet, c.Peer)
	if c.Twice && err == nil {
		_, err = c.Conn.WriteTo(packet, c.Peer)
	}
	return err
}

// Fetch returns the file. A probe returns nothing.
func (c *Client) Fetch() ([]byte, error) {
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if _, err := c.Conn.WriteTo(c.Request(), net.UDPAddrFromAddrPort(c.Server)); err != nil {
		return nil, err
	}
	var file bytes.Buffer
	buffer := make([]byte, 65536)
	block, size, window, inWindow := uint16(0), 512, 1, 0
	repeats := 0
	for {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.Timeout)); err != nil {
			return nil, err
		}
		n, from, err := c.Conn.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if repeats++; repeats > 5 {
				return nil, ErrGone
			}
			if c.Peer == nil {
				_, err = c.Conn.WriteTo(c.Request(), net.UDPAddrFromAddrPort(c.Server))
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
		if c.Peer == nil {
			c.Peer = from
		}
		if from.String() != c.Peer.String() || n < 4 {
			continue
		}
		switch number := binary.BigEndian.Uint16(buffer[2:]); binary.BigEndian.Uint16(buffer) {
		case opError:
			return nil, fmt.Errorf("error %d: %s", number, bytes.TrimRight(buffer[4:n], "\x00"))
		case opOption:
			if block != 0 || file.Len() > 0 {
				continue
			}
			c.OACK = map[string]string{}
			fields := strings.Split(strings.TrimSuffix(string(buffer[2:n]), "\x00"), "\x00")
			for i := 0; i+1 < len(fields); i += 2 {
				c.OACK[fields[i]] = fields[i+1]
			}
			if v, err := strconv.Atoi(c.OACK["blksize"]); err == nil {
				size = v
			}
			if v, err := strconv.Atoi(c.OACK["windowsize"]); err == nil {
				window = v
			}
			if c.Probe {
				_, err := c.Conn.WriteTo([]byte("\x00\x05\x00\x08aborted by option negotiation\x00"), c.Peer)
				return nil, err
			}
			if err := c.ack(0); err != nil {
				return nil, err
			}
		case opData:
			c.Packets++
			if number != block+1 {
				inWindow = 0
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
