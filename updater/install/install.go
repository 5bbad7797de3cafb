package install

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"roost/images"
	"roost/images/disk"
	"roost/images/disk/esp"
	"roost/updater/boot"
	"roost/updater/slot"
)

// Errors that a caller may act on.
var (
	ErrNotBlank = errors.New("the disk is not blank; allow wiping it to install")
	ErrTooSmall = errors.New("the disk is too small")
)

// Request says what to install. Its signature was verified already.
type Request struct {
	Manifest images.Digest
	Release  images.Release
	Open     func(context.Context, images.Kind) (io.ReadCloser, error) // parts as used, decompressed
	Files    []File                                                    // for the state partition, slots.json not among them
	Wipe     bool                                                      // install though the disk holds something
	// Seed identifies this approval: a repeated request with the same seed goes on with what an earlier one began. Empty
	// means a random one.
	Seed []byte
}

// Installer installs on one disk.
type Installer struct {
	Path      string      // of the whole disk, for the formatter
	Device    slot.Device // the same, open
	Sector    int         // logical sector size of the disk; 0 means 512
	Formatter Formatter
	Variables *boot.Variables // nil: there are none, and the firmware's fallback path has to do
	Log       *slog.Logger
	// Progress, if set, is told how far a stage is; a total of 0 is unknown.
	Progress func(stage Stage, done, total int64)
}

// Stage is a part of an installation, for progress. The value is the wire form.
type Stage string

// The stages, in order.
const (
	StagePartition Stage = "partition"
	StageState     Stage = "state"
	StageSlot      Stage = "slot"
	StageVerify    Stage = "verify"
	StageBoot      Stage = "boot"
)

// Install makes the disk boot the release. It may be repeated.
func (i *Installer) Install(ctx context.Context, r Request) error {
	if err := i.install(ctx, r); err != nil {
		return fmt.Errorf("cannot install %s %s on %s: %w", r.Release.Name, r.Release.Version, i.Path, err)
	}
	return nil
}

func (i *Installer) install(ctx context.Context, r Request) error {
	if len(r.Seed) == 0 {
		r.Seed = make([]byte, 32)
		_, _ = rand.Read(r.Seed) // never fails (crypto/rand)
	}
	table, err := i.layout(r)
	if err != nil {
		return err
	}
	if err := i.prepare(r, table); err != nil {
		return err
	}
	if err := i.makeState(ctx, r, table); err != nil {
		return err
	}
	if err := i.fillSlot(ctx, r); err != nil {
		return err
	}
	return i.makeBootable(ctx, r, table)
}

// layout lays the disk out as the release needs.
func (i *Installer) layout(r Request) (*disk.Table, error) {
	size, needs := i.Device.Size(), r.Release.Needs
	layout := disk.Layout{ESP: needs.ESP, Slot: needs.Slot, Verity: needs.Verity}
	if want := max(needs.Disk, layout.MinSize()); size < want {
		return nil, fmt.Errorf("it has %d MiB, %d are needed: %w", size>>20, want>>20, ErrTooSmall)
	}
	if r.Release.Root.Size > layout.Slot && layout.Slot > 0 || r.Release.Verity.Size > layout.Verity && layout.Verity > 0 {
		return nil, fmt.Errorf("the release does not fit the slot it asks for: %w", slot.ErrDoesNotFit)
	}
	return layout.Table(size, i.sector(), r.Seed)
}

func (i *Installer) sector() int {
	if i.Sector == 0 {
		return 512
	}
	return i.Sector
}

// prepare makes sure that the disk may be used, takes away what is on it and writes the partition table.
func (i *Installer) prepare(r Request, table *disk.Table) error {
	i.report(StagePartition, 0, 0)
	found, err := Inspect(i.Device, i.Device.Size())
	if err != nil {
		return err
	}
	if len(found) > 0 && !r.Wipe && !i.begun(table) {
		return fmt.Errorf("%w: found %s", ErrNotBlank, strings.Join(found, "; "))
	}
	if len(found) > 0 {
		i.Log.Warn("disk is wiped", "disk", i.Path, "found", found)
	}
	// What made the disk bootable goes first, the new table comes after everything old is gone.
	const head = 1 << 20 // beyond all signatures that Inspect knows
	if err := i.zero(0, head); err != nil {
		return err
	}
	if err := i.Device.Sync(); err != nil {
		return err
	}
	if err := i.zero(i.Device.Size()-head, head); err != nil {
		return err
	}
	for _, p := range table.Partitions {
		if err := i.zero(p.Offset, min(head, p.Size)); err != nil {
			return err
		}
	}
	if err := i.Device.Sync(); err != nil {
		return err
	}
	return table.Write(i.Device, i.Device.Size())
}

// begun reports whether an earlier run of the same request wrote the partition table.
func (i *Installer) begun(table *disk.Table) bool {
	have, err := disk.Read(i.Device, i.Device.Size())
	return err == nil && have.Disk == table.Disk
}

