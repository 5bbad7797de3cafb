package api

import (
	"time"

	"roost/images"
)

// Enrolment is what an unknown machine tells the site: public facts only. The TLS connection that carries it is made
// with the same key as the request for a certificate.
type Enrolment struct {
	Schema     int           `json:"schema"`              // 1
	Request    string        `json:"request"`             // certificate request of the node key, PEM
	Authority  string        `json:"authority,omitempty"` // certificate request of another key, PEM; used only if the machine becomes a controller
	Nonce      string        `json:"nonce"`               // 32 random bytes in hexadecimal, fresh for every boot; the grant repeats it
	Origin     string        `json:"origin"`
	Release    images.Digest `json:"release,omitempty"` // what it booted
	BootMAC    string        `json:"bootMAC,omitempty"`
	Address    string        `json:"address,omitempty"`
	BootID     string        `json:"bootID,omitempty"`
	SecureBoot string        `json:"secureBoot,omitempty"`
	Vitals     *Vitals       `json:"vitals,omitempty"`
	Inventory  Inventory     `json:"inventory"`
}

// Grant is the site's signed answer to an enrolment. Document is the JSON of an [Assignment], byte for byte as signed.
type Grant struct {
	Document  []byte `json:"document"`
	Signature []byte `json:"signature"` // ASN.1 ECDSA over SHA-256 of a fixed prefix and Document
	Chain     string `json:"chain"`     // PEM: the signing CA first, up to but without the root
}

// Assignment makes a machine a host of the site. Node key, nonce, host, disk, release and time are bound by the grant's
// signature, so no part can be replayed to another machine or another boot.
type Assignment struct {
	Schema      int           `json:"schema"` // 1
	Site        string        `json:"site"`
	Root        string        `json:"root"` // root CA certificate, PEM
	Host        string        `json:"host"` // id
	Name        string        `json:"name"`
	Personality Personality   `json:"personality"`
	Fingerprint images.Digest `json:"fingerprint"` // of the node key
	Nonce       string        `json:"nonce"`
	Disk        string        `json:"disk"`
	Wipe        bool          `json:"wipe,omitempty"`
	Release     images.Digest `json:"release"`
	Repository  string        `json:"repository"` // name of the release, as the registry lists it
	Registry    string        `json:"registry"`   // base URL of the registry that has it
	Controllers []string      `json:"controllers"`
	Certificate string        `json:"certificate"`         // PEM chain of the node: leaf first, without the root
	Authority   string        `json:"authority,omitempty"` // PEM: the intermediate CA of a new controller, over the key it asked for
	Operators   []string      `json:"operators,omitempty"` // "fingerprint name role"; given to the first controller only
	Config      Config        `json:"config"`
	Time        time.Time     `json:"time"`
}

// Report is what a host tells its controller at every beat.
type Report struct {
	Schema     int        `json:"schema"` // 1
	Phase      Phase      `json:"phase"`  // Installing, Installed or InService
	BootID     string     `json:"bootID"`
	Origin     string     `json:"origin,omitempty"`
	SecureBoot string     `json:"secureBoot,omitempty"`
	Addresses  []string   `json:"addresses,omitempty"`
	Healthy    bool       `json:"healthy"`          // every gate holds
	Reason     string     `json:"reason,omitempty"` // which gate does not
	Vitals     *Vitals    `json:"vitals,omitempty"`
	Software   Software   `json:"software"`            // facts only; wishes in it are ignored
	Inventory  *Inventory `json:"inventory,omitempty"` // at the first beat of a boot and on change
	Config     int64      `json:"config,omitempty"`    // revision of the committed configuration

	Components []Component `json:"components,omitempty"`
}

// Orders are the site's wishes for one host, in answer to a report. They state what should be, never what to do next,
// so a lost or repeated answer does no harm.
type Orders struct {
	Schema   int             `json:"schema"` // 1
	Host     string          `json:"host"`
	Wanted   *Release        `json:"wanted,omitempty"`   // run this; nil: stay
	Force    bool            `json:"force,omitempty"`    // though it is older
	Attempt  string          `json:"attempt,omitempty"`  // of this wish; the host acts on each name once
	Rollback string          `json:"rollback,omitempty"` // id of a request to leave the running release
	Cleared  []images.Digest `json:"cleared,omitempty"`  // failures the operator cleared
	Config   *Config         `json:"config,omitempty"`   // when the reported revision is not the newest
	Renew    bool            `json:"renew,omitempty"`    // ask for a new certificate now
	Beat     int             `json:"beat"`               // milliseconds until the next report is due
}
