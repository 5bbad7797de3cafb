// Package keys holds the private keys of an image builder: who may sign what boots, and who may sign a release.
//
// A set is a directory made by [Init]: three Secure Boot keys (PK, KEK and db, RSA-2048, since that is what every UEFI
// firmware verifies) and one release key (ECDSA P-256). The package exists so that nothing else ever touches key bytes:
// every other package is handed a [crypto.Signer] and cannot tell a file from a token.
//
// Promises: a set is never overwritten; private keys are readable by their owner only, and a set that others can read is
// refused; what is exported is public. Enrolment artefacts (EFI signature lists and authenticated variable updates) are
// derived from the set on demand, so they cannot go stale beside it.
//
// Rejected: one key for everything (Secure Boot firmware needs RSA, cosign wants ECDSA, and a leaked release key must not
// boot machines); encrypted key files (an interactive passphrase does not fit a builder; put the key in a token instead).
package keys
