package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"

	"roost/images/durable"
	"roost/updater/slot"
)

// VFAT is one directory of a FAT32 volume, changed sector by sector in the order in which Linux's vfat does it on a volume
// mounted dirsync: a new name is written before it gets its content, and both before the old name goes. Data and
// allocation tables are written in no order until Sync. It is a boot.Volume over a recorded disk, where no kernel with vfat
// is at hand. Source of the order: Linux v6.12 fs/fat/namei_vfat.c (vfat_rename), fs/fat/dir.c (fat_add_entries,
// fat_remove_entries).
type VFAT struct {
	device slot.Device
	offset int64
	volume *fat
	copies int64  // of the allocation table
	length int64  // of each, bytes
	dir    uint32 // first cluster
}

// OpenVFAT opens the directory at path of the volume at offset.
func OpenVFAT(d slot.Device, offset, size int64, path string) (*VFAT, error) {
	v := &VFAT{device: d, offset: offset, volume: &fat{r: io.NewSectionReader(d, offset, size)}}
	if err := v.volume.open(size); err != nil {
		return nil, fmt.Errorf("cannot open FAT volume: %w", err)
	}
	boot := make([]byte, sectorSize)
	if _, err := d.ReadAt(boot, offset); err != nil {
		return nil, err
	}
	v.copies, v.length = int64(boot[16]), int64(binary.LittleEndian.Uint32(boot[36:]))*int64(binary.LittleEndian.Uint16(boot[11:]))
	v.dir = v.volume.root
	for _, name := range strings.Split(path, "/") {
		e, _, err := v.find(name)
		if err != nil {
			return nil, err
		}
		v.dir = e.first
	}
	return v, nil
}

// slots returns the offsets of the directory's 32-byte slots, and their content.
func (v *VFAT) slots() (offsets []int64, raw []byte, err error) {
	err = v.volume.chain(v.dir, func(offset int64) bool {
		cluster := make([]byte, v.volume.cluster)
		if _, err := v.volume.r.ReadAt(cluster, offset); err != nil {
			return false
		}
		for at := int64(0); at < v.volume.cluster; at += 32 {
			offsets = append(offsets, offset+at)
		}
		raw = append(raw, cluster...)
		return true
	})
	return offsets, raw, err
}

// find returns the entry of a name and the offsets of its slots, that of the short entry last.
func (v *VFAT) find(name string) (entry, []int64, error) {
	offsets, raw, err := v.slots()
	if err != nil {
		return entry{}, nil, err
	}
	start := 0
	for i := range offsets {
		e := raw[32*i : 32*i+32]
		if e[0] == 0 {
			break
		}
		if e[0] == 0xe5 {
			start = i + 1
			continue
		}
		if e[11] == 0x0f {
			continue
		}
		found := entries(append(bytes.Clone(raw[32*start:32*i+32]), make([]byte, 32)...))
		if len(found) == 1 && strings.EqualFold(found[0].name, name) {
			return found[0], offsets[start : i+1], nil
		}
		start = i + 1
	}
	return entry{}, nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// patch changes bytes within one sector, which is what the medium writes at once.
func (v *VFAT) patch(offset int64, data []byte) error {
	sector := make([]byte, sectorSize)
	start := (v.offset + offset) / sectorSize * sectorSize
	if _, err := v.device.ReadAt(sector, start); err != nil {
		return err
	}
	copy(sector[v.offset+offset-start:], data)
	_, err := v.device.WriteAt(sector, start)
	return err
}

// add writes the slots of a new name without content, and makes them last.
func (v *VFAT) add(name string) error {
	alias, err := v.alias(name)
	if err != nil {
		return err
	}
	var slots [][]byte
	units := utf16.Encode([]rune(name))
	count := (len(units) + 12) / 13
	for n := count; n >= 1; n-- {
		slots = append(slots, longSlot(units, n, n == count, checksum(alias)))
	}
	short := make([]byte, 32)
	copy(short, alias)
	short[11] = 0x20
	slots = append(slots, short)
	places, err := v.room(len(slots))
	if err != nil {
		return err
	}
	for i, slot := range slots {
		if err := v.patch(places[i], slot); err != nil {
			return err
		}
	}
	return v.device.Sync()
}

// alias returns a short name that is not taken: the first six letters and a number.
func (v *VFAT) alias(name string) ([]byte, error) {
	_, raw, err := v.slots()
	if err != nil {
		return nil, err
	}
	dot := max(strings.LastIndexByte(name, '.'), 0)
	base, extension := strings.ToUpper(name[:dot]), strings.ToUpper(name[dot+1:])
	for n := 1; n < 10; n++ {
		alias := fmt.Appendf(nil, "%-8.8s%-3.3s", fmt.Sprintf("%.6s~%d", strings.NewReplacer("+", "_", ".", "").Replace(base), n), extension)
		taken := false
		for i := 0; i < len(raw); i += 32 {
			taken = taken || bytes.HasPrefix(raw[i:], alias)
		}
		if !taken {
			return alias, nil
		}
	}
	return nil, errors.New("no short name is left")
}

func longSlot(units []uint16, n int, last bool, sum byte) []byte {
	slot := make([]byte, 32)
	slot[0], slot[11], slot[13] = byte(n), 0x0f, sum
	if last {
		slot[0] |= 0x40
	}
	for i, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		unit := uint16(0xffff)
		switch k := 13*(n-1) + i; {
		case k < len(units):
			unit = units[k]
		case k == len(units):
			unit = 0
		}
		binary.LittleEndian.PutUint16(slot[at:], unit)
	}
	return slot
}

