// Package esp makes and reads the EFI system partition of a Roost machine: a FAT32 volume with systemd-boot at both names
// that firmware looks for, its configuration, and UKIs in /EFI/Linux.
//
// It exists because the builder has no vfat mount to rely on and the installer formats a blank partition; where the running
// system has the ESP mounted (the updater), plain files are used instead and only the names here matter.
//
// Promises: a volume depends on its input alone (same files, same bytes, whatever the clock says or the device held
// before), fsck.fat finds nothing to say, and when Format returns everything is on stable storage.
//
// Rejected for writing: go-diskfs 1.9.4. Measured with fsck.fat on volumes of 34 to 256 MiB, made with its option for
// reproducible ones: the ".." entries of directories under the root name the wrong cluster at every size, the FATs are two
// entries short at 64 MiB, the count of free clusters is missing, and timestamps are still the present. It reads volumes
// well and does so here.
package esp

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

// Names on the ESP.
const (
	FallbackLoader = "EFI/BOOT/BOOTX64.EFI"            // what firmware starts when it has no boot entry
	Loader         = "EFI/systemd/systemd-bootx64.efi" // what the boot entry names
	LoaderConf     = "loader/loader.conf"
	UKIDirectory   = "EFI/Linux"
)

// Config is the content of LoaderConf: no menu, no editor, nothing found but what UKIDirectory holds, and no key is
// enrolled without an operator's approval.
const Config = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\nsecure-boot-enroll off\n"

// MinSize is the size in bytes of the smallest volume that is FAT32 and not FAT16 on 512-byte sectors: 65,525 clusters.
// On 4096-byte sectors it is eight times as much.
const MinSize = 34 << 20

// File is a file to put on a volume. Path has slashes and no leading one.
type File struct {
	Path    string
	Content io.Reader // read once, to its end
}

// Volume says how to format.
type Volume struct {
	Label  string    // at most 11 characters: upper-case letters, digits, '-', '_' and blanks
	Serial uint32    // the volume's id; blkid shows it as UUID XXXX-XXXX
	Time   time.Time // timestamp of everything on it; FAT knows 1980 to 2107
	Sector int       // logical sector of the device, 512 (also when 0) or 4096
}

// Files returns what belongs on an ESP that boots this UKI. ukiName is the file name under UKIDirectory.
func Files(loader func() io.Reader, ukiName string, uki io.Reader) []File {
	return []File{
		{FallbackLoader, loader()},
		{Loader, loader()},
		{LoaderConf, strings.NewReader(Config)},
		{path.Join(UKIDirectory, ukiName), uki},
	}
}

// Read opens the FAT32 volume at offset for looking at.
func Read(d *os.File, offset, size int64) (fs.FS, error) {
	volume, err := fat32.Read(file.New(d, true), size, offset, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read ESP: %w", err)
	}
	return volume, nil
}
