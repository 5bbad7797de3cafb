package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Device is where a volume is written: *os.File is one.
type Device interface {
	io.WriterAt
	Sync() error
}

const (
	reservedSectors = 32
	fsInfoSector    = 1
	backupSector    = 6
	fatCopies       = 2
	rootCluster     = 2
	minClusters     = 65525 // fewer make a volume FAT16 (FAT specification 1.03, 3.5)
	endOfChain      = 0x0fffffff
	mediaFixed      = 0xf8
)

// geometry is where things lie on a volume. Clusters count from 2.
type geometry struct {
	sector, cluster int64 // bytes
	sectors         int64 // of the volume
	fatSectors      int64 // of one FAT
	data            int64 // offset of cluster 2 in bytes
	clusters        int64
}

func geometryOf(size, sector int64) (geometry, error) {
	if sector == 0 {
		sector = 512
	}
	if sector != 512 && sector != 4096 {
		return geometry{}, fmt.Errorf("sector size %d is neither 512 nor 4096", sector)
	}
	g := geometry{sector: sector, sectors: size / sector, cluster: sector}
	if size > 260<<20 {
		g.cluster = max(sector, 4096) // as mkfs.fat chooses
	}
	perCluster := g.cluster / sector
	for g.fatSectors = 1; ; g.fatSectors++ {
		g.clusters = (g.sectors - reservedSectors - fatCopies*g.fatSectors) / perCluster
		if g.fatSectors*sector/4 >= g.clusters+2 {
			break
		}
	}
	g.data = (reservedSectors + fatCopies*g.fatSectors) * sector
	if g.clusters < minClusters || g.sectors > 1<<32-1 {
		return geometry{}, fmt.Errorf("a volume of %d bytes with %d-byte sectors cannot be FAT32", size, sector)
	}
	return g, nil
}

// volume is a FAT32 volume being written: every chain is contiguous, clusters are handed out upwards.
type volume struct {
	geometry
	d      Device
	offset int64
	stamp  stamp
	fat    []uint32
	next   int64 // first free cluster
}

// Format makes a FAT32 volume with these files in d, from offset on, size bytes long. What was there is lost.
func Format(d Device, offset, size int64, spec Volume, files []File) error {
	if err := format(d, offset, size, spec, files); err != nil {
		return fmt.Errorf("cannot format ESP: %w", err)
	}
	return nil
}

func format(d Device, offset, size int64, spec Volume, files []File) error {
	g, err := geometryOf(size, int64(spec.Sector))
	if err != nil {
		return err
	}
	label, err := labelOf(spec.Label)
	if err != nil {
		return err
	}
	root, err := treeOf(files)
	if err != nil {
		return err
	}
	v := &volume{geometry: g, d: d, offset: offset, stamp: stampOf(spec.Time), fat: make([]uint32, g.clusters+2), next: rootCluster}
	v.fat[0], v.fat[1] = 0x0fffff00|mediaFixed, endOfChain
	if err := v.place(root); err != nil {
		return err
	}
	if err := v.fill(root); err != nil {
		return err
	}
	if err := v.writeDirectory(root, 0, &label); err != nil {
		return err
	}
	if err := v.writeTables(spec.Serial, label); err != nil {
		return err
	}
	return d.Sync()
}

// place gives every directory its clusters.
func (v *volume) place(n *node) (err error) {
	if !n.directory {
		return nil
	}
	entries := 2 // "." and "..", or the label and one to spare
	for _, c := range n.children {
		entries += c.slots()
	}
	if n.cluster, err = v.allocate(max(int64(entries)*direntSize, 1)); err != nil {
		return err
	}
	for _, c := range n.children {
		if err := v.place(c); err != nil {
			return err
		}
	}
	return nil
}

// fill streams the content of every file.
func (v *volume) fill(n *node) error {
	for _, c := range n.children {
		if err := v.fill(c); err != nil {
			return err
		}
	}
	if n.directory {
		return nil
	}
	buffer := make([]byte, 1<<20)
	start := v.next
	for {
		read, err := io.ReadFull(n.content, buffer)
		if read > 0 {
			if _, allocErr := v.allocate(int64(read)); allocErr != nil {
				return fmt.Errorf("cannot put %s on it: %w", n.name, allocErr)
			}
			at := v.at(start) + n.size
			clear(buffer[read:]) // the rest of the last cluster
			if _, err := v.d.WriteAt(buffer[:v.roundUp(int64(read))], at); err != nil {
				return err
			}
			n.size += int64(read)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot put %s on it: %w", n.name, err)
		}
	}
	if n.size > 1<<32-1 {
		return fmt.Errorf("cannot put %s on it: FAT files end at 4 GiB", n.name)
	}
	if n.size > 0 {
		n.cluster = start
		v.chain(start, v.next)
	}
	return nil
}

