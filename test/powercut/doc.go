// Package powercut proves what a machine does after a power cut at any moment of an update.
//
// The writes and flushes of a disk are recorded, by QEMU's blklogwrites driver under a real machine ([Open]) or by a device in
// memory under the updater's own code ([Recorder]). From the record every disk that a power cut could have left is rebuilt
// ([Log.States], [Log.Image]): all that was flushed, and of what came after any part, in any order, torn inside a write. A test
// then judges each of them with the model of the boot loader and with dm-verity, by reading the bytes ([ReadFAT]).
//
// Killing the emulator proves nothing, for the host's page cache keeps what the guest never flushed; only a record of the
// flushes does.
package powercut
