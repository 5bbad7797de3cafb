package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"roost/images/disk"
	"roost/images/disk/esp"
)

// Layout of an ISO 9660 image (ECMA-119) with El Torito, in sectors of 2048 bytes.
const (
	isoSector     = 2048
	isoPrimary    = 16
	isoBoot       = 17
	isoEnd        = 18
	isoPathLittle = 19
	isoPathBig    = 20
	isoRoot       = 21
	isoCatalog    = 22
	isoFirst      = 24 // of the files; they start at whole 4096 bytes, as dm-verity wants
	isoMaxFile    = 1<<32 - isoSector
)

// extent is a file in the root directory.
type extent struct {
	name   string // ECMA-119 level 2; Linux shows it in lower case, without the version
	sector int64
	size   int64
}

// WriteISO makes f, which is emptied first, an image that boots by UEFI from an optical drive or, written as it is, from a
// USB stick: an EFI system partition whose only program is the UKI, and the root image and verity data both as files
// (root.erofs, root.verity) and as partitions named by the root hash.
func WriteISO(f *os.File, p Parts) error {
	if err := writeISO(f, p); err != nil {
		return fmt.Errorf("cannot make ISO image: %w", err)
	}
	return nil
}

func writeISO(f *os.File, p Parts) error {
	root, verity, err := disk.SlotGUIDs(p.RootHash)
	if err != nil {
		return err
	}
	if p.Root.Size > isoMaxFile || p.Root.Size%4096 != 0 || p.Verity.Size%4096 != 0 {
		return fmt.Errorf("root image of %d bytes and verity data of %d are too large, or not whole blocks", p.Root.Size, p.Verity.Size)
	}
	boot := extent{name: "EFI.IMG;1", sector: isoFirst, size: roundUp(max(esp.MinSize, p.UKI.Size+p.UKI.Size/32+2<<20), 1<<20)}
	data := extent{name: "ROOT.EROFS;1", sector: boot.sector + boot.size/isoSector, size: p.Root.Size}
	tree := extent{name: "ROOT.VERITY;1", sector: data.sector + data.size/isoSector, size: p.Verity.Size}
	end := (tree.sector + tree.size/isoSector) * isoSector
	size := roundUp(end, 1<<20) + 1<<20 // the backup table lies behind

	table, err := (disk.Layout{}).Table((disk.Layout{}).MinSize(), 512, []byte("iso of "+p.RootHash))
	if err != nil {
		return err
	}
	types := disk.Types()
	efi, _ := table.Find(disk.ESPA) // for a GUID that depends on the release only
	table.Partitions = []disk.Partition{
		{Number: 1, Name: "iso-esp", Type: types[disk.ESPA], UUID: efi.UUID, Offset: boot.sector * isoSector, Size: boot.size},
		{Number: 2, Name: "iso-root", Type: types[disk.RootA], UUID: root, Offset: data.sector * isoSector, Size: data.size},
		{Number: 3, Name: "iso-verity", Type: types[disk.VerityA], UUID: verity, Offset: tree.sector * isoSector, Size: tree.size},
	}

	if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
		return err
	}
	for at, sector := range isoHeads(p, end/isoSector, boot, data, tree) {
		if _, err := f.WriteAt(sector, at*isoSector); err != nil {
			return err
		}
	}
	spec := esp.Volume{Label: "ROOST", Serial: serialOf(efi.UUID), Time: p.Created}
	program := []esp.File{{Path: esp.FallbackLoader, Content: p.UKI.Content}}
	if err := esp.Format(f, boot.sector*isoSector, boot.size, spec, program); err != nil {
		return err
	}
	if err := errors.Join(copySparse(f, data.sector*isoSector, p.Root), copySparse(f, tree.sector*isoSector, p.Verity)); err != nil {
		return err
	}
	return table.Write(f, size)
}

