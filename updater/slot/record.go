package slot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"roost/images"
	"roost/images/durable"
)

// Installed is a release that this machine holds in a slot. The root image cannot say it: the digest of a manifest cannot
// be inside what the manifest names.
type Installed struct {
	Manifest images.Digest  `json:"manifest"` // identity of the release; empty when the record was lost
	Name     string         `json:"name"`
	Version  images.Version `json:"version"`
	RootHash string         `json:"rootHash"`
	UKI      images.Part    `json:"uki"`
	File     string         `json:"file"` // name of the UKI without counters and ".efi"
}

// Records is the file slots.json: which releases the slots of this machine hold, newest record first. Releases that
// differ in the UKI only share a slot.
type Records struct {
	Dir *durable.Dir
}

const recordsFile = "slots.json"

// List returns all records; none when the file is missing.
func (r Records) List() ([]Installed, error) {
	data, err := r.Dir.Read(recordsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Installed
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", recordsFile, err)
	}
	return list, nil
}

// Put records a release and forgets those that keep refuses.
func (r Records) Put(installed Installed, keep func(Installed) bool) error {
	list, err := r.List()
	if err != nil {
		list = nil // a damaged file would block every update; the partition table tells most of it
	}
	list = slices.DeleteFunc(list, func(i Installed) bool { return i.Manifest == installed.Manifest || !keep(i) })
	data, err := json.MarshalIndent(append([]Installed{installed}, list...), "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", recordsFile, err)
	}
	return r.Dir.Write(recordsFile, append(data, '\n'))
}
