package pack

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/builder/archive"
	"roost/builder/cores"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
	"roost/images/disk"
)

// Input is what a release is packed from.
type Input struct {
	Name         string         // of the recipe
	Version      images.Version // of the release
	Architecture string         // Debian's name
	Created      time.Time      // SOURCE_DATE_EPOCH: the time of every file
	Lock         images.Digest

	Tree     tree.Tree // as it will be mounted, kernel modules and their indexes included
	Store    *tree.Store
	Packages []Package

	Kernel        Kernel
	Arguments     []string          // of the kernel, after roothash= and the defaults
	InitrdModules []recipe.Rule     // which modules go into the initrd; none: DefaultInitrdModules
	Init          string            // file on the host: the static program that becomes /init
	Contained     map[string]string // archives of container images, by their paths in the image: the one program in each, on the host
	Stub          string            // file on the host: systemd's linuxx64.efi.stub
	Loader        string            // file on the host: systemd-boot, unsigned

	Slot, Verity, State int64 // bytes of the partitions; zero means disk's defaults, State is the least
	Memory              int64 // bytes of RAM a discovery boot needs
	Update              images.Update
	Gates               []images.Gate
	Units               []string

	Materials []Material // what else went in, for the provenance
	Signer    crypto.Signer
	Cert      *x509.Certificate // of Signer, as enrolled in db

	Cache *archive.Cache
	Log   *slog.Logger

	Cores    *cores.Pool  // that Prepare waits for; nil: it does not
	Prepared func() error // waits for what Prepare still makes; may be nil
}

// Kernel is the kernel image.
type Kernel struct {
	Version string        // as uname -r prints it
	Image   images.Digest // content of vmlinuz in the store
}

// Package is an installed package.
type Package struct {
	Name, Version, Architecture string
	Source, SourceVersion       string
	Digest                      images.Digest // of the .deb
	Files                       []string      // in the tree, absolute
}

// Material is something that took part in the build: a tool, a program's sources, a package of the tool tree.
type Material struct {
	URI    string
	Digest images.Digest
}

// File is an artefact in the cache. It must not be changed.
type File struct {
	Path   string
	Digest images.Digest
	Size   int64 // bytes
}

// Artifacts are the parts of a packed release.
type Artifacts struct {
	Release  *images.Release
	Document []byte // the release document, encoded

	UKI, Loader  File // signed, as they boot
	Root, Verity File // as they lie in a slot
	RootZstd     File // transport copies
	VerityZstd   File
	SBOM         File // SPDX 2.3 JSON
	Provenance   File // in-toto statement with SLSA v1 provenance

	Initrd      File // as in the UKI
	UnsignedUKI File // what a second build is compared with
}

// Blobs returns the parts as they travel, for a manifest.
func (a *Artifacts) Blobs() map[images.Kind]File {
	return map[images.Kind]File{images.KindUKI: a.UKI, images.KindRoot: a.RootZstd, images.KindVerity: a.VerityZstd, images.KindLoader: a.Loader}
}

// Limits of an image that must be fetched by TFTP and kept three times on an ESP.
const maxUKI = 40 << 20

// Image packs a release.
func Image(ctx context.Context, in Input) (*Artifacts, error) {
	if err := in.check(); err != nil {
		return nil, fmt.Errorf("cannot pack image: %w", err)
	}
	a, err := image(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("cannot pack image: %w", err)
	}
	return a, nil
}

func (in *Input) check() error {
	if in.Slot == 0 {
		in.Slot = disk.DefaultSlot
	}
	if in.Verity == 0 {
		in.Verity = disk.DefaultVerity
	}
	if in.Log == nil {
		in.Log = slog.New(slog.DiscardHandler)
	}
	in.Created = in.Created.UTC().Truncate(time.Second)
	switch {
	case in.Kernel.Version == "" || in.Kernel.Image == "":
		return errors.New("the tree has no kernel; add one to the recipe")
	case in.Signer == nil || in.Cert == nil:
		return errors.New("no Secure Boot key to sign with; make one with roost keys init")
	case in.Cache == nil || in.Store == nil:
		return errors.New("no cache or store")
	case in.Created.Unix() <= 0:
		return errors.New("no time of creation")
	}
	return nil
}

func image(ctx context.Context, in Input) (*Artifacts, error) {
	s := stages{cache: in.Cache, log: in.Log}
	a := &Artifacts{}
	var root rootImage
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { root, err = makeRoot(gctx, s, in); return err })
	group.Go(func() (err error) { a.Initrd, err = makeInitrd(gctx, s, in); return err })
	group.Go(func() (err error) { a.Loader, err = signLoader(gctx, s, in); return err })
	group.Go(func() (err error) { a.SBOM, err = makeSBOM(gctx, s, in); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	a.Root, a.RootZstd, a.Verity = root.data, root.packed, root.verity
	if a.Root.Size > in.Slot || a.Verity.Size > in.Verity {
		return nil, fmt.Errorf("root image of %d bytes and verity data of %d do not fit the slot's %d and %d; enlarge the recipe's slot or remove files",
			a.Root.Size, a.Verity.Size, in.Slot, in.Verity)
	}

	group, gctx = errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		a.UnsignedUKI, a.UKI, err = makeUKI(gctx, s, in, a.Initrd, root.hash)
		return err
	})
	group.Go(func() (err error) {
		a.VerityZstd, err = compress(gctx, s, a.Verity)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if a.UKI.Size > maxUKI {
		return nil, fmt.Errorf("UKI of %d bytes is larger than %d; put fewer modules into the initrd", a.UKI.Size, maxUKI)
	}

	a.Release = describe(in, a, root.hash)
	var err error
	if a.Document, err = a.Release.Encode(); err != nil {
		return nil, err
	}
	a.Provenance, err = makeProvenance(ctx, s, in, a)
	return a, err
}

// commandLine is what the UKI signs. panic=10: a panic must end in a reboot for a trial to be counted; consoles: both that
// a machine may have.
func commandLine(in Input, rootHash string) string {
	words := append([]string{"roothash=" + rootHash, "panic=10", "console=tty0", "console=ttyS0,115200"}, in.Arguments...)
	return strings.Join(words, " ")
}

// describe writes the release document.
func describe(in Input, a *Artifacts, rootHash string) *images.Release {
	part := func(f File) images.Part { return images.Part{Digest: f.Digest, Size: f.Size} }
	layout := disk.Layout{Slot: in.Slot, Verity: in.Verity}
	return &images.Release{
		Schema: images.Schema, Name: in.Name, Version: in.Version, Architecture: in.Architecture, Created: in.Created, Lock: in.Lock,
		Kernel: in.Kernel.Version, CommandLine: commandLine(in, rootHash), RootHash: rootHash,
		UKI: part(a.UKI), Loader: part(a.Loader), Root: part(a.Root), Verity: part(a.Verity),
		Needs: images.Needs{
			Slot: in.Slot, Verity: in.Verity, ESP: disk.DefaultESP, Disk: layout.MinSize() + in.State, Memory: in.Memory,
		},
		Update: in.Update, Gates: in.Gates, Units: in.Units,
	}
}

// rootImage is a root image with its hash tree.
type rootImage struct {
	data, packed, verity File
	hash                 string
}
