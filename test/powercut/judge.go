package powercut

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"roost/images"
	"roost/images/disk"
	"roost/images/disk/esp"
	"roost/images/uki"
	"roost/updater/boot"
	"roost/updater/slot"
)

// Version is a release that a rebuilt disk may boot.
type Version struct {
	Name     string
	UKI      images.Digest // of the signed file: what firmware accepts
	RootHash string
}

// Judge says what a machine would do with rebuilt disks: the loader's choice by the model, the firmware's by the digests of
// known UKIs, the initrd's by partition table and dm-verity. Results are kept by content, so that the large parts of a disk
// are read once and not for every state.
type Judge struct {
	Rebuilder *Rebuilder
	Versions  []Version
	Options   int // boot options of the firmware
	// Read takes a UKI apart; nil means ReadUKI.
	Read func(content []byte) (sortKey, version string, ok bool)

	esp     disk.Partition
	files   map[uint64]boot.Image   // what is in a file, by its sum
	volumes map[uint64][]boot.Image // what is on the ESP, by its sum
	proven  map[string]bool         // what dm-verity says of a slot, by its sum
}

// watchedESP is the number of the ESP among the regions that Open has watched; the slots come before.
const watchedESP = 2

// Verdict is what came up.
type Verdict struct {
	Version string   // empty: nothing
	File    string   // that the loader started
	Offered []string // all that the loader saw, in its order
	Trial   bool     // the version has counters, and no good name yet
}

// ReadUKI takes a real UKI apart as systemd-boot does.
func ReadUKI(content []byte) (sortKey, version string, ok bool) {
	image, err := uki.Open(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return "", "", false
	}
	release, err := image.OSRelease()
	if err != nil {
		return "", "", false
	}
	for _, line := range strings.Split(release, "\n") {
		name, value, _ := strings.Cut(line, "=")
		value = strings.Trim(value, `"`)
		switch name {
		case "IMAGE_ID":
			sortKey = value
		case "IMAGE_VERSION":
			version = value
		}
	}
	return sortKey, version, true
}

// Open finds the partitions on the disk as the record begins. It comes before the first Image of the rebuilder.
func (j *Judge) Open() error {
	table, err := disk.Read(j.Rebuilder.Base, j.Rebuilder.Size)
	if err != nil {
		return err
	}
	j.files, j.volumes, j.proven = map[uint64]boot.Image{}, map[uint64][]boot.Image{}, map[string]bool{}
	var ok bool
	if j.esp, ok = table.Find(disk.ESPA); !ok {
		return fmt.Errorf("cannot find partition %s", disk.ESPA)
	}
	for _, id := range []slot.ID{slot.A, slot.B} {
		root, _ := table.Find("root-" + string(id))
		verity, ok := table.Find("verity-" + string(id))
		if !ok {
			return fmt.Errorf("cannot find slot %s", id)
		}
		j.Rebuilder.Watch(root.Offset, verity.Offset+verity.Size-root.Offset) // they are neighbours
	}
	j.Rebuilder.Watch(j.esp.Offset, j.esp.Size)
	if j.Read == nil {
		j.Read = ReadUKI
	}
	return nil
}

// Judge powers a machine on with the disk of a state. start says how a version behaves that everything let through; nil
// means that it comes up.
func (j *Judge) Judge(ctx context.Context, s State, start func(version string) boot.Outcome) (Verdict, error) {
	return j.powerOn(ctx, j.Rebuilder.Image(s), start)
}

// powerOn is Judge of a disk that is rebuilt.
func (j *Judge) powerOn(ctx context.Context, image *Image, start func(version string) boot.Outcome) (Verdict, error) {
	model, err := j.model(image)
	if err != nil {
		return Verdict{}, err
	}
	verdict := Verdict{}
	for _, i := range model.Order() {
		verdict.Offered = append(verdict.Offered, i.File)
	}
	var failed error
	up, _, ok := model.PowerOn(20, func(i boot.Image) boot.Outcome {
		outcome, err := j.start(ctx, image, i)
		if failed == nil {
			failed = err
		}
		if outcome == boot.Up && start != nil {
			outcome = start(i.Version)
		}
		return outcome
	})
	if ok {
		name, _ := boot.ParseName(up.File)
		good := boot.Name{Base: name.Base}.String()
		verdict.Version, verdict.File = up.Version, up.File
		verdict.Trial = name.Counted && !slices.Contains(verdict.Offered, good)
	}
	return verdict, failed
}

// model reads what the loader sees.
func (j *Judge) model(image *Image) (boot.Model, error) {
	whole := image.Sum(watchedESP)
	if images, ok := j.volumes[whole]; ok {
		return boot.Model{Options: j.Options, Images: images}, nil
	}
	model := boot.Model{Options: j.Options}
	files, err := ReadFAT(image, j.esp.Offset, j.esp.Size)
	if err != nil {
		return model, err
	}
	for _, f := range files {
		name, ok := strings.CutPrefix(f.Path, esp.UKIDirectory+"/")
		if _, offered := boot.ParseName(name); !ok || !offered {
			continue
		}
		sum := f.sum(image, j.esp.Offset)
		known, ok := j.files[sum]
		if !ok {
			content := f.Content()
			known.Digest = images.DigestOf(content)
			known.SortKey, known.Version, known.Listed = j.Read(content)
			j.files[sum] = known
		}
		known.File = name
		model.Images = append(model.Images, known)
	}
	j.volumes[whole] = model.Images
	return model, nil
}

// start is the way from the loader to a mounted root.
func (j *Judge) start(ctx context.Context, image *Image, i boot.Image) (boot.Outcome, error) {
	n := slices.IndexFunc(j.Versions, func(v Version) bool { return v.UKI == i.Digest })
	if n < 0 {
		return boot.Refused, nil
	}
	slots := slot.Disk{Device: image}
	held, err := slots.Slots()
	if err != nil {
		return boot.Reset, nil // the initrd finds no table
	}
	for k, h := range held {
		if h.RootHash != j.Versions[n].RootHash {
			continue
		}
		key := fmt.Sprintf("%s %s %x", h.ID, h.RootHash, image.Sum(k))
		if _, ok := j.proven[key]; !ok {
			err := slots.Check(ctx, h.ID, h.RootHash)
			if ctx.Err() != nil {
				return boot.Reset, ctx.Err()
			}
			j.proven[key] = err == nil
		}
		if j.proven[key] {
			return boot.Up, nil
		}
	}
	return boot.Reset, nil
}
