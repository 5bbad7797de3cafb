package boot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"roost/images"
)

// UKI is one unified kernel image that belongs on the partition.
type UKI struct {
	Base   string        `json:"base"`   // see BaseName
	Digest images.Digest `json:"digest"` // of the file
	Size   int64         `json:"size"`   // bytes
}

// ESP is the set of UKIs of one machine. One process uses it at a time.
type ESP struct {
	Volume Volume
}

// ErrNotFound says that the partition holds no intact copy of a UKI.
var ErrNotFound = errors.New("no intact copy on the EFI system partition")

// temporary is what a UKI is called while it is written; the loader looks at no such name.
const temporary = ".new"

// Find returns the name of a UKI as the loader would prefer it: the good name, else the counted name with most tries left.
func (e ESP) Find(uki UKI) (Name, bool, error) {
	names, err := e.named(uki)
	if err != nil || len(names) == 0 {
		return Name{}, false, err
	}
	return names[0], true, nil
}

// named returns all names of a UKI, best first: those of its base, and aliases. FAT keeps a long name in entries before the
// short one; where a cut rename left only the latter, the file goes by an alias such as EDGE_2~1.EFI, without counters.
func (e ESP) named(uki UKI) ([]Name, error) {
	files, err := e.Volume.Names()
	if err != nil {
		return nil, fmt.Errorf("cannot list the EFI system partition: %w", err)
	}
	var names []Name
	for _, file := range files {
		name, ok := ParseName(file)
		if ok && (strings.EqualFold(name.Base, uki.Base) || strings.Contains(file, "~") && e.Verify(file, uki) == nil) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b Name) int {
		if a.Counted != b.Counted {
			if a.Counted {
				return 1
			}
			return -1
		}
		return b.Left - a.Left
	})
	return names, nil
}

// Arm puts a UKI on trial: the loader will prefer it for tries attempts. open gives its bytes. The file is written under a
// name the loader ignores, made to last, read back and compared with its digest, and only then renamed.
// Armed already, it is left as it is, so that a repeated Arm does not give tries back.
func (e ESP) Arm(ctx context.Context, uki UKI, tries int, open func(context.Context) (io.ReadCloser, error)) error {
	if tries < 1 || tries > 9 {
		return fmt.Errorf("cannot arm %s: %d tries, want 1 to 9", uki.Base, tries)
	}
	name := Name{Base: uki.Base, Counted: true, Left: tries}
	if err := e.place(ctx, uki, name, open); err != nil {
		return fmt.Errorf("cannot arm %s: %w", uki.Base, err)
	}
	return nil
}

// place makes sure that an intact copy of the UKI has a name as good as want: exactly want when want is good, any name with
// tries left when want is on trial. It then removes all other names of the base.
func (e ESP) place(ctx context.Context, uki UKI, want Name, open func(context.Context) (io.ReadCloser, error)) error {
	names, err := e.named(uki)
	if err != nil {
		return err
	}
	var kept *Name
	for _, name := range names {
		if !serves(name, want) {
			continue
		}
		if err := e.Verify(name.String(), uki); err == nil {
			kept = &name
			break
		}
	}
	if kept == nil {
		if err := e.write(ctx, uki, want, open); err != nil {
			return err
		}
		kept = &want
	}
	return e.removeOthers(uki, *kept)
}

func serves(have, want Name) bool {
	if !want.Counted || want.Left == 0 {
		return have == want
	}
	return have.Counted && have.Left > 0
}

func (e ESP) write(ctx context.Context, uki UKI, name Name, open func(context.Context) (io.ReadCloser, error)) error {
	part := uki.Base + temporary
	if err := e.fill(ctx, part, uki, open); err != nil {
		return err
	}
	if err := e.Volume.Sync(); err != nil {
		return fmt.Errorf("cannot sync the EFI system partition: %w", err)
	}
	if err := e.Verify(part, uki); err != nil {
		return fmt.Errorf("cannot read back: %w", err)
	}
	if err := e.makeWay(uki, name); err != nil {
		return err
	}
	if err := e.Volume.Rename(part, name.String()); err != nil {
		return fmt.Errorf("cannot rename %s to %s: %w", part, name, err)
	}
	if err := e.Volume.Sync(); err != nil {
		return fmt.Errorf("cannot sync the EFI system partition: %w", err)
	}
	return nil
}

