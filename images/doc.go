// Package images is the shared vocabulary of Roost: what a release is.
//
// A release is one version of one recipe for one architecture: a unified kernel image (UKI), a read-only root image with
// its dm-verity data, and the papers that go with them. It is stored as an OCI artifact whose config is the [Release]
// document, so any OCI registry or layout directory can hold it; the digest of its manifest is its identity.
//
// This package holds types, parsing and validation. It does no I/O. Subpackages hold one format or one promise each.
package images
