// Package depot finds, reads, publishes and copies releases on three kinds of shelf: an OCI layout directory, a
// single-file archive of one (a tar, read in place), and any OCI registry. It also is a registry: [Registry] serves a layout
// directory over HTTP (OCI distribution 1.1).
//
// A release lies in repository <name> under tag <version>; in a layout the annotation org.opencontainers.image.ref.name
// says <name>:<version>. Its signatures lie beside it under the tag sha256-<hex>.sig, its SBOM and provenance are
// referrers, listed by the index tagged sha256-<hex>. So a copy made by another OCI tool is still a release.
//
// Promises: nothing is held in memory but documents of bounded size; a reader returns io.EOF only after all bytes matched
// their digest; a broken or stalled connection is resumed where it stopped, and given up with a clear error when that does
// not help; what was there before is never damaged by a write that fails, since blobs and manifests come first, each
// complete and synced, and the tag last; publishing or copying again does only what is missing.
//
// A depot does not judge: it hands out what release.Verify needs, and whoever runs a release asks that first.
//
// go-containerregistry names and authenticates; its blob transfers are not used because they can neither resume nor give
// up on a stalled peer, and its layout and registry packages because they are not safe against power loss. containers/image
// has a room of its own (package policy), which only the operator's command links.
package depot