func (e ESP) fill(ctx context.Context, part string, uki UKI, open func(context.Context) (io.ReadCloser, error)) error {
	source, err := open(ctx)
	if errors.Is(err, ErrNotFound) && e.Verify(part, uki) == nil {
		return nil // a rename that was cut left the only copy under this name
	}
	if err != nil {
		return err
	}
	defer source.Close()
	f, err := e.Volume.Create(part)
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", part, err)
	}
	n, err := io.Copy(f, io.LimitReader(source, uki.Size+1))
	if err == nil && n != uki.Size {
		err = fmt.Errorf("got %d bytes, want %d", n, uki.Size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = e.Volume.Remove(part) // frees the space now; otherwise Collect does
		return fmt.Errorf("cannot write %s: %w", part, err)
	}
	return nil
}

// Verify compares a file with what it should be, byte for byte by its digest.
func (e ESP) Verify(file string, uki UKI) error {
	f, err := e.Volume.Open(file)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", file, err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	if got := images.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))); got != uki.Digest || n != uki.Size {
		return fmt.Errorf("cannot verify %s: %d bytes with digest %s, want %d with %s", file, n, got, uki.Size, uki.Digest)
	}
	return nil
}

// Commit makes a UKI good: its name loses the counters. It is copied rather than renamed, so that at no moment the version
// that runs has no name.
func (e ESP) Commit(ctx context.Context, uki UKI) error {
	if err := e.relabel(ctx, uki, Name{Base: uki.Base}); err != nil {
		return fmt.Errorf("cannot commit %s: %w", uki.Base, err)
	}
	return nil
}

// Demote puts a UKI behind all others without losing it, so that an older version can be put on trial. Commit undoes it.
func (e ESP) Demote(ctx context.Context, uki UKI) error {
	if err := e.relabel(ctx, uki, Name{Base: uki.Base, Counted: true}); err != nil {
		return fmt.Errorf("cannot demote %s: %w", uki.Base, err)
	}
	return nil
}

func (e ESP) relabel(ctx context.Context, uki UKI, name Name) error {
	return e.place(ctx, uki, name, func(context.Context) (io.ReadCloser, error) { return e.intact(uki) })
}

// intact opens an intact copy of a UKI under any of its names.
func (e ESP) intact(uki UKI) (io.ReadCloser, error) {
	names, err := e.named(uki)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if e.Verify(name.String(), uki) == nil {
			return e.Volume.Open(name.String())
		}
	}
	return nil, fmt.Errorf("%s: %w", uki.Base, ErrNotFound)
}

// Intact reports whether the partition holds a UKI byte for byte, under whatever name; ErrNotFound when not.
func (e ESP) Intact(uki UKI) error {
	source, err := e.intact(uki)
	if err != nil {
		return err
	}
	return source.Close()
}

// Adopt returns what the partition holds of base as the UKI to keep, for a machine that lost its own record of it.
func (e ESP) Adopt(base string) (UKI, error) {
	name, ok, err := e.Find(UKI{Base: base})
	if err != nil {
		return UKI{}, err
	}
	if !ok {
		return UKI{}, fmt.Errorf("%s: %w", base, ErrNotFound)
	}
	f, err := e.Volume.Open(name.String())
	if err != nil {
		return UKI{}, fmt.Errorf("cannot open %s: %w", name, err)
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return UKI{}, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return UKI{Base: name.Base, Digest: images.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), Size: size}, nil
}

