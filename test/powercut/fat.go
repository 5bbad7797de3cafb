package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// File is a file of a FAT volume as firmware reads it: by its directory entry, along its chain of clusters.
type File struct {
	Path string // from the root, with slashes, as spelled on the volume
	Size int64  // as the directory entry says

	volume *fat
	first  uint32
}

// ReadFAT lists all files of a FAT32 volume, however torn: what cannot be followed is left out, as firmware would not find
// it. It is written for judging, not for use: no checks that firmware does not make.
func ReadFAT(r io.ReaderAt, offset, size int64) ([]File, error) {
	v := &fat{r: io.NewSectionReader(r, offset, size)}
	if err := v.open(size); err != nil {
		return nil, fmt.Errorf("cannot read FAT volume: %w", err)
	}
	return v.walk("", v.root, 0), nil
}

// fat is the geometry of a volume (Microsoft FAT specification 1.03).
type fat struct {
	r          io.ReaderAt
	cluster    int64 // bytes
	table      int64 // offset of the first FAT
	data       int64 // offset of cluster 2
	root, last uint32
}

func (v *fat) open(size int64) error {
	boot := make([]byte, sectorSize)
	if _, err := v.r.ReadAt(boot, 0); err != nil {
		return err
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(boot[11:])), int64(boot[13])
	reserved, fats, length := int64(le.Uint16(boot[14:])), int64(boot[16]), int64(le.Uint32(boot[36:]))
	if boot[510] != 0x55 || boot[511] != 0xaa || sector < 512 || sector > 4096 || perCluster == 0 || length == 0 || fats == 0 {
		return errors.New("no FAT32 boot sector")
	}
	v.cluster, v.table = sector*perCluster, reserved*sector
	v.data = v.table + fats*length*sector
	v.root = le.Uint32(boot[44:])
	clusters := min((size-v.data)/v.cluster, length*sector/4-2)
	if clusters < 1 {
		return errors.New("no clusters")
	}
	v.last = uint32(clusters) + 1
	return nil
}

// chain calls f with the offset of each cluster, until f returns false or the chain ends. A chain that leaves the volume or
// goes round is an error.
func (v *fat) chain(first uint32, f func(offset int64) bool) error {
	for steps, c := uint32(0), first; ; steps++ {
		if c < 2 || c > v.last || steps > v.last {
			return fmt.Errorf("broken chain at cluster %d", c)
		}
		if !f(v.data + int64(c-2)*v.cluster) {
			return nil
		}
		raw := make([]byte, 4)
		if _, err := v.r.ReadAt(raw, v.table+int64(c)*4); err != nil {
			return err
		}
		if c = binary.LittleEndian.Uint32(raw) & 0x0fffffff; c >= 0x0ffffff8 {
			return nil
		}
	}
}

const maxDepth = 8

func (v *fat) walk(dir string, first uint32, depth int) []File {
	var raw []byte
	err := v.chain(first, func(offset int64) bool {
		cluster := make([]byte, v.cluster)
		if _, err := v.r.ReadAt(cluster, offset); err != nil {
			return false
		}
		raw = append(raw, cluster...)
		return len(raw) < 1<<21 // the largest directory that FAT knows
	})
	if err != nil && len(raw) == 0 || depth > maxDepth {
		return nil
	}
	var files []File
	for _, e := range entries(raw) {
		path := strings.TrimPrefix(dir+"/"+e.name, "/")
		switch {
		case e.name == "." || e.name == "..":
		case e.attributes&0x10 != 0:
			files = append(files, v.walk(path, e.first, depth+1)...)
		case e.attributes&0x08 == 0:
			files = append(files, File{Path: path, Size: e.size, volume: v, first: e.first})
		}
	}
	return files
}

type entry struct {
	name       string
	attributes byte
	first      uint32
	size       int64
}

// entries reads directory entries with their long names; a long name that does not belong to its entry is ignored.
func entries(raw []byte) []entry {
	var found []entry
	var long []uint16
	var sum byte
	for ; len(raw) >= 32 && raw[0] != 0; raw = raw[32:] {
		e := raw[:32]
		le := binary.LittleEndian
		switch {
		case e[0] == 0xe5:
			long = nil
			continue
		case e[11] == 0x0f:
			if e[0]&0x40 != 0 {
				long, sum = nil, e[13]
			}
			long = append(longUnits(e), long...)
			continue
		}
		name := shortName(e)
		if long != nil && sum == checksum(e[:11]) {
			name = string(utf16.Decode(long))
		}
		long = nil
		found = append(found, entry{name: name, attributes: e[11], size: int64(le.Uint32(e[28:])),
			first: uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))})
	}
	return found
}

func longUnits(e []byte) []uint16 {
	var units []uint16
	for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		unit := binary.LittleEndian.Uint16(e[at:])
		if unit == 0 || unit == 0xffff {
			break
		}
		units = append(units, unit)
	}
	return units
}

func shortName(e []byte) string {
	base, extension := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if e[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&0x10 != 0 {
		extension = strings.ToLower(extension)
	}
	if extension == "" {
		return base
	}
	return base + "." + extension
}

func checksum(short []byte) byte {
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// sum tells the file's content apart in images of one rebuilder.
func (f File) sum(m *Image, volume int64) uint64 {
	sum, left := mix(uint64(f.Size)), f.Size
	_ = f.volume.chain(f.first, func(offset int64) bool { // a broken chain is another sum
		sum = mix(sum) ^ m.sum(volume+offset, min(left, f.volume.cluster))
		left -= f.volume.cluster
		return left > 0
	})
	return sum
}

// Content returns the bytes of the file, as far as its chain goes.
func (f File) Content() []byte {
	var data []byte
	if f.Size == 0 || f.Size > 1<<30 {
		return nil
	}
	_ = f.volume.chain(f.first, func(offset int64) bool { // a broken chain gives a short file
		n := min(f.volume.cluster, f.Size-int64(len(data)))
		cluster := make([]byte, n)
		if _, err := f.volume.r.ReadAt(cluster, offset); err != nil {
			return false
		}
		data = append(data, cluster...)
		return int64(len(data)) < f.Size
	})
	return data
}
