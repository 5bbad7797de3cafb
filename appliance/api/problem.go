package api

import (
	"errors"
	"fmt"
)

// Kind says which of the few ways to fail a request met, for code that must choose what to do next. The server turns
// kinds into HTTP statuses and RFC 9457 problem types in one place.
type Kind string

// The kinds of error. The zero Kind is a fault of the server itself.
const (
	Invalid  Kind = "invalid"   // the request cannot be right, whatever the state: correct it
	NotFound Kind = "not-found" // it names something that is not there
	Conflict Kind = "conflict"  // it does not fit the present state: look, then decide
	Denied   Kind = "denied"    // the caller may not do this
	Busy     Kind = "busy"      // too much at once: try again later
	Gone     Kind = "gone"      // it was there and has left, or the asked-for history is compacted
)

// Problem is an error of the API in the form of RFC 9457 (application/problem+json).
type Problem struct {
	Type   string `json:"type"`   // "urn:roost:problem:" and the kind; about:blank for faults of the server
	Title  string `json:"title"`  // the kind in words
	Status int    `json:"status"` // HTTP status
	Detail string `json:"detail"` // what happened, in the form "cannot VERB OBJECT: cause"
	Hint   string `json:"hint,omitempty"`
	Kind   Kind   `json:"kind,omitempty"`
}

// Errorf returns a problem of this kind with a formatted detail.
func (k Kind) Errorf(format string, args ...any) *Problem {
	return &Problem{Kind: k, Detail: fmt.Sprintf(format, args...)}
}

// In reports whether the first problem in err's chain is of this kind.
func (k Kind) In(err error) bool {
	var p *Problem
	return errors.As(err, &p) && p.Kind == k
}

func (p *Problem) Error() string {
	if p.Hint != "" {
		return p.Detail + " (" + p.Hint + ")"
	}
	return p.Detail
}
