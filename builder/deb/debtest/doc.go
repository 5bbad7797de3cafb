// Package debtest makes small Debian packages, signed release files and whole archives for tests, in memory and without
// dpkg or gpg. What it makes is real: dpkg-deb reads the packages and gpgv accepts the signatures.
package debtest
