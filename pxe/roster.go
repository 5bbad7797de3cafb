package pxe

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"roost/pxe/dhcp"
)

// roster remembers what machines said over DHCP, so that TFTP and HTTP know whom they talk to by the address alone. It lives in
// memory: a machine that was booting when the server restarted starts over.
type roster struct {
	mu        sync.Mutex
	byMAC     map[string]*visit
	byAddress map[netip.Addr]*visit
}

// visit is one machine's latest boot.
type visit struct {
	client  Client
	began   time.Time
	seen    time.Time
	fetched bool // it has loaded something: the next DISCOVER of its firmware is a new boot
}

const (
	maxVisits = 16384
	visitTime = 15 * time.Minute // from the last sign of life until TFTP and HTTP know a proxied machine no more
	bootPause = 2 * time.Minute  // after this silence a DISCOVER is a new boot
)

func newRoster() *roster {
	return &roster{byMAC: map[string]*visit{}, byAddress: map[netip.Addr]*visit{}}
}

// saw notes a DHCP packet of c and the address it has by now.
func (r *roster) saw(now time.Time, step dhcp.Step, c Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.byMAC[string(c.MAC)]
	if v == nil {
		r.trim(now)
		v = &visit{began: now}
		r.byMAC[string(c.MAC)] = v
	}
	firmware := c.Method != dhcp.Initrd && c.Method != dhcp.IPXE && c.Method != dhcp.IPXEUEFI
	if step == dhcp.Discovered && firmware && (v.fetched || now.Sub(v.seen) > bootPause) {
		v.began, v.fetched = now, false
	}
	had := v.client.Address
	v.client, v.seen = keep(v.client, c), now
	if step != dhcp.Requested && step != dhcp.Acked && step != dhcp.Binl {
		v.client.Address = had // not its own yet
		return
	}
	if had != c.Address && r.byAddress[had] == v {
		delete(r.byAddress, had)
	}
	if c.Address.IsValid() {
		r.byAddress[c.Address] = v
	}
}

// keep fills what the newer packet leaves out: the initrd does not repeat UUID and architecture.
func keep(old, c Client) Client {
	if c.UUID == "" {
		c.UUID = old.UUID
	}
	if !c.HasArch {
		c.Arch, c.HasArch = old.Arch, old.HasArch
	}
	return c
}

// complete adds to c what its machine said before in this boot.
func (r *roster) complete(c Client) Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.byMAC[string(c.MAC)]; v != nil {
		return keep(v.client, c)
	}
	return c
}

// trim makes room for one more visit.
func (r *roster) trim(now time.Time) {
	if len(r.byMAC) < maxVisits {
		return
	}
	oldest, when := "", now
	for mac, v := range r.byMAC {
		if now.Sub(v.seen) > visitTime {
			r.drop(mac)
		} else if v.seen.Before(when) {
			oldest, when = mac, v.seen
		}
	}
	if len(r.byMAC) >= maxVisits {
		r.drop(oldest)
	}
}

func (r *roster) drop(mac string) {
	v := r.byMAC[mac]
	if v == nil {
		return
	}
	delete(r.byMAC, mac)
	if r.byAddress[v.client.Address] == v {
		delete(r.byAddress, v.client.Address)
	}
}

// at returns the machine that was last seen with address.
func (r *roster) at(now time.Time, address netip.Addr) (Client, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.byAddress[address]
	if v == nil || now.Sub(v.seen) > visitTime {
		return Client{}, false
	}
	v.seen = now
	return v.client, true
}

// with returns the machine with a MAC.
func (r *roster) with(now time.Time, mac net.HardwareAddr) (Client, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.byMAC[string(mac)]
	if v == nil || now.Sub(v.seen) > visitTime {
		return Client{}, false
	}
	v.seen = now
	return v.client, true
}

// fetched notes that a machine loaded a file.
func (r *roster) fetched(c Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.byMAC[string(c.MAC)]; v != nil {
		v.fetched = true
	}
}

func (r *roster) began(c Client) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.byMAC[string(c.MAC)]; v != nil {
		return v.began
	}
	return time.Time{}
}
