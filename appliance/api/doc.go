// Package api is the vocabulary of the control plane: hosts, their hardware and software, updates, the site, the audit
// record, and the kinds of error.
//
// The JSON of these types is the wire form and the stored form at once, so a reader of the store, of the API and of
// `roost -o json` sees one thing. The price is paid here: every stored type carries Schema, fields are only ever added,
// and a golden file per type fails the build when a name changes. Separate wire, domain and database models were
// rejected; keeping three of them equal is most of what such code does.
//
// This package holds types, parsing and validation. It does no I/O and starts nothing.
package api
