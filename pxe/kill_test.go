package pxe_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"roost/pxe"
	"roost/pxe/pxetest"
)

// TestKilledServerGivesNoAddressTwice kills the server with SIGKILL while machines get their addresses, starts it again on the same
// lease log, and goes on with other machines. Nobody gets what was acknowledged to somebody else.
func TestKilledServerGivesNoAddressTwice(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "uki")
	if err := os.WriteFile(image, random(1, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	e := errand{UKI: image, Ports: freePorts(t), Leases: t.TempDir(), Interfaces: []pxe.Interface{{Name: "lo", Mode: pxe.Own, Address: loopback,
		Network: pxe.Network{First: netip.MustParseAddr("127.1.0.1"), Last: netip.MustParseAddr("127.1.3.254")}}}}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := pxetest.NewRelay(loopback, netip.AddrPortFrom(loopback, e.Ports.DHCP))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	var mu sync.Mutex
	owner := map[netip.Addr]int{}
	for life := range 4 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), errandVariable+"="+string(text))
		in, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var work sync.WaitGroup
		acknowledged, enough := 0, make(chan struct{})
		for n := range 150 {
			work.Go(func() {
				number := life*1000 + n
				m := &pxetest.Machine{MAC: net.HardwareAddr{0x52, 0x54, 1, 0, byte(number >> 8), byte(number)}, Arch: 7, Relay: relay, Wait: 50 * time.Millisecond, Tries: 8}
				address, err := m.Address(ctx)
				if err != nil {
					if ctx.Err() == nil && !errors.Is(err, pxetest.ErrIgnored) {
						t.Errorf("machine %d: %v", number, err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if other, ok := owner[address]; ok && other != number {
					t.Errorf("life %d: %s was given to machine %d and to machine %d", life, address, other, number)
				}
				owner[address] = number
				if acknowledged++; acknowledged == 60 {
					close(enough)
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(20 * time.Second):
			t.Errorf("life %d: only %d machines got an address", life, acknowledged)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		_ = in.Close()
		cancel()
		work.Wait()
	}
	if len(owner) < 240 {
		t.Errorf("%d addresses were acknowledged, want 240 at least", len(owner))
	}
}
