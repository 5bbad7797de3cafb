// Package pack turns a finished tree into the artefacts of a release: root image with dm-verity data, initrd, signed UKI,
// signed boot loader, transport copies, release document, SBOM and provenance.
//
// It is the last stage of a build before anything is published. It knows no recipe file and no package format; what it
// needs of them it is handed as plain values.
//
// Promises: equal input gives equal bytes, on any machine and any number of processors. Every step is kept in the cache
// under the digest of what it was made of, so a build without changes reads a few small records, and a step that is
// repeated replaces nothing but itself. Private keys are seen as crypto.Signer only. An image that would not fit the slot
// it states is refused here, not on a machine.
//
// Rejected: one cache key for the whole (a new certificate would write the root image again); keeping unsigned and signed
// files apart by name only; one zstd frame for the transport copies (one processor's work; frames of 8 MiB cost 2 % and
// use all of them).
package pack
