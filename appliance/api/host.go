package api

import (
	"slices"
	"strings"
	"time"

	"roost/images"
)

// Phase is how far a machine has come from being found to being part of the site. Phases only grow, except that an
// approval to reinstall leads from InService back to Approved.
type Phase string

// The phases of a host, in order.
const (
	Discovered Phase = "discovered" // it reported itself and waits for an operator
	Approved   Phase = "approved"   // an operator gave it a personality and a release; it has not fetched the grant yet
	Installing Phase = "installing" // it holds a certificate and writes its disk
	Installed  Phase = "installed"  // its disk is written; the reboot from that disk is awaited
	InService  Phase = "in-service" // it joined from its own disk with its own certificate
)

// State is one word of the three host states of ITU-T X.731, or the state of an update.
type State string

// Administrative (what operators permit), operational (whether it can work) and availability (how well it does).
const (
	Locked    State = "locked"
	Unlocked  State = "unlocked"
	Disabled  State = "disabled"
	Enabled   State = "enabled"
	Offline   State = "offline"   // not heard of
	Online    State = "online"    // heard of, not in service
	Available State = "available" // in service, every gate holds
	Failed    State = "failed"    // in service, but a gate does not hold
)

// Personality is what a host does on the site.
type Personality string

// Validate checks p against the closed list of personalities.
func (p Personality) Validate() error {
	known := []string{"controller", "worker", "storage", "all-in-one", "witness"}
	if !slices.Contains(known, string(p)) {
		return Invalid.Errorf("cannot use personality %q: want one of %s", p, strings.Join(known, ", "))
	}
	return nil
}

// Controls reports whether hosts of this personality run the site's store and API.
func (p Personality) Controls() bool { return p == "controller" || p == "all-in-one" }

// Carries reports whether hosts of this personality are there for loads: virtual machines run on them.
func (p Personality) Carries() bool { return p == "worker" || p == "all-in-one" }

// Host is one machine as the site knows it. Its hardware in full is its [Inventory], kept beside it.
type Host struct {
	Schema   int    `json:"schema"` // 1
	ID       string `json:"id"`     // lower-case UUID given at first sight, never reused
	Name     string `json:"name"`   // unique on the site; a DNS label
	Revision int64  `json:"revision,omitempty"`

	Phase          Phase       `json:"phase"`
	Personality    Personality `json:"personality,omitempty"` // empty until approved
	Administrative State       `json:"administrative"`
	Operational    State       `json:"operational"`
	Availability   State       `json:"availability"`
	Reason         string      `json:"reason,omitempty"` // why it is not available, or what it waits for; one sentence

	Fingerprint images.Digest `json:"fingerprint"`      // of the node key: SHA-256 of its PKIX public key
	UUID        string        `json:"uuid,omitempty"`   // SMBIOS system UUID; may be shared or absent on poor boards
	Serial      string        `json:"serial,omitempty"` // SMBIOS system serial
	Product     string        `json:"product,omitempty"`
	MACs        []string      `json:"macs"` // lower case, sorted; the boot interface is BootMAC
	BootMAC     string        `json:"bootMAC,omitempty"`
	Rivals      []string      `json:"rivals,omitempty"` // ids of live hosts that claim the same UUID or MAC with another key
	Addresses   []string      `json:"addresses,omitempty"`
	Origin      string        `json:"origin,omitempty"`     // of the running boot: disk, network, iso, container
	SecureBoot  string        `json:"secureBoot,omitempty"` // enabled, disabled, setup, unsupported
	BootID      string        `json:"bootID,omitempty"`     // of the running kernel

	Processors int    `json:"processors,omitempty"` // logical CPUs
	Memory     int64  `json:"memory,omitempty"`     // bytes
	Storage    int64  `json:"storage,omitempty"`    // bytes of all disks that can be installed to
	Disk       string `json:"disk,omitempty"`       // install target: a /dev path or a stable id from the inventory

	Vitals *Vitals `json:"vitals,omitempty"` // as last written with LastSeen

	Approval *Approval `json:"approval,omitempty"` // the last one
	Software Software  `json:"software"`

	Components []Component `json:"components,omitempty"` // of the site's cloud that this host runs, and how far each is

	FirstSeen time.Time `json:"firstSeen"`
	LastSeen  time.Time `json:"lastSeen"` // coarse: rewritten when anything changes, else every half minute
}

// Vitals is what a boot of a machine cost. Zero is unknown.
type Vitals struct {
	Daemon int64 `json:"daemon,omitempty"` // resident memory of roostd in bytes
	Used   int64 `json:"used,omitempty"`   // memory in use on the machine in bytes, all that is not available for programs
	Peak   int64 `json:"peak,omitempty"`   // the most of it that the daemon has seen in this boot
	// Boot phases in milliseconds. Firmware and loader are as the firmware's clock has them.
	Firmware  int64 `json:"firmware,omitempty"`  // until the boot loader
	Loader    int64 `json:"loader,omitempty"`    // until the kernel
	Kernel    int64 `json:"kernel,omitempty"`    // until the initrd's first program
	Initrd    int64 `json:"initrd,omitempty"`    // until systemd
	Userspace int64 `json:"userspace,omitempty"` // until every unit is up
}

