package updater

import (
	"slices"
	"time"

	"roost/images"
	"roost/updater/boot"
	"roost/updater/slot"
)

// Phase says how far an update is. The name is the wire and the stored form.
type Phase string

// The phases. Each says what is wanted now; what was done before is true already.
const (
	Idle        Phase = "idle"         // no update yet
	Fetched     Phase = "fetched"      // the release is known, verified and fits: write it
	Written     Phase = "written"      // the slot holds the bytes: read it back
	Verified    Phase = "verified"     // the slot is proven: look which gates hold
	Armed       Phase = "armed"        // put the UKI on trial, and reboot
	Trial       Phase = "trial"        // the new version runs: check the gates
	Healthy     Phase = "healthy"      // the gates hold: commit
	Committed   Phase = "committed"    // done
	RollingBack Phase = "rolling-back" // mark the version bad, and reboot
	Returned    Phase = "returned"     // the old version runs again: gather evidence, tidy
	RolledBack  Phase = "rolled-back"  // done, with evidence
	Failed      Phase = "failed"       // given up before the trial, with a reason; what ran still runs
)

// Busy reports whether an update is under way.
func (p Phase) Busy() bool {
	return !slices.Contains([]Phase{Idle, Committed, RolledBack, Failed, ""}, p)
}

// Cause says why a machine left a version.
type Cause string

// The causes.
const (
	CauseGate      Cause = "gate"      // a gate that held before did not hold in time
	CausePanic     Cause = "panic"     // the tries were used up, and the kernel left a record
	CauseHang      Cause = "hang"      // the tries were used up, without a record: hung, reset, or panicked too early to keep one
	CauseFirmware  Cause = "firmware"  // the firmware did not load the UKI
	CausePassed    Cause = "passed"    // the loader started another version though tries were left
	CauseVanished  Cause = "vanished"  // the UKI is gone from the EFI system partition
	CauseRequested Cause = "requested" // an operator wanted it
)

// State is the journal of the update machine, as stored and as shown. The zero value is Idle.
type State struct {
	Phase  Phase           `json:"phase"`
	Since  time.Time       `json:"since"`            // when the phase was entered
	Target *Target         `json:"target,omitempty"` // the release that is installed, or that is left
	From   *slot.Installed `json:"from,omitempty"`   // the release to return to; nil when there is none left
	Slot   slot.ID         `json:"slot,omitempty"`   // that gets the target; empty when only the UKI changes
	Boot   string          `json:"boot,omitempty"`   // kernel boot id in which the phase was entered

	Done bool `json:"done,omitempty"` // Armed: the UKI is in place; RollingBack: the mark is. Only the reboot is left.

	Before []Result  `json:"before,omitempty"` // gates before arming
	Gates  []Result  `json:"gates,omitempty"`  // gates as last checked on trial
	Streak int       `json:"streak,omitempty"` // rounds in a row that passed
	Starts int       `json:"starts,omitempty"` // boots of the target that reached the daemon
	Reason string    `json:"reason,omitempty"` // of Failed
	Left   *Evidence `json:"left,omitempty"`   // why the target was left

	Refused []Refusal      `json:"refused,omitempty"` // failed versions, until cleared
	Floor   images.Version `json:"floor,omitempty"`   // versions below are refused for good
}

// Target is a release as the journal knows it.
type Target struct {
	slot.Installed
	Reference string        `json:"reference"` // where it is fetched from, as the request said
	Root      images.Part   `json:"root"`
	Verity    images.Part   `json:"verity"`
	Update    images.Update `json:"update"`
	Gates     []images.Gate `json:"gates,omitempty"`
}

// ukiOf returns a release's UKI as the partition knows it.
func ukiOf(i slot.Installed) boot.UKI {
	return boot.UKI{Base: i.File, Digest: i.UKI.Digest, Size: i.UKI.Size}
}

// Result is what one gate said.
type Result struct {
	Name   string `json:"name"`
	Held   bool   `json:"held"`
	Output string `json:"output,omitempty"` // last lines, for people
}

// Evidence is why a machine left a version.
type Evidence struct {
	Cause  Cause    `json:"cause"`
	Detail string   `json:"detail"`
	Gates  []Result `json:"gates,omitempty"`  // that failed
	Boot   string   `json:"boot,omitempty"`   // kernel boot id of the failed boot; empty when no daemon came up in it
	Tries  int      `json:"tries"`            // boots spent
	Log    []string `json:"log,omitempty"`    // last lines of the failed boot
	Pstore []string `json:"pstore,omitempty"` // what the kernel left behind, a record each
}

// Refusal is a version that is not installed again until an operator clears it.
type Refusal struct {
	Manifest images.Digest  `json:"manifest"`
	Version  images.Version `json:"version"`
	Cause    Cause          `json:"cause"`
	At       time.Time      `json:"at"`
}

// Machine is what the update machine must know of the machine to judge a request.
type Machine struct {
	Boot         string // kernel boot id
	Architecture string
	Running      slot.Installed  // Manifest is empty when no record of it is left
	Fallback     *slot.Installed // what a rollback would return to; nil when there is nothing
	Spare        slot.Slot       // the slot that does not run
	Room         int64           // bytes that the EFI system partition can give, see boot.ESP.Room
}

// Action is what has to be done now.
type Action string

// The actions. Each may be performed any number of times.
const (
	None     Action = ""         // wait for an event
	Write    Action = "write"    // remove UKIs of the spare slot, write the parts into it → Did
	Verify   Action = "verify"   // read the slot back and make it findable → Did, Damaged
	Snapshot Action = "snapshot" // check the gates once → Round
	Arm      Action = "arm"      // put the UKI on trial → Did
	Reboot   Action = "reboot"   // → Started, after it
	Check    Action = "check"    // check the gates after a pause → Round
	Commit   Action = "commit"   // make the UKI good → Did
	MarkBad  Action = "mark-bad" // put the target's UKI behind all others → Did
	Gather   Action = "gather"   // collect evidence of the failed boot → Found
)