// isoHeads returns everything that is not a file, by sector.
func isoHeads(p Parts, sectors int64, files ...extent) map[int64][]byte {
	stamp := stampOf(p.Created)
	directory := make([]byte, 0, isoSector)
	self := record("\x00", isoRoot, isoSector, true, stamp)
	directory = append(directory, self...)
	directory = append(directory, record("\x01", isoRoot, isoSector, true, stamp)...)
	for _, f := range files { // in the order of their names
		directory = append(directory, record(f.name, f.sector, f.size, false, stamp)...)
	}
	le, be := make([]byte, 10), make([]byte, 10)
	le[0], be[0] = 1, 1
	binary.LittleEndian.PutUint32(le[2:], isoRoot)
	binary.LittleEndian.PutUint16(le[6:], 1)
	binary.BigEndian.PutUint32(be[2:], isoRoot)
	binary.BigEndian.PutUint16(be[6:], 1)
	return map[int64][]byte{
		isoPrimary: primaryDescriptor(p, sectors, self), isoBoot: bootDescriptor(), isoEnd: []byte("\xffCD001\x01"),
		isoPathLittle: le, isoPathBig: be, isoRoot: directory, isoCatalog: catalog(files[0].sector),
	}
}

// primaryDescriptor is ECMA-119, 8.4.
func primaryDescriptor(p Parts, sectors int64, root []byte) []byte {
	b := make([]byte, isoSector)
	copy(b, "\x01CD001\x01")
	pad(b[8:40], "")
	pad(b[40:72], volumeName(p))
	both32(b[80:], uint32(sectors))
	both16(b[120:], 1)
	both16(b[124:], 1)
	both16(b[128:], isoSector)
	both32(b[132:], 10) // path table
	binary.LittleEndian.PutUint32(b[140:], isoPathLittle)
	binary.BigEndian.PutUint32(b[148:], isoPathBig)
	copy(b[156:], root)
	pad(b[190:813], "") // names of volume set, publisher, preparer, application and files
	pad(b[574:702], "ROOST")
	date := p.Created.UTC().Format("20060102150405") + "00\x00"
	none := strings.Repeat("0", 16) + "\x00"
	copy(b[813:], date+date+none+none)
	b[881] = 1
	return b
}

// bootDescriptor and catalog are El Torito 1.0, 2: one entry, for EFI. Its length is left 0, as 16 bits of 512 bytes cannot
// tell it; firmware then takes the rest of the disc, and FAT knows its own end.
func bootDescriptor() []byte {
	b := make([]byte, isoSector)
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(b[71:], isoCatalog)
	return b
}

func catalog(sector int64) []byte {
	b := make([]byte, isoSector)
	b[0], b[1], b[30], b[31] = 1, 0xef, 0x55, 0xaa
	sum := uint16(0)
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[28:], -sum)
	b[32] = 0x88 // bootable, no emulation
	binary.LittleEndian.PutUint32(b[40:], uint32(sector))
	return b
}

// record is a directory record, ECMA-119, 9.1.
func record(name string, sector, size int64, directory bool, stamp [7]byte) []byte {
	b := make([]byte, (33+len(name)+1)/2*2)
	b[0] = byte(len(b))
	both32(b[2:], uint32(sector))
	both32(b[10:], uint32(size))
	copy(b[18:], stamp[:])
	if directory {
		b[25] = 2
	}
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

func stampOf(t time.Time) [7]byte {
	t = t.UTC()
	return [7]byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second())}
}

// volumeName keeps the characters that ECMA-119 allows.
func volumeName(p Parts) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(p.Name+"_"+string(p.Version)))
	return name[:min(len(name), 32)]
}

func pad(b []byte, s string) {
	for i := copy(b, s); i < len(b); i++ {
		b[i] = ' '
	}
}

func both16(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b, v)
	binary.BigEndian.PutUint16(b[2:], v)
}

func both32(b []byte, v uint32) {
	binary.LittleEndian.PutUint32(b, v)
	binary.BigEndian.PutUint32(b[4:], v)
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
