package api

import (
	"time"

	"roost/images"
)

// Release names a release on the site's shelf or in a host's slot. The manifest digest is its identity; the rest is
// for people. A slot's digest can be unknown to a host that was not told it; RootHash then identifies it.
type Release struct {
	Digest       images.Digest  `json:"digest,omitempty"`
	Name         string         `json:"name"`
	Version      images.Version `json:"version"`
	Architecture string         `json:"architecture,omitempty"`
	Kernel       string         `json:"kernel,omitempty"`
	RootHash     string         `json:"rootHash,omitempty"`
	Size         int64          `json:"size,omitempty"` // bytes in transport
	Created      time.Time      `json:"created,omitzero"`
	Current      bool           `json:"current,omitempty"` // new machines are installed with it
}

// States of an update. They are of type State so that every table prints one kind of word.
const (
	Running State = "running"
	Paused  State = "paused" // a host failed; the operator resumes or aborts
	Done    State = "done"   // nothing is left to do; Reason tells if it was aborted
)

// Update is one rollout of a release over hosts of the site. Only one may run or be paused at a time.
type Update struct {
	Schema   int    `json:"schema"` // 1
	ID       string `json:"id"`     // grows with time
	Revision int64  `json:"revision,omitempty"`

	Release     Release      `json:"release"`
	Parallelism int          `json:"parallelism"`      // workers that may be out of service at once; controllers go one by one, last
	Only        []string     `json:"only,omitempty"`   // host ids or names; every installed host when empty
	Force       bool         `json:"force,omitempty"`  // allow an older version
	State       State        `json:"state"`            // Running, Paused, Done
	Reason      string       `json:"reason,omitempty"` // why it waits or is paused, or how it ended other than well
	Hosts       []HostUpdate `json:"hosts"`            // in rollout order

	By       string    `json:"by,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
}

// HostUpdate is the part of one host in an update.
type HostUpdate struct {
	Host     string    `json:"host"` // id
	Name     string    `json:"name"`
	State    string    `json:"state"` // waiting, running, done, failed, skipped
	Phase    string    `json:"phase,omitempty"`
	Progress int       `json:"progress,omitempty"`
	Note     string    `json:"note,omitempty"` // what keeps it, while it is tried again
	Failure  *Failure  `json:"failure,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
}

// Prune is a request to take releases off the site's shelf that nothing uses, and what came of it.
type Prune struct {
	Keep    int       `json:"keep,omitempty"` // the newest of each name stay, though unused; 3 when zero
	Dry     bool      `json:"dry,omitempty"`  // only tell
	Removed []Release `json:"removed,omitempty"`
	Freed   int64     `json:"freed,omitempty"` // bytes
}
