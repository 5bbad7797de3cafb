package store

import (
	"fmt"
	"strings"

	"roost/appliance/api"
)

// FindHost returns the host that ref names: its name, its id, or a beginning (of 6 or more characters) of its id or of
// the digits of its key's fingerprint that no other host shares.
func FindHost(tx *Tx, ref string) (*api.Host, error) {
	if ref == "" || strings.Contains(ref, "/") {
		return nil, api.Invalid.Errorf("cannot find host %q: not a name or an id", ref)
	}
	if h := Hosts().Get(tx, ref); h != nil {
		return h, nil
	}
	var found []*api.Host
	for _, h := range Hosts().Scan(tx) {
		if h.Name == ref {
			return Hosts().Get(tx, h.ID), nil
		}
		if len(ref) >= 6 && (strings.HasPrefix(h.ID, ref) || strings.HasPrefix(h.Fingerprint.Hex(), strings.TrimPrefix(ref, "sha256:"))) {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 0:
		return nil, &api.Problem{Kind: api.NotFound, Detail: fmt.Sprintf("cannot find host %q: no host has this name, id or fingerprint", ref),
			Hint: "roost host list shows all; a machine that left for a day is forgotten until it boots from the network again"}
	case 1:
		return Hosts().Get(tx, found[0].ID), nil
	}
	return nil, api.Conflict.Errorf("cannot find host %q: %d hosts begin with it", ref, len(found))
}

// Actor is who causes a change: operator/NAME, host/ID, enrolling/FINGERPRINT or manager/NAME, and the address they
// speak from.
type Actor struct{ Name, Source string }

// Audit adds a line to the audit record, in the transaction of the change it tells of.
func (tx *Tx) Audit(by Actor, action, subject, detail string) {
	tx.AuditResult(by, action, subject, "ok", detail)
}

// AuditResult is Audit for changes that were refused.
func (tx *Tx) AuditResult(by Actor, action, subject, result, detail string) {
	Records().Put(tx, &api.Record{
		Schema: 1, ID: tx.NextID(), Time: tx.now, Actor: by.Name, Source: by.Source,
		Action: action, Subject: subject, Result: result, Detail: detail,
	})
}
