package api

import (
	"encoding/json"
	"time"

	"roost/images"
)

// Site is what everyone may know of a site, and its few choices.
type Site struct {
	Schema   int    `json:"schema"` // 1
	Revision int64  `json:"revision,omitempty"`
	Name     string `json:"name"`
	ID       string `json:"id"` // SHA-256 of the root certificate, so two sites of one name differ

	Controllers []string      `json:"controllers"`       // API base URLs
	Root        string        `json:"root"`              // root CA certificate, PEM
	Current     images.Digest `json:"current,omitempty"` // release that new machines get
	// Operators maps the fingerprint of an operator's public key to "name role"; roles are admin, operator, reader.
	Operators map[images.Digest]string `json:"operators,omitempty"`
}

// Config is the committed configuration of one host: all that `roostd render` needs to write /etc, with no network
// and no store.
type Config struct {
	Schema         int         `json:"schema"` // 1
	Revision       int64       `json:"revision,omitempty"`
	Hostname       string      `json:"hostname"`
	Interfaces     []Interface `json:"interfaces,omitempty"` // DHCP on every interface when empty
	DNS            []string    `json:"dns,omitempty"`
	NTP            []string    `json:"ntp,omitempty"`
	Hosts          []string    `json:"hosts,omitempty"`          // "address name…" lines for /etc/hosts
	AuthorizedKeys []string    `json:"authorizedKeys,omitempty"` // of the user admin
	Provisioning   string      `json:"provisioning,omitempty"`   // MAC of the interface on which a controller serves new machines
	PXE            string      `json:"pxe,omitempty"`            // there: dhcp, proxy, or off
	Range          string      `json:"range,omitempty"`          // addresses handed out when PXE is dhcp: first-last

	Components
	Resources
}

// Interface is the wanted state of one network interface.
type Interface struct {
	MAC       string   `json:"mac"`
	DHCP      bool     `json:"dhcp,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // with prefix length
	Gateway   string   `json:"gateway,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
}

// Record is one line of the audit record: who did what to what, and how it ended. Reads are not recorded.
type Record struct {
	Schema  int       `json:"schema"` // 1
	ID      string    `json:"id"`     // grows with time
	Time    time.Time `json:"time"`
	Actor   string    `json:"actor"`   // operator/NAME, host/ID, enrolling/FINGERPRINT, manager/NAME
	Source  string    `json:"source"`  // address the request came from; empty for managers
	Action  string    `json:"action"`  // a verb and a noun: approve host
	Subject string    `json:"subject"` // host/ID, update/ID, release/DIGEST
	Result  string    `json:"result"`  // ok, or the problem's kind
	Detail  string    `json:"detail,omitempty"`
}

// Event is one change of a stored object, as the watch delivers it.
type Event struct {
	Revision int64           `json:"revision"` // resume after this one
	Kind     string          `json:"kind"`     // host, update, site, audit; "resync": list again, older events are gone
	ID       string          `json:"id"`
	Object   json.RawMessage `json:"object,omitempty"` // absent when the object was removed
}

// List is one page of objects.
type List[T any] struct {
	Items    []T    `json:"items"`
	Next     string `json:"next,omitempty"` // value of ?after= for the next page; empty on the last
	Revision int64  `json:"revision"`       // watch from here to miss nothing
}