// room finds consecutive free slots, and makes the directory longer where there are none.
func (v *VFAT) room(n int) ([]int64, error) {
	offsets, raw, err := v.slots()
	if err != nil {
		return nil, err
	}
	start := 0
	for i := range offsets {
		if raw[32*i] != 0 && raw[32*i] != 0xe5 {
			start = i + 1
		}
		if i+1-start == n {
			return offsets[start : i+1], nil
		}
	}
	last := v.dir
	for next := v.get(last); next < 0x0ffffff8; next = v.get(last) {
		last = next
	}
	free, err := v.free(1)
	if err != nil {
		return nil, err
	}
	for at := int64(0); at < v.volume.cluster; at += sectorSize {
		if err := v.patch(v.at(free[0])+at, make([]byte, sectorSize)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(v.set(free[0], 0x0fffffff), v.set(last, free[0]), v.device.Sync()); err != nil {
		return nil, err
	}
	return v.room(n)
}

func (v *VFAT) at(cluster uint32) int64 { return v.volume.data + int64(cluster-2)*v.volume.cluster }

func (v *VFAT) get(cluster uint32) uint32 {
	raw := make([]byte, 4)
	if _, err := v.volume.r.ReadAt(raw, v.volume.table+4*int64(cluster)); err != nil {
		return 0x0fffffff
	}
	return binary.LittleEndian.Uint32(raw) & 0x0fffffff
}

// set writes an allocation into every copy of the table.
func (v *VFAT) set(cluster, value uint32) error {
	for n := range v.copies {
		if err := v.patch(v.volume.table+n*v.length+4*int64(cluster), binary.LittleEndian.AppendUint32(nil, value)); err != nil {
			return err
		}
	}
	return nil
}

func (v *VFAT) free(n int) ([]uint32, error) {
	var free []uint32
	for c := uint32(2); c <= v.volume.last && len(free) < n; c++ {
		if v.get(c) == 0 {
			free = append(free, c)
		}
	}
	if len(free) < n {
		return nil, errors.New("no space left on the volume")
	}
	return free, nil
}

// release frees a chain.
func (v *VFAT) release(first uint32) error {
	for c := first; c >= 2 && c <= v.volume.last; {
		next := v.get(c)
		if err := v.set(c, 0); err != nil {
			return err
		}
		c = next
	}
	return nil
}

// point gives a name its content.
func (v *VFAT) point(name string, first uint32, size int64) error {
	_, places, err := v.find(name)
	if err != nil {
		return err
	}
	le, short := binary.LittleEndian, places[len(places)-1]
	if err := v.patch(short+20, le.AppendUint16(nil, uint16(first>>16))); err != nil {
		return err
	}
	tail := le.AppendUint32(le.AppendUint16(nil, uint16(first)), uint32(size))
	return v.patch(short+26, tail)
}

// Names lists the files of the directory.
func (v *VFAT) Names() ([]string, error) {
	_, raw, err := v.slots()
	var names []string
	for _, e := range entries(raw) {
		if e.attributes&0x18 == 0 {
			names = append(names, e.name)
		}
	}
	return names, err
}

// Size returns the size of a file.
func (v *VFAT) Size(name string) (int64, error) {
	e, _, err := v.find(name)
	return e.size, err
}

// Open reads a file.
func (v *VFAT) Open(name string) (io.ReadCloser, error) {
	e, _, err := v.find(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(File{Size: e.size, volume: v.volume, first: e.first}.Content())), nil
}

// Create makes a file, or empties it. What is written to it arrives at Sync.
func (v *VFAT) Create(name string) (durable.File, error) {
	e, _, err := v.find(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = v.add(name)
	case err == nil:
		err = errors.Join(v.point(name, 0, 0), v.release(e.first))
	}
	return &vfile{v: v, name: name}, err
}

// Rename gives a file another name, which must be free.
func (v *VFAT) Rename(from, to string) error {
	e, _, err := v.find(from)
	if err != nil {
		return err
	}
	if err := v.add(to); err != nil {
		return err
	}
	if err := errors.Join(v.point(to, e.first, e.size), v.device.Sync()); err != nil {
		return err
	}
	return v.unlink(from)
}

// Count gives a file a name of the same length in its own slots, without a flush between. That is how a loader's rename
// arrives: EDK II frees the old slots, takes the first that fit, and writes the page of its cache at once.
func (v *VFAT) Count(from, to string) error {
	_, places, err := v.find(from)
	if err != nil {
		return err
	}
	short := make([]byte, 11)
	if _, err := v.volume.r.ReadAt(short, places[len(places)-1]); err != nil {
		return err
	}
	units := utf16.Encode([]rune(to))
	count := (len(units) + 12) / 13
	if count != len(places)-1 {
		return fmt.Errorf("cannot count %s as %s: the names need %d and %d slots", from, to, len(places)-1, count)
	}
	for n := count; n >= 1; n-- {
		if err := v.patch(places[count-n], longSlot(units, n, n == count, checksum(short))); err != nil {
			return err
		}
	}
	return v.device.Sync()
}

// unlink takes the slots of a name away, the short entry first, and makes that last.
func (v *VFAT) unlink(name string) error {
	_, places, err := v.find(name)
	if err != nil {
		return err
	}
	for i := len(places) - 1; i >= 0; i-- {
		if err := v.patch(places[i], []byte{0xe5}); err != nil {
			return err
		}
		if i == len(places)-1 {
			if err := v.device.Sync(); err != nil {
				return err
			}
		}
	}
	return v.device.Sync()
}

// Remove removes a file.
func (v *VFAT) Remove(name string) error {
	e, _, err := v.find(name)
	if err != nil {
		return err
	}
	return errors.Join(v.unlink(name), v.release(e.first))
}

// Sync makes all last.
func (v *VFAT) Sync() error { return v.device.Sync() }

// Space returns the size of the volume; nobody here asks how much of it is free.
func (v *VFAT) Space() (size, free int64, err error) { return v.length, v.length, nil }

type vfile struct {
	bytes.Buffer
	v    *VFAT
	name string
}

// Sync allocates and writes what was written since the last time; once is all that is needed here.
func (f *vfile) Sync() error {
	data := f.Bytes()
	clusters, err := f.v.free(int((int64(len(data)) + f.v.volume.cluster - 1) / f.v.volume.cluster))
	if err != nil {
		return err
	}
	for i, c := range clusters {
		next := uint32(0x0fffffff)
		if i+1 < len(clusters) {
			next = clusters[i+1]
		}
		chunk := make([]byte, f.v.volume.cluster)
		copy(chunk, data[int64(i)*f.v.volume.cluster:])
		if _, err := f.v.device.WriteAt(chunk, f.v.offset+f.v.at(c)); err != nil {
			return err
		}
		if err := f.v.set(c, next); err != nil {
			return err
		}
	}
	if len(clusters) > 0 {
		if err := f.v.point(f.name, clusters[0], int64(len(data))); err != nil {
			return err
		}
	}
	return f.v.device.Sync()
}

func (f *vfile) Close() error { return nil }
