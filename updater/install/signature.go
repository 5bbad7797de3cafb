package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"roost/images/disk"
)

// magic is a mark that a known format leaves at a fixed place of a disk or partition.
type magic struct {
	name   string
	offset int64
	bytes  string
}

// magics are what blkid knows under these names; see libblkid's superblocks, and the on-disk format of each.
func magics() []magic {
	return []magic{
		{"LUKS", 0, "LUKS\xba\xbe"},
		{"Ceph BlueStore", 0, "bluestore block device"},
		{"XFS", 0, "XFSB"},
		{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
		{"NTFS", 3, "NTFS    "},
		{"FAT", 54, "FAT"},
		{"FAT", 82, "FAT32   "},
		{"LVM", 512 + 24, "LVM2 001"},
		{"EROFS", 1024, "\xe2\xe1\xf5\xe0"},
		{"ext4", 1080, "\x53\xef"},
		{"Linux RAID", 0, "\xfc\x4e\x2b\xa9"},
		{"Linux RAID", 4096, "\xfc\x4e\x2b\xa9"},
		{"swap", 4086, "SWAPSPACE2"},
		{"ISO 9660", 32769, "CD001"},
		{"btrfs", 65600, "_BHRfS_M"},
		{"F2FS", 1024, "\x10\x20\xf5\xf2"},
		{"squashfs", 0, "hsqs"},
	}
}

// Inspect lists what a disk holds, for people: partitions and known signatures. An empty list means blank, as far as
// anybody can tell.
func Inspect(r io.ReaderAt, size int64) ([]string, error) {
	var found []string
	table, err := disk.Read(r, size)
	switch {
	case err == nil:
		found = append(found, fmt.Sprintf("partition table (GPT) with %d partitions", len(table.Partitions)))
		for _, p := range table.Partitions {
			line := fmt.Sprintf("partition %d %q, %d MiB", p.Number, p.Name, p.Size>>20)
			names, err := signatures(r, p.Offset, p.Size)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				line += ", " + name
			}
			found = append(found, line)
		}
		return found, nil
	case !errors.Is(err, disk.ErrNoTable):
		found = append(found, "damaged partition table (GPT)")
	}
	sector := make([]byte, 512)
	if _, err := r.ReadAt(sector, 0); err != nil {
		return nil, fmt.Errorf("cannot inspect disk: %w", err)
	}
	found = append(found, mbr(sector)...)
	names, err := signatures(r, 0, size)
	return append(found, names...), err
}

// mbr lists the entries of an MBR partition table.
func mbr(sector []byte) []string {
	if sector[510] != 0x55 || sector[511] != 0xaa {
		return nil
	}
	var found []string
	for i := range 4 {
		entry := sector[446+16*i:][:16]
		if kind, sectors := entry[4], binary.LittleEndian.Uint32(entry[12:]); kind != 0 && sectors != 0 {
			found = append(found, fmt.Sprintf("partition %d (MBR), type %02x, %d MiB", i+1, kind, int64(sectors)>>11))
		}
	}
	return found
}

func signatures(r io.ReaderAt, offset, size int64) ([]string, error) {
	var found []string
	for _, m := range magics() {
		if m.offset+int64(len(m.bytes)) > size {
			continue
		}
		// Whole sectors, so that a device opened for direct I/O would do.
		start := (offset + m.offset) &^ 511
		raw := make([]byte, 1024)
		n, err := r.ReadAt(raw, start)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("cannot inspect disk: %w", err)
		}
		if bytes.HasPrefix(raw[min(int64(n), offset+m.offset-start):n], []byte(m.bytes)) {
			found = append(found, m.name)
		}
	}
	return found, nil
}
