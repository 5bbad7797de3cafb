package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// qmp is a connection to a machine's control socket (QEMU Machine Protocol specification).
type qmp struct {
	conn net.Conn
	dec  *json.Decoder
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

// dialQMP connects and leaves capability negotiation mode.
func dialQMP(ctx context.Context, socket string) (*qmp, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the machine's control socket: %w", err)
	}
	q := &qmp{conn: conn, dec: json.NewDecoder(conn)}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		conn.Close()
		return nil, err
	}
	var greeting json.RawMessage
	if err := q.dec.Decode(&greeting); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot talk to the machine's control socket: %v", err)
	}
	if _, err := q.execute("qmp_capabilities", nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) close() { q.conn.Close() }

// execute runs one command and returns its result. Events in between are dropped.
func (q *qmp) execute(command string, arguments any) (json.RawMessage, error) {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	b, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("cannot send %s to the machine: %v", command, err)
	}
	for {
		var m qmpMessage
		if err := q.dec.Decode(&m); err != nil {
			return nil, fmt.Errorf("cannot read the machine's answer to %s: %v", command, err)
		}
		switch {
		case m.Error != nil:
			return nil, fmt.Errorf("the machine refuses %s: %s", command, m.Error.Desc)
		case m.Return != nil:
			return m.Return, nil
		case m.Event == "":
			return nil, errors.New("cannot understand the machine's control socket")
		}
	}
}

// qmpCommand is one command and its arguments.
type qmpCommand struct {
	name      string
	arguments any
}

// all runs commands until one fails.
func (q *qmp) all(commands ...qmpCommand) error {
	for _, c := range commands {
		if _, err := q.execute(c.name, c.arguments); err != nil {
			return err
		}
	}
	return nil
}
