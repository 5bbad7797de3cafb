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
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"roost/images/disk"
	"roost/images/disk/esp"
)

// Names of the files on an ISO image. ECMA-119 level 1 has 8.3 characters; Linux shows them in lower case.
const (
	isoESP    = "EFI.IMG"
	isoRoot   = "ROOT.IMG"
	isoVerity = "VERITY.IMG"
)

const (
	isoSector  = 2048
	isoPrimary = 16 * isoSector // primary volume descriptor (ECMA-119, 8.4)
	isoMaxFile = 1<<32 - isoSector
)

// WriteISO makes f, which is emptied first, an image that boots by UEFI from an optical drive or, written as it is, from a
// USB stick: an EFI system partition whose only program is the UKI, and the root image and verity data both as files
// (root.img, verity.img) and as partitions named by the root hash.
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
	i.files = append(i.files, isoFile{isoRoot, "iso-root", disk.RootA, root, p.Root.Size}, isoFile{isoVerity, "iso-verity", disk.VerityA, verity, p.Verity.Size})
	at, err := i.write(f, []esp.File{{Path: esp.FallbackLoader, Content: p.UKI.Content}})
	if err != nil {
		return err
	}
	if err := copySparse(f, at[isoRoot], p.Root); err != nil {
		return fmt.Errorf("cannot fill %s: %w", isoRoot, err)
	}
	if err := copySparse(f, at[isoVerity], p.Verity); err != nil {
		return fmt.Errorf("cannot fill %s: %w", isoVerity, err)
	}
	return f.Sync()
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
	_, err := i.write(f, files)
	if err := errors.Join(err, f.Sync()); err != nil {
		return fmt.Errorf("cannot make enrolment image: %w", err)
	}
	return nil
}

// iso is an image to be made: an EFI system partition first, then files, each a partition too.
type iso struct {
	name, seed string
	created    time.Time
	files      []isoFile
}

// isoFile is a file that is also a partition. size is in bytes.
type isoFile struct {
	name, partition, kind string
	uuid                  disk.GUID
	size                  int64
}

// newISO returns an image whose EFI system partition has room for programs of size bytes. The partition is one sector
// longer than its file system: that brings what follows to whole 4096 bytes, the blocks of dm-verity.
func newISO(name, seed string, created time.Time, size int64) *iso {
	room := roundUp(max(esp.MinSize, size+size/32+2<<20), 1<<20)
	return &iso{name: name, seed: seed, created: created, files: []isoFile{{isoESP, "iso-esp", disk.ESPA, guidOf("iso " + seed), room + isoSector}}}
}

// guidOf returns a GUID (version 8, RFC 9562) that depends on the seed only.
func guidOf(seed string) disk.GUID {
	sum := sha256.Sum256([]byte(seed))
	g := disk.GUID(sum[:16])
	g[7], g[8] = g[7]&0x0f|0x80, g[8]&0x3f|0x80
	return g
}

// write makes all of the image but the content of the files behind the EFI system partition, and says where that goes.
func (i *iso) write(f *os.File, programs []esp.File) (at map[string]int64, err error) {
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if err := i.lay(f); err != nil {
		return nil, err
	}
	if err := stamp(f, i.created); err != nil {
		return nil, err
	}
	table := disk.Table{Disk: guidOf("iso disk " + i.seed), SectorSize: 512}
	if at, err = i.find(f); err != nil {
		return nil, err
	}
	end := int64(0)
	for number, file := range i.files {
		offset := at[file.name]
		if number > 0 && offset%4096 != 0 {
			return nil, fmt.Errorf("%s lies at byte %d, which is no whole block", file.name, offset)
		}
		table.Partitions = append(table.Partitions, disk.Partition{
			Number: number + 1, Name: file.partition, Type: disk.Types()[file.kind], UUID: file.uuid, Offset: offset, Size: file.size,
		})
		end = max(end, offset+file.size)
	}
	size := roundUp(end, 1<<20) + 1<<20 // the backup table lies behind
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	spec := esp.Volume{Label: "ROOST", Serial: serialOf(i.files[0].uuid), Time: i.created}
	if err := esp.Format(f, at[isoESP], i.files[0].size-isoSector, spec, programs); err != nil {
		return nil, err
	}
	return at, writeTable(f, size, &table)
}

// lay has go-diskfs lay the file system out. It takes files from a directory; these are holes of the right size, so that
// contents are written once, straight to their places.
func (i *iso) lay(f *os.File) error {
	workspace, err := os.MkdirTemp("", "roost-iso-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(workspace)
	for _, file := range i.files {
		path := filepath.Join(workspace, file.name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, file.size)); err != nil {
			return err
		}
	}
	target := &holes{File: f}
	image, err := iso9660.Create(file.New(target, false), 0, 0, isoSector, workspace)
	if err != nil {
		return err
	}
	boot := &iso9660.ElToritoEntry{Platform: iso9660.EFI, Emulation: iso9660.NoEmulation, BootFile: isoESP}
	err = image.Finalize(iso9660.FinalizeOptions{
		VolumeIdentifier: volumeName(i.name), PublisherIdentifier: "ROOST",
		ElTorito: &iso9660.ElTorito{HideBootCatalog: true, Entries: []*iso9660.ElToritoEntry{boot}},
	})
	return errors.Join(err, target.err)
}

// find returns the offset of each file, in bytes.
func (i *iso) find(f *os.File) (map[string]int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	image, err := iso9660.Read(file.New(f, true), info.Size(), 0, isoSector)
	if err != nil {
		return nil, err
	}
	at := map[string]int64{}
	for _, file := range i.files {
		info, err := image.Stat(file.name)
		if err != nil {
			return nil, err
		}
		where, ok := info.Sys().(*iso9660.StatT)
		if !ok {
			return nil, fmt.Errorf("no place of %s is known", file.name)
		}
		at[file.name] = int64(where.Location) * isoSector
	}
	return at, nil
}

// holes is a file for go-diskfs to write to: zeros stay holes, and the first error is kept, as Finalize drops some.
type holes struct {
	*os.File
	err error
}

// WriteAt writes b unless it is all zero.
func (h *holes) WriteAt(b []byte, at int64) (int, error) {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return len(b), nil
	}
	n, err := h.File.WriteAt(b, at)
	if h.err == nil {
		h.err = err
	}
	return n, err
}

// stamp puts one time where go-diskfs puts the present, in the local time zone: into the volume descriptor and the records
// of the root directory (ECMA-119, 8.4 and 9.1).
func stamp(f *os.File, t time.Time) error {
	t = t.UTC()
	short := []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0}
	volume, directory := make([]byte, isoSector), make([]byte, isoSector)
	if _, err := f.ReadAt(volume, isoPrimary); err != nil {
		return err
	}
	record := volume[156:190] // of the root directory
	at := int64(binary.LittleEndian.Uint32(record[2:])) * isoSector
	if _, err := f.ReadAt(directory, at); err != nil {
		return err
	}
	copy(record[18:], short)
	for rest := directory; len(rest) > 33 && rest[0] > 33 && int(rest[0]) <= len(rest); rest = rest[rest[0]:] {
		copy(rest[18:], short)
	}
	date, none := t.Format("20060102150405")+"00\x00", strings.Repeat("0", 16)+"\x00"
	copy(volume[813:], date+date+none+none) // made, changed, expires, takes effect
	_, err := f.WriteAt(volume, isoPrimary)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(directory, at)
	return err
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

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
