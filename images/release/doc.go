// Package release says what a release is in bytes and whether to trust it: bytes in, verdict out, no I/O.
//
// A release is an OCI image manifest whose config is the release document and whose layers are the four parts. This
// package builds and parses that manifest, signs its digest, and judges a release against a [Policy]. The signature is
// cosign's: a "simple signing" payload that names the manifest digest and the release's fixed logical name, signed with
// ECDSA P-256 over SHA-256, kept beside the release under the tag sha256-<hex>.sig. So `cosign verify --key` and
// containers/image's sigstoreSigned policy accept what this package accepts, from any registry and with no service online.
//
// Promises: [Verify] returns a verdict only when one of the policy's keys signed exactly this manifest under exactly this
// name, and every later byte is named by a digest in that manifest. Everything that is parsed is bounded and strict, so no
// two readers see two documents. Errors tell apart what an operator treats differently: nothing signed it, somebody
// else signed it, it was changed, it is another release than the one asked for, it is too old.
//
// Rejected: OpenPGP (no HSM path worth the name, no registry convention), keyless Sigstore (needs services that an
// isolated site has not), TUF (its place is above this: which release should run; not whether these bytes are whole),
// and linking sigstore's own libraries into a daemon, for twenty lines of ECDSA.
package release