// Room returns the bytes that are free once Collect has removed all but keep.
func (e ESP) Room(keep ...UKI) (int64, error) {
	_, free, err := e.Volume.Space()
	if err != nil {
		return 0, fmt.Errorf("cannot measure the EFI system partition: %w", err)
	}
	files, err := e.superfluous(keep)
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		size, err := e.Volume.Size(file)
		if err != nil {
			return 0, fmt.Errorf("cannot measure %s: %w", file, err)
		}
		free += size
	}
	return free, nil
}

// MarkBad puts a UKI behind all others. It is a plain rename: whether the file survives a power cut is of no interest, only
// that no good name of it does.
func (e ESP) MarkBad(uki UKI) error {
	names, err := e.named(uki)
	if err != nil {
		return err
	}
	bad := Name{Base: uki.Base, Counted: true, Done: 1}
	for _, name := range names {
		bad.Done = max(bad.Done, name.Done)
	}
	for _, name := range names {
		if name.Bad() && strings.EqualFold(name.Base, uki.Base) {
			bad = name
		}
	}
	for i, name := range names {
		switch {
		case name == bad:
		case i == 0 && !slices.Contains(names, bad):
			err = e.Volume.Rename(name.String(), bad.String())
		default:
			err = e.remove(name.String())
		}
		if err != nil {
			return fmt.Errorf("cannot mark %s bad: %w", name, err)
		}
	}
	if err := e.Volume.Sync(); err != nil {
		return fmt.Errorf("cannot sync the EFI system partition: %w", err)
	}
	return nil
}

// Collect removes every UKI and leftover that is not in keep. Before the first removal it reads each UKI of keep in full:
// where one is not intact, nothing is removed, for what looks superfluous may be all that boots.
func (e ESP) Collect(keep ...UKI) error {
	for _, uki := range keep {
		source, err := e.intact(uki)
		if err != nil {
			return fmt.Errorf("cannot clean up the EFI system partition: %w", err)
		}
		source.Close()
	}
	files, err := e.superfluous(keep)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := e.remove(file); err != nil {
			return err
		}
	}
	if err := e.Volume.Sync(); err != nil {
		return fmt.Errorf("cannot sync the EFI system partition: %w", err)
	}
	return nil
}

// superfluous returns the files that Collect would remove: UKIs and leftovers that keep does not name.
func (e ESP) superfluous(keep []UKI) ([]string, error) {
	files, err := e.Volume.Names()
	if err != nil {
		return nil, fmt.Errorf("cannot list the EFI system partition: %w", err)
	}
	return slices.DeleteFunc(files, func(file string) bool {
		name, ok := ParseName(file)
		if !ok {
			return !strings.HasSuffix(file, temporary) // what is neither is none of ours
		}
		return slices.ContainsFunc(keep, func(u UKI) bool {
			return strings.EqualFold(u.Base, name.Base) || strings.Contains(file, "~") && e.Verify(file, u) == nil
		})
	}), nil
}

// makeWay removes the names of base that the new name must not meet. Besides the name itself those are, before a trial, all
// counted ones: where the loader finds the name it would count down to, it does not count, and a version that panics would
// be started for ever.
func (e ESP) makeWay(uki UKI, name Name) error {
	return e.removeNames(uki, func(have Name) bool {
		return have == name || have.Counted && name.Counted && name.Left > 0
	})
}

// removeOthers removes all names of a UKI but one.
func (e ESP) removeOthers(uki UKI, keep Name) error {
	return e.removeNames(uki, func(have Name) bool { return have != keep })
}

// removeNames removes the names of a UKI that match, and makes that last.
func (e ESP) removeNames(uki UKI, match func(Name) bool) error {
	names, err := e.named(uki)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n Name) bool { return !match(n) })
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		if err := e.remove(name.String()); err != nil {
			return err
		}
	}
	if err := e.Volume.Sync(); err != nil {
		return fmt.Errorf("cannot sync the EFI system partition: %w", err)
	}
	return nil
}

func (e ESP) remove(file string) error {
	if err := e.Volume.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", file, err)
	}
	return nil
}