// allocate takes enough clusters for n bytes and chains them.
func (v *volume) allocate(n int64) (int64, error) {
	first, count := v.next, v.roundUp(n)/v.cluster
	if first+count > v.clusters+2 {
		return 0, errors.New("no space left on it")
	}
	v.next += count
	v.chain(first, v.next)
	return first, nil
}

func (v *volume) chain(first, end int64) {
	for c := first; c < end; c++ {
		v.fat[c] = uint32(c + 1)
	}
	v.fat[end-1] = endOfChain
}

func (v *volume) roundUp(n int64) int64 { return (n + v.cluster - 1) / v.cluster * v.cluster }

// at returns the offset of a cluster in the device.
func (v *volume) at(cluster int64) int64 { return v.offset + v.data + (cluster-rootCluster)*v.cluster }

// writeDirectory writes the entries of n and everything below. parent is the cluster that ".." names: 0 for the root.
func (v *volume) writeDirectory(n *node, parent int64, label *[11]byte) error {
	var b []byte
	self := n.cluster
	if label != nil {
		b = v.dirent(b, *label, attrLabel, 0, 0)
		self = 0
	} else {
		b = v.dirent(b, [11]byte([]byte(".          ")), attrDirectory, n.cluster, 0)
		b = v.dirent(b, [11]byte([]byte("..         ")), attrDirectory, parent, 0)
	}
	for _, c := range n.children {
		b = c.longName(b)
		attribute := byte(attrArchive)
		if c.directory {
			attribute = attrDirectory
		}
		b = v.dirent(b, c.short, attribute, c.cluster, c.size)
	}
	b = append(b, make([]byte, v.roundUp(int64(len(b)))-int64(len(b)))...)
	if _, err := v.d.WriteAt(b, v.at(n.cluster)); err != nil {
		return err
	}
	for _, c := range n.children {
		if !c.directory {
			continue
		}
		if err := v.writeDirectory(c, self, nil); err != nil {
			return err
		}
	}
	return nil
}

// writeTables writes both FATs, then the reserved area with the boot sector, which makes it a volume.
func (v *volume) writeTables(serial uint32, label [11]byte) error {
	fat := make([]byte, v.fatSectors*v.sector)
	for i, c := range v.fat {
		binary.LittleEndian.PutUint32(fat[4*i:], c)
	}
	for i := range int64(fatCopies) {
		if _, err := v.d.WriteAt(fat, v.offset+(reservedSectors+i*v.fatSectors)*v.sector); err != nil {
			return err
		}
	}
	reserved := make([]byte, reservedSectors*v.sector)
	for _, at := range []int64{0, backupSector} {
		copy(reserved[at*v.sector:], v.bootSector(serial, label))
		copy(reserved[(at+fsInfoSector)*v.sector:], v.fsInfo())
	}
	_, err := v.d.WriteAt(reserved, v.offset)
	return err
}

func (v *volume) bootSector(serial uint32, label [11]byte) []byte {
	b := make([]byte, 512)
	le := binary.LittleEndian
	copy(b, "\xeb\x58\x90ROOST   ")
	le.PutUint16(b[11:], uint16(v.sector))
	b[13] = byte(v.cluster / v.sector)
	le.PutUint16(b[14:], reservedSectors)
	b[16] = fatCopies
	b[21] = mediaFixed
	le.PutUint16(b[24:], 63) // sectors per track and heads: nobody looks, zero upsets some
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[32:], uint32(v.sectors))
	le.PutUint32(b[36:], uint32(v.fatSectors))
	le.PutUint32(b[44:], rootCluster)
	le.PutUint16(b[48:], fsInfoSector)
	le.PutUint16(b[50:], backupSector)
	b[64] = 0x80
	b[66] = 0x29
	le.PutUint32(b[67:], serial)
	copy(b[71:], label[:])
	copy(b[82:], "FAT32   ")
	b[510], b[511] = 0x55, 0xaa
	return b
}

func (v *volume) fsInfo() []byte {
	b := make([]byte, 512)
	le := binary.LittleEndian
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	le.PutUint32(b[488:], uint32(v.clusters+2-v.next))
	le.PutUint32(b[492:], uint32(v.next))
	b[510], b[511] = 0x55, 0xaa
	return b
}

func labelOf(s string) (label [11]byte, err error) {
	if len(s) > len(label) || bytes.ContainsFunc([]byte(s), func(r rune) bool {
		return !(r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == ' ')
	}) {
		return label, fmt.Errorf("label %q: want at most 11 of A-Z 0-9 - _ and blank", s)
	}
	copy(label[:], s+"           ")
	return label, nil
}

// stamp is a FAT timestamp.
type stamp struct{ date, time uint16 }

func stampOf(t time.Time) stamp {
	t = t.UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return stamp{
		date: uint16(min(t.Year()-1980, 127))<<9 | uint16(t.Month())<<5 | uint16(t.Day()),
		time: uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2),
	}
}
