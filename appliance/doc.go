// Package appliance puts the parts of roostd together, by hand and in one visible order.
//
// A machine is one of three things, and [Run] decides which by its boot record and its identity:
//
//   - unknown, booted from the network or a disc: [Discovery] reports it to the site and installs what the site grants;
//   - installed worker: [Node] reports facts, obeys wishes, keeps the certificate fresh;
//   - installed controller: a node, and [Control]: store, managers, API, registry and boot server.
//
// The seed, which makes a site's first controller, is the same Control with the site's root key and a selector instead of
// an operator's approval ([OpenSeed]); so nothing is special about the first controller but who signed it.
package appliance
