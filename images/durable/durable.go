// Package durable keeps small files that survive power loss.
//
// A journal that says "slot B is written" is worth nothing when the file that holds it can come back empty, half new or
// not at all. [Dir] promises: when Write, Create or Remove has returned nil, its effect survives a power cut; when power
// goes before it returned, a reader later finds the whole old file or the whole new one, never a mixture and never a
// file of the right length without content.
//
// It does what POSIX requires for that and no more: write a hidden temporary file, fsync it, rename it over the name,
// fsync the directory. Dir stands on the small interface [Medium], so the same code runs on a real directory ([Open]) and on
// a medium that loses power at any operation (package durabletest); what is crash-tested is what ships.
//
// Rejected: an embedded database (bbolt, SQLite) for a handful of JSON documents that people must be able to read with
// cat on a broken machine; O_SYNC writes in place, which tear; rename without the directory's fsync, which ext4 forgives
// by accident of its mount options and FAT does not.
//
// One process owns a directory. Dir serialises its own writers; two processes writing one name would share a temporary.
package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

// Medium is a flat directory as hardware gives it: nothing lasts until it is synced.
type Medium interface {
	Create(name string) (File, error)           // opens for writing, truncated
	ReadFile(name string) ([]byte, error)       // the content as the running system sees it
	Rename(from, to string, replace bool) error // atomic; without replace an existing to is fs.ErrExist
	Remove(name string) error                   // a missing name is fs.ErrNotExist
	Names() ([]string, error)                   // in any order
	Sync() error                                // makes names (not content) last
}

// File is an open file of a Medium.
type File interface {
	io.WriteCloser
	Sync() error // makes content (not the name) last
}

// Dir is a directory of files that survive power loss. It is safe for concurrent use.
type Dir struct {
	mu     sync.Mutex
	medium Medium
}

// On returns a Dir on medium. It removes temporaries that an earlier life left and syncs, so that whatever a reader sees
// from now on is also what a power cut would leave.
func On(medium Medium) (*Dir, error) {
	d := &Dir{medium: medium}
	names, err := medium.Names()
	if err != nil {
		return nil, fmt.Errorf("cannot list directory: %w", err)
	}
	for _, name := range names {
		if !isTemporary(name) {
			continue
		}
		if err := medium.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot remove leftover %s: %w", name, err)
		}
	}
	if err := medium.Sync(); err != nil {
		return nil, fmt.Errorf("cannot sync directory: %w", err)
	}
	return d, nil
}

// Read returns the content of name; a missing file is fs.ErrNotExist.
func (d *Dir) Read(name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	data, err := d.medium.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return data, nil
}

// Write sets the content of name, replacing it as a whole. After an error the old content or the new one is there.
func (d *Dir) Write(name string, data []byte) error {
	_, err := d.WriteFrom(name, bytes.NewReader(data))
	return err
}

// WriteFrom is Write for content that is too large for memory. When r fails, name keeps its old content.
func (d *Dir) WriteFrom(name string, r io.Reader) (int64, error) {
	return d.put(name, r, true)
}

// Create writes a file that must not exist yet, else it fails with fs.ErrExist and changes nothing.
func (d *Dir) Create(name string, data []byte) error {
	_, err := d.put(name, bytes.NewReader(data), false)
	return err
}

// Remove deletes name. Removing what is not there is no error, so that a step may run twice.
func (d *Dir) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.medium.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", name, err)
	}
	return d.sync()
}

// List returns the names of all files, sorted.
func (d *Dir) List() ([]string, error) {
	names, err := d.medium.Names()
	if err != nil {
		return nil, fmt.Errorf("cannot list directory: %w", err)
	}
	names = slices.DeleteFunc(names, isTemporary)
	slices.Sort(names)
	return names, nil
}

// Sync makes what was done to the directory by other means last too.
func (d *Dir) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sync()
}

func (d *Dir) sync() error {
	if err := d.medium.Sync(); err != nil {
		return fmt.Errorf("cannot sync directory: %w", err)
	}
	return nil
}

func (d *Dir) put(name string, r io.Reader, replace bool) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	temporary := "." + name + temporarySuffix
	n, err := d.fill(temporary, r)
	if err == nil {
		err = d.medium.Rename(temporary, name, replace)
	}
	if err != nil {
		_ = d.medium.Remove(temporary) // the first error tells the story; On removes what stays
		return n, fmt.Errorf("cannot write %s: %w", name, err)
	}
	return n, d.sync()
}

func (d *Dir) fill(name string, r io.Reader) (int64, error) {
	f, err := d.medium.Create(name)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	return n, errors.Join(err, f.Close())
}

const temporarySuffix = ".tmp"

func isTemporary(name string) bool {
	return strings.HasPrefix(name, ".") && strings.HasSuffix(name, temporarySuffix)
}

// checkName refuses what is not a plain file name: a Dir is flat, and a name from outside must not leave it.
func checkName(name string) error {
	if name == "." || !fs.ValidPath(name) || path.Base(name) != name || strings.ContainsRune(name, 0) || isTemporary(name) {
		return fmt.Errorf("cannot use %q as a file name: %w", name, fs.ErrInvalid)
	}
	return nil
}
