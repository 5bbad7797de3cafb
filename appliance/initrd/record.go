package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// bootRecord tells roostd how this boot came about; it is /run/roost/boot.json. Nothing in it is trusted by roostd
// beyond what it says about this machine itself.
type bootRecord struct {
	Origin     string          `json:"origin"` // disk, network or iso
	RootHash   string          `json:"rootHash"`
	Trial      bool            `json:"trial"`
	Began      int64           `json:"began"` // of this program, and its end: milliseconds since the kernel started
	Ended      int64           `json:"ended"`
	Disk       string          `json:"disk,omitempty"`
	Interface  string          `json:"interface,omitempty"`
	MAC        string          `json:"mac,omitempty"`
	Address    string          `json:"address,omitempty"` // with prefix length
	Gateway    string          `json:"gateway,omitempty"`
	BootServer string          `json:"bootServer,omitempty"`
	Site       json.RawMessage `json:"site,omitempty"` // as the boot server's /v1/site gave it
}

func (r *bootRecord) fromLease(l *lease) {
	r.Interface, r.MAC = l.nic, l.mac.String()
	r.Address, r.BootServer = l.address.String(), l.base
	if l.gateway != nil {
		r.Gateway = l.gateway.String()
	}
}

func (r *bootRecord) write(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot write the boot record: %v", err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("cannot write the boot record: %v", err)
	}
	return nil
}
