package ceph

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"roost/appliance/api"
)

// osd is what this host notes of an OSD before it makes it.
type osd struct {
	Path      string `json:"path"` // of the disk, as the document names it
	UUID      string `json:"uuid"`
	Key       string `json:"key"` // with which the OSD shows who it is
	ID        int    `json:"id"`  // that the cluster gave it; -1 before
	Encrypted bool   `json:"encrypted,omitempty"`
	Made      bool   `json:"made,omitempty"` // to the end; before, what the disk holds is of no worth
}

// notesFile keeps the notes of all OSDs of this host.
const notesFile = "osds.json"

// notes reads what is noted, by the path of the disk.
func (h *Host) notes() (map[string]osd, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.readNotes()
}

func (h *Host) readNotes() (map[string]osd, error) {
	list := map[string]osd{}
	b, err := h.Keys.Read(notesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which OSDs this host has: %w", err)
	}
	return list, nil
}

// note changes what is noted of one disk; nil forgets it.
func (h *Host) note(path string, o *osd) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	list, err := h.readNotes()
	if err != nil {
		return err
	}
	delete(list, path)
	if o != nil {
		list[path] = *o
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = h.Keys.Write(notesFile, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot note the OSD of disk %s: %w", path, err)
	}
	return nil
}

// deed is what is to be done with a disk.
type deed string

const (
	nothing deed = "nothing" // gone, and its OSD too
	refuse  deed = "refuse"
	create  deed = "create" // make it an OSD, or go on with that
	adopt   deed = "adopt"  // an OSD of this cluster which this host has not noted
	serve   deed = "serve"  // its OSD is made
	purge   deed = "purge"  // its OSD leaves the cluster
)

// judge decides what is to be done with a disk, and says why it is refused. noted is nil for a disk without an OSD, found for
// one that does not answer, which is because of trouble.
func judge(disk api.CephDisk, noted *osd, found *contents, trouble error, fsid string) (deed, error) {
	switch {
	case disk.Gone && noted == nil:
		return nothing, nil
	case disk.Gone && found.is(noted):
		return refuse, fmt.Errorf("disk %s is said to be gone, but answers, and OSD %d is on it: take it out first", disk.Path, noted.ID)
	case disk.Gone:
		return purge, nil
	case found == nil && noted != nil && noted.Made:
		return refuse, fmt.Errorf("disk %s of OSD %d does not answer: %w; to replace it, name the new disk, and say gone: true of this one", disk.Path, noted.ID, trouble)
	case found == nil:
		return refuse, fmt.Errorf("cannot use disk %s: %w", disk.Path, trouble)
	case noted != nil && !noted.Made:
		return create, nil
	case found.is(noted):
		return serve, nil
	case noted != nil:
		return refuse, fmt.Errorf("disk %s is not the one that OSD %d is on: it holds %s; say gone: true of it to have the OSD leave, and then name it anew",
			disk.Path, noted.ID, found)
	case found.osd != nil && found.osd.finished() && found.osd.meta["ceph_fsid"] == fsid:
		return adopt, nil
	case found.blank() || disk.Wipe:
		return create, nil
	}
	return refuse, fmt.Errorf("disk %s holds %s: it is left alone; say wipe: true of it to lose that", disk.Path, found)
}

// is reports whether the disk is the one on which the OSD is.
func (c *contents) is(o *osd) bool {
	if c == nil || o == nil {
		return false
	}
	if o.Encrypted {
		return c.luks == o.UUID
	}
	return c.osd != nil && c.osd.uuid == o.UUID
}

func (c *contents) blank() bool { return c.osd == nil && c.others == "" }

// String says what a disk holds, for people.
func (c *contents) String() string {
	switch {
	case c.osd != nil && c.osd.meta["ceph_fsid"] != "":
		return fmt.Sprintf("OSD %s of the Ceph cluster %s", c.osd.meta["whoami"], c.osd.meta["ceph_fsid"])
	case c.osd != nil:
		return "an unfinished OSD"
	case c.others != "":
		return c.others
	}
	return "nothing"
}

// disk is a disk of this host with all that is known of it.
type disk struct {
	api.CephDisk
	noted   *osd
	found   *contents
	deed    deed
	refused error
}

// disks looks at every disk that the document gives this host, and at those that have an OSD though it does not name them.
func (b *bringUp) disks() ([]disk, error) {
	notes, err := b.notes()
	if err != nil {
		return nil, err
	}
	var list []disk
	for _, wish := range b.wish.On(b.node) {
		d := disk{CephDisk: wish}
		if o, ok := notes[wish.Path]; ok {
			d.noted = &o
			delete(notes, wish.Path)
		}
		var trouble error
		d.found, trouble = b.lookAt(wish.Path)
		d.deed, d.refused = judge(wish, d.noted, d.found, trouble, b.fsid())
		list = append(list, d)
	}
	for _, path := range sorted(notes) {
		o := notes[path]
		d := disk{CephDisk: api.CephDisk{Path: path}, noted: &o, deed: refuse}
		if d.found, _ = b.lookAt(path); d.found.is(&o) && o.Made {
			d.deed = serve // nothing is lost by leaving a line out
		}
		d.refused = fmt.Errorf("disk %s has OSD %d, but the document does not name it: name it, or say gone: true of it and take it out", path, o.ID)
		list = append(list, d)
	}
	return list, nil
}

func (h *Host) lookAt(path string) (*contents, error) {
	device, err := h.OpenDisk(path, false)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	found, err := look(device, device.Size(), h.Signatures)
	if err != nil {
		return nil, err
	}
	return &found, nil
}

// clear makes a disk blank as far as anybody looks, so that no trace of its former use is found later.
func (h *Host) clear(path string) error {
	device, err := h.OpenDisk(path, true)
	if err != nil {
		return err
	}
	defer device.Close()
	zero := make([]byte, min(edge, device.Size()))
	for _, offset := range []int64{0, device.Size() - int64(len(zero))} {
		if _, err := device.WriteAt(zero, offset); err != nil {
			return fmt.Errorf("cannot wipe disk %s: %w", path, err)
		}
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("cannot wipe disk %s: %w", path, err)
	}
	return nil
}

func sorted[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
