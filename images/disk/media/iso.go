package media

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
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
	i := newISO(p.Name+"_"+string(p.Version), p.RootHash, p.Created, p.UKI.Size)
	data := i.add("ROOT.EROFS;1", "iso-root", disk.RootA, root, p.Root.Size)
	tree := i.add("ROOT.VERITY;1", "iso-verity", disk.VerityA, verity, p.Verity.Size)
	if err := i.write(f, []esp.File{{Path: esp.FallbackLoader, Content: p.UKI.Content}}); err != nil {
		return err
	}
	return errors.Join(copySparse(f, data.sector*isoSector, p.Root), copySparse(f, tree.sector*isoSector, p.Verity), f.Sync())
}

// Enrolment is what a machine in Setup Mode takes its Secure Boot keys from.
type Enrolment struct {
	Name    string            // of whose keys they are
	Created time.Time         // timestamp of everything
	Loader  []byte            // systemd-boot
	Updates map[string][]byte // authenticated updates by variable: PK, KEK and db
}

// enrolConfig has systemd-boot enrol without a question, after its countdown.
const enrolConfig = "timeout 0\neditor no\nsecure-boot-enroll force\n"

// WriteEnrolment makes f, which is emptied first, an image that boots like one of WriteISO and enrols keys into a machine
// whose firmware is in Setup Mode; then it reboots. Any other machine it leaves as it is.
func WriteEnrolment(f *os.File, e Enrolment) error {
	files := []esp.File{
		{Path: esp.FallbackLoader, Content: bytes.NewReader(e.Loader)},
		{Path: esp.LoaderConf, Content: strings.NewReader(enrolConfig)},
	}
	seed := sha256.New()
	for _, variable := range slices.Sorted(maps.Keys(e.Updates)) {
		files = append(files, esp.File{Path: "loader/keys/auto/" + variable + ".auth", Content: bytes.NewReader(e.Updates[variable])})
		seed.Write(e.Updates[variable])
	}
	i := newISO(e.Name, hex.EncodeToString(seed.Sum(nil)), e.Created, int64(len(e.Loader)))
	if err := errors.Join(i.write(f, files), f.Sync()); err != nil {
		return fmt.Errorf("cannot make enrolment image: %w", err)
	}
	return nil
}

// iso is an image being laid out: an EFI system partition first, then files, each a partition too.
type iso struct {
	name       string
	seed       string
	created    time.Time
	files      []extent // in the order of their names
	partitions []disk.Partition
	next       int64 // free sector
}

// newISO lays out an image whose EFI system partition has room for programs of size bytes.
func newISO(name, seed string, created time.Time, size int64) *iso {
	i := &iso{name: name, seed: seed, created: created, next: isoFirst}
	i.add("EFI.IMG;1", "iso-esp", disk.ESPA, guidOf("iso "+seed), roundUp(max(esp.MinSize, size+size/32+2<<20), 1<<20))
	return i
}

// guidOf returns a GUID (version 8, RFC 9562) that depends on the seed only.
func guidOf(seed string) disk.GUID {
	sum := sha256.Sum256([]byte(seed))
	g := disk.GUID(sum[:16])
	g[7], g[8] = g[7]&0x0f|0x80, g[8]&0x3f|0x80
	return g
}

// add lays a file out. size is a multiple of 4096.
func (i *iso) add(file, partition, kind string, uuid disk.GUID, size int64) extent {
	e := extent{name: file, sector: i.next, size: size}
	i.next += size / isoSector
	i.files = append(i.files, e)
	i.partitions = append(i.partitions, disk.Partition{
		Number: len(i.files), Name: partition, Type: disk.Types()[kind], UUID: uuid, Offset: e.sector * isoSector, Size: size,
	})
	return e
}

// write writes all but the files behind the EFI system partition.
func (i *iso) write(f *os.File, programs []esp.File) error {
	size := roundUp(i.next*isoSector, 1<<20) + 1<<20 // the backup table lies behind
	if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
		return err
	}
	for at, sector := range i.heads() {
		if _, err := f.WriteAt(sector, at*isoSector); err != nil {
			return err
		}
	}
	boot := i.partitions[0]
	spec := esp.Volume{Label: "ROOST", Serial: serialOf(boot.UUID), Time: i.created}
	if err := esp.Format(f, boot.Offset, boot.Size, spec, programs); err != nil {
		return err
	}
	table := disk.Table{Disk: guidOf("iso disk " + i.seed), SectorSize: 512, Partitions: i.partitions}
	return table.Write(f, size)
}

// heads returns everything that is not a file, by sector.
func (i *iso) heads() map[int64][]byte {
	stamp := stampOf(i.created)
	directory := make([]byte, 0, isoSector)
	self := record("\x00", isoRoot, isoSector, true, stamp)
	directory = append(directory, self...)
	directory = append(directory, record("\x01", isoRoot, isoSector, true, stamp)...)
	for _, f := range i.files {
		directory = append(directory, record(f.name, f.sector, f.size, false, stamp)...)
	}
	le, be := make([]byte, 10), make([]byte, 10)
	le[0], be[0] = 1, 1
	binary.LittleEndian.PutUint32(le[2:], isoRoot)
	binary.LittleEndian.PutUint16(le[6:], 1)
	binary.BigEndian.PutUint32(be[2:], isoRoot)
	binary.BigEndian.PutUint16(be[6:], 1)
	return map[int64][]byte{
		isoPrimary: i.primaryDescriptor(self), isoBoot: bootDescriptor(), isoEnd: []byte("\xffCD001\x01"),
		isoPathLittle: le, isoPathBig: be, isoRoot: directory, isoCatalog: catalog(i.files[0].sector),
	}
}

// primaryDescriptor is ECMA-119, 8.4.
func (i *iso) primaryDescriptor(root []byte) []byte {
	b := make([]byte, isoSector)
	copy(b, "\x01CD001\x01")
	pad(b[8:40], "")
	pad(b[40:72], volumeName(i.name))
	both32(b[80:], uint32(i.next))
	both16(b[120:], 1)
	both16(b[124:], 1)
	both16(b[128:], isoSector)
	both32(b[132:], 10) // path table
	binary.LittleEndian.PutUint32(b[140:], isoPathLittle)
	binary.BigEndian.PutUint32(b[148:], isoPathBig)
	copy(b[156:], root)
	pad(b[190:813], "") // names of volume set, publisher, preparer, application and files
	pad(b[574:702], "ROOST")
	date := i.created.UTC().Format("20060102150405") + "00\x00"
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
func volumeName(s string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(s))
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
