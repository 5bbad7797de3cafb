package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
)

// Addresses on a wire.
const (
	serverAddress = "10.77.0.1"
	machines      = 32 // addresses of the client's side: 10.77.1.1 and on
)

// wire is two network namespaces joined by a cable: "server" with 10.77.0.1/16 on eth0, and "client" with 10.77.0.2/16
// and an address for each of the machines it plays. Both share this computer's processors, so what a client spends, a
// server does not get; that is the same for all.
type wire struct{ name string }

// lay makes a wire. The caller removes it with cut.
func lay(ctx context.Context) (*wire, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run with sudo")
	}
	w := &wire{name: fmt.Sprintf("roost-bench-%06x", rand.Uint32()&0xffffff)}
	steps := [][]string{
		{"netns", "add", w.name + "-server"}, {"netns", "add", w.name + "-client"},
		{"-n", w.name + "-server", "link", "set", "lo", "up"}, {"-n", w.name + "-client", "link", "set", "lo", "up"},
		{"-n", w.name + "-server", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", w.name + "-client"},
		{"-n", w.name + "-server", "address", "add", serverAddress + "/16", "dev", "eth0"},
		{"-n", w.name + "-client", "address", "add", "10.77.0.2/16", "dev", "eth0"},
		{"-n", w.name + "-server", "link", "set", "eth0", "up"}, {"-n", w.name + "-client", "link", "set", "eth0", "up"},
	}
	for n := range machines {
		steps = append(steps, []string{"-n", w.name + "-client", "address", "add", machineAddress(n) + "/16", "dev", "eth0"})
	}
	for _, step := range steps {
		if _, err := output(ctx, append([]string{"ip"}, step...)...); err != nil {
			w.cut()
			return nil, err
		}
	}
	return w, nil
}

// cut removes the wire, also after ctx has ended.
func (w *wire) cut() {
	for _, side := range []string{"server", "client"} {
		// A side that was never made is no reason to stop removing.
		_, _ = output(context.Background(), "ip", "netns", "del", w.name+"-"+side)
	}
}

// in is a command line that runs on one side of the wire.
func (w *wire) in(side string, arguments ...string) []string {
	return append([]string{"ip", "netns", "exec", w.name + "-" + side}, arguments...)
}

func machineAddress(n int) string { return fmt.Sprintf("10.77.1.%d", n+1) }