func (i *Installer) zero(offset, n int64) error {
	_, err := i.Device.WriteAt(make([]byte, n), offset)
	return err
}

func (i *Installer) report(stage Stage, done, total int64) {
	if i.Progress != nil {
		i.Progress(stage, done, total)
	}
}

// makeState formats the state partition with the identity and the record of what is in slot A.
func (i *Installer) makeState(ctx context.Context, r Request, table *disk.Table) error {
	i.report(StageState, 0, 0)
	state, _ := table.Find(disk.State)
	record, err := json.MarshalIndent([]slot.Installed{installed(r)}, "", "  ")
	if err != nil {
		return err
	}
	files := append([]File{{Path: "lib/roost/slots.json", Mode: 0o600, Data: append(record, '\n')}}, r.Files...)
	if err := i.Formatter.Format(ctx, i.Path, state.Offset, state.Size-disk.StateTail, files); err != nil {
		return err
	}
	return i.Device.Sync()
}

func installed(r Request) slot.Installed {
	return slot.Installed{Manifest: r.Manifest, Name: r.Release.Name, Version: r.Release.Version, RootHash: r.Release.RootHash,
		UKI: r.Release.UKI, File: boot.BaseName(r.Release.Name, string(r.Release.Version))}
}

func (i *Installer) fillSlot(ctx context.Context, r Request) error {
	slots := slot.Disk{Device: i.Device, Progress: func(done, total int64) { i.report(StageSlot, done, total) }}
	content := slot.Content{RootHash: r.Release.RootHash, Root: r.Release.Root, Verity: r.Release.Verity, Open: r.Open}
	if err := slots.Write(ctx, slot.A, content); err != nil {
		return err
	}
	i.report(StageVerify, 0, 0)
	return slots.Seal(ctx, slot.A, r.Release.RootHash)
}

// makeBootable writes the EFI system partition, reads it back, and puts the disk first in the firmware's order.
func (i *Installer) makeBootable(ctx context.Context, r Request, table *disk.Table) error {
	i.report(StageBoot, 0, 0)
	loader, err := i.part(ctx, r, images.KindLoader)
	if err != nil {
		return err
	}
	uki, err := i.part(ctx, r, images.KindUKI)
	if err != nil {
		return err
	}
	a, _ := table.Find(disk.ESPA)
	name := boot.Name{Base: installed(r).File}.String()
	volume := esp.Volume{Label: "ESP-A", Serial: binary.LittleEndian.Uint32(a.UUID[:]), Time: r.Release.Created, Sector: i.sector()}
	if volume.Time.Before(time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)) {
		volume.Time = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	files := esp.Files(func() io.Reader { return bytes.NewReader(loader) }, name, bytes.NewReader(uki))
	if err := esp.Format(i.Device, a.Offset, a.Size, volume, files); err != nil {
		return err
	}
	if err := i.readBack(a, r, name); err != nil {
		return err
	}
	if i.Variables == nil {
		return nil
	}
	sector := uint64(i.sector())
	options := boot.BootOptions(boot.Option{Number: uint32(a.Number), Start: uint64(a.Offset) / sector, Size: uint64(a.Size) / sector, Partition: a.UUID.String()})
	return i.Variables.SetFirst(options)
}

// part reads a small part into memory and checks it.
func (i *Installer) part(ctx context.Context, r Request, kind images.Kind) ([]byte, error) {
	source, err := r.Open(ctx, kind)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	defer source.Close()
	want := r.Release.Part(kind)
	data, err := io.ReadAll(io.LimitReader(source, want.Size+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	if images.DigestOf(data) != want.Digest {
		return nil, fmt.Errorf("%s: %d bytes are not what the release names", kind, len(data))
	}
	return data, nil
}

// readBack compares loader and UKI on the disk with the release, past every cache.
func (i *Installer) readBack(a disk.Partition, r Request, name string) error {
	file, err := os.Open(i.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil { // all pages are clean since Format's sync
		return fmt.Errorf("cannot drop caches of %s: %w", i.Path, err)
	}
	volume, err := esp.Read(file, a.Offset, a.Size)
	if err != nil {
		return err
	}
	for path, want := range map[string]images.Part{esp.FallbackLoader: r.Release.Loader, esp.Loader: r.Release.Loader, esp.UKIDirectory + "/" + name: r.Release.UKI} {
		f, err := volume.Open(path)
		if err != nil {
			return fmt.Errorf("cannot read back %s: %w", path, err)
		}
		err = matches(f, want)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("cannot read back %s: %w", path, err)
		}
	}
	return nil
}

func matches(f fs.File, want images.Part) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := sha256.New()
	// The FAT reader may give the rest of the last sector too.
	if _, err := io.Copy(h, io.LimitReader(f, want.Size)); err != nil {
		return err
	}
	if got := images.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))); got != want.Digest || info.Size() != want.Size {
		return fmt.Errorf("%d bytes with digest %s, want %d with %s", info.Size(), got, want.Size, want.Digest)
	}
	return nil
}