// Software is what a host runs and what it was asked to run.
type Software struct {
	Running  *Release `json:"running,omitempty"`  // as the host reports it
	Fallback *Release `json:"fallback,omitempty"` // what the other slot holds, if it is bootable
	Slot     string   `json:"slot,omitempty"`     // a or b
	Trial    bool     `json:"trial,omitempty"`    // the running boot is not committed yet

	Wanted   *Release        `json:"wanted,omitempty"`   // the wish; nil: stay with what runs
	Force    bool            `json:"force,omitempty"`    // the wanted release may be older
	Attempt  string          `json:"attempt,omitempty"`  // names the wish; a wish made again gets another name
	Rollback string          `json:"rollback,omitempty"` // id of a requested rollback, until the host reports it as handled
	Cleared  []images.Digest `json:"cleared,omitempty"`  // failures an operator cleared, until the host no longer reports them

	Attempted string `json:"attempted,omitempty"` // the last wish that the host acted on; what follows came of it

	Phase    string    `json:"phase,omitempty"`    // of the update engine, see package updater; or "refused", when it did not begin
	Progress int       `json:"progress,omitempty"` // percent of the phase
	Error    string    `json:"error,omitempty"`    // why the phase does not move
	Failures []Failure `json:"failures,omitempty"` // releases this host refuses until cleared, newest first

	Kept *KeptState `json:"kept,omitempty"` // what a return to the release before would find again
}

// KeptState is the copy of components' state that a host took before a new release could change it.
type KeptState struct {
	Before      images.Version `json:"before,omitempty"`      // the release that may have changed the state since
	Directories []string       `json:"directories,omitempty"` // that a return restores
	Bytes       int64          `json:"bytes,omitempty"`
	Seconds     int            `json:"seconds,omitempty"` // that the boot took longer for it
	Time        time.Time      `json:"time,omitzero"`     // of which the copy is
	Returned    time.Time      `json:"returned,omitzero"` // when it was put back, should it have been
	Trouble     string         `json:"trouble,omitempty"` // why it could not be taken or put back
}

// Failure is the evidence of a release that did not hold on a host.
type Failure struct {
	Release images.Digest  `json:"release"` // manifest digest
	Version images.Version `json:"version,omitempty"`
	Gate    string         `json:"gate,omitempty"`   // name of the gate that did not pass; empty when the kernel never spoke
	Reason  string         `json:"reason"`           // one sentence
	Log     []string       `json:"log,omitempty"`    // last lines of the failed boot, oldest first
	Source  string         `json:"source,omitempty"` // where Log was found: journal, pstore
	Time    time.Time      `json:"time"`
}

// Refuses reports whether the host will not take the release until an operator clears it.
func (s *Software) Refuses(release images.Digest) bool {
	return slices.ContainsFunc(s.Failures, func(f Failure) bool { return f.Release == release })
}

// Approval is an operator's decision to admit a machine, and the body of POST /v1/hosts/{host}/approve.
type Approval struct {
	Personality Personality   `json:"personality"`
	Name        string        `json:"name,omitempty"`        // keep the host's name when empty
	Fingerprint images.Digest `json:"fingerprint,omitempty"` // must equal the host's when given; required when it has rivals
	Release     images.Digest `json:"release,omitempty"`     // the site's current release when empty
	Disk        string        `json:"disk,omitempty"`        // the smallest sufficient disk when empty
	Wipe        bool          `json:"wipe,omitempty"`        // the disk may hold something
	Resources   *Resources    `json:"resources,omitempty"`   // those of the site's configuration when nil
	By          string        `json:"by,omitempty"`          // set by the server
	Time        time.Time     `json:"time,omitzero"`         // set by the server
}

// Validate checks what can be checked without the host: the personality, the resources, and the name, which must be one DNS
// label so that it can be a host name and part of a file name.
func (a *Approval) Validate() error {
	if err := a.Personality.Validate(); err != nil {
		return err
	}
	if a.Resources != nil {
		if err := a.Resources.Validate(); err != nil {
			return err
		}
	}
	if len(a.Name) > 63 {
		return Invalid.Errorf("cannot use host name %q: longer than 63 characters", a.Name)
	}
	for i, c := range []byte(a.Name) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (c != '-' || i == 0 || i == len(a.Name)-1) {
			return Invalid.Errorf("cannot use host name %q: want a-z, 0-9 and inner hyphens", a.Name)
		}
	}
	return nil
}
