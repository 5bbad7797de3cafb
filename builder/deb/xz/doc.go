// Package xz unpacks the .xz format (version 1.1.0 of its specification) as Debian uses it: streams of LZMA2 blocks,
// with every check value verified.
//
// It exists for speed. Unpacking is the largest part of a cold build: packages come as xz, and again every kernel module
// in them. It is written for today's processors: chunks are decoded from one flat buffer into another, without bounds
// checks in the loops over bits, and bits that cannot be predicted are selected by masks instead of branches.
//
// Promises: output equals that of liblzma, or is an error; what is read before an error passed no check yet and must not
// be used; memory is bounded by the limit given for the dictionary, and grows only with what is really unpacked.
//
// Left out: the filters for executables and delta coding, which dpkg-deb and kbuild do not use, and LZMA1 (.lzma).
//
// Rejected: github.com/ulikunitz/xz and github.com/therootcompany/xz, both correct and pure Go, and both slower (see
// BenchmarkDecoders); liblzma by cgo, since the builder must be cross-built from any machine with Go alone.
package xz
