package builder

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"roost/images"
	"roost/images/depot"
	"roost/images/disk"
	"roost/images/disk/media"
	"roost/images/durable"
	"roost/images/keys"
	"roost/images/release"
	"roost/images/rootfs"
	"roost/images/uki"
	"roost/images/uki/authenticode"
)

// WriteDisk makes the file a raw disk of size bytes (0: the least the release needs) that boots the release from slot A.
// The file appears whole or not at all: after an error, what it held before is still there.
func WriteDisk(ctx context.Context, r *depot.Release, path string, size int64) error {
	needs := r.Document.Needs
	if size == 0 {
		size = needs.Disk
	}
	return writeMedium(ctx, r, path, func(f *os.File, p media.Parts) error {
		return media.WriteDisk(f, size, disk.Layout{Slot: needs.Slot, Verity: needs.Verity}, p)
	})
}

// WriteISO makes the file an ISO image that boots the release from an optical drive or a USB stick.
func WriteISO(ctx context.Context, r *depot.Release, path string) error {
	return writeMedium(ctx, r, path, media.WriteISO)
}

func writeMedium(ctx context.Context, r *depot.Release, path string, write func(*os.File, media.Parts) error) error {
	d := r.Document
	p := media.Parts{Name: d.Name, Version: d.Version, RootHash: d.RootHash, Created: d.Created}
	for kind, to := range map[images.Kind]*media.Part{images.KindUKI: &p.UKI, images.KindRoot: &p.Root, images.KindVerity: &p.Verity} {
		body, part, err := r.Content(ctx, kind)
		if err != nil {
			return err
		}
		defer body.Close()
		*to = media.Part{Content: body, Size: part.Size}
	}
	var err error
	if p.Loader, err = loaderOf(ctx, r); err != nil {
		return err
	}
	return writeFile(path, func(f *os.File) error { return write(f, p) })
}

// WriteEnrolment makes the file an ISO image that enrols the Secure Boot keys of a set into a machine whose firmware is in
// Setup Mode. The boot loader on it is the release's.
func WriteEnrolment(ctx context.Context, r *depot.Release, set *keys.Set, path string) error {
	e := media.Enrolment{Name: r.Document.Name + " keys", Created: r.Document.Created, Updates: map[string][]byte{}}
	var err error
	if e.Loader, err = loaderOf(ctx, r); err != nil {
		return err
	}
	for _, use := range []string{keys.PK, keys.KEK, keys.DB} {
		if e.Updates[use], err = set.Update(use); err != nil {
			return err
		}
	}
	return writeFile(path, func(f *os.File) error { return media.WriteEnrolment(f, e) })
}

func loaderOf(ctx context.Context, r *depot.Release) ([]byte, error) {
	body, _, err := r.Content(ctx, images.KindLoader)
	if err != nil {
		return nil, err
	}
	loader, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("cannot read the boot loader: %w", err)
	}
	return loader, nil
}

// writeFile makes the file at path by write, under another name until it is whole and on the disk. That name is always the
// same, so that what a killed run left is used up by the next.
func writeFile(path string, write func(f *os.File) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("cannot write %s: it is no regular file; name a new file, and copy that to a device with dd", path)
	}
	partial := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".partial")
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, explainFull(err, path))
	}
	// The lock is on the file, not on its name: another process may just have finished it and given it its own.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil || !named(f, partial) {
		return errors.Join(fmt.Errorf("cannot write %s: another process is writing it", path), f.Close())
	}
	if err = write(f); err == nil {
		err = durable.Move(partial, path)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("cannot write %s: %w", path, explainFull(err, path)), os.Remove(partial))
	}
	return errors.Join(err, f.Close()) // gives up the lock
}

// named tells whether the open file is still the one of that name.
func named(f *os.File, name string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	other, err := os.Stat(name)
	return err == nil && os.SameFile(opened, other)
}

// explainFull adds to a disk-full error what helps.
func explainFull(err error, path string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("the disk of %s is full; free some space and run this again: %w", filepath.Dir(path), err)
	}
	return err
}

// Verify checks a release as a machine would before it takes it, and more: the signature against the policy, every part
// against its digest, the UKI's and the loader's Authenticode signatures against the certificate when one is given, the root
// hash in the UKI's command line, every block of the root image against that root hash, and that the papers are whole.
func Verify(ctx context.Context, r *depot.Release, policy release.Policy, cert *x509.Certificate) (*release.Verified, error) {
	v, err := release.Verify(r.Bundle, policy)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "roost-verify-")
	if err != nil {
		return nil, fmt.Errorf("cannot verify release: %w", err)
	}
	defer os.RemoveAll(dir)
	files := map[images.Kind]*os.File{}
	for _, kind := range images.Kinds() {
		if files[kind], err = unpack(ctx, r, kind, dir); err != nil {
			return nil, fmt.Errorf("cannot verify release: %w", err)
		}
		defer files[kind].Close()
	}
	if err := verifyBoot(files, v.Release, cert); err != nil {
		return nil, fmt.Errorf("cannot verify release: %w", err)
	}
	if err := rootfs.Verify(ctx, files[images.KindRoot], files[images.KindVerity], v.Release.RootHash); err != nil {
		return nil, fmt.Errorf("cannot verify release: %w", err)
	}
	if _, err := r.Papers(ctx); err != nil {
		return nil, fmt.Errorf("cannot verify release: %w", err)
	}
	return v, nil
}

// unpack writes one part, decompressed and checked against its digest, to a file without a name to keep.
func unpack(ctx context.Context, r *depot.Release, kind images.Kind, dir string) (*os.File, error) {
	body, _, err := r.Content(ctx, kind)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	f, err := os.Create(filepath.Join(dir, string(kind)))
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, body); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%s is full; free some space, or name another directory for temporary files in TMPDIR: %w", os.TempDir(), err)
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", kind, err), f.Close())
	}
	return f, nil
}

func verifyBoot(files map[images.Kind]*os.File, doc *images.Release, cert *x509.Certificate) error {
	image, err := uki.Open(files[images.KindUKI], doc.UKI.Size)
	if err != nil {
		return err
	}
	line, err := image.CommandLine()
	if err != nil {
		return err
	}
	hash, err := uki.RootHash(line)
	if err != nil {
		return err
	}
	if hash != doc.RootHash || line != doc.CommandLine {
		return fmt.Errorf("the UKI's command line is %q, the release document says %q", line, doc.CommandLine)
	}
	if cert == nil {
		return nil
	}
	for _, kind := range []images.Kind{images.KindUKI, images.KindLoader} {
		pe, err := io.ReadAll(io.NewSectionReader(files[kind], 0, doc.Part(kind).Size))
		if err != nil {
			return err
		}
		if err := authenticode.Verify(pe, cert); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}
