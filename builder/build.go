package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"roost/builder/archive"
	"roost/builder/assemble"
	"roost/builder/container"
	"roost/builder/lock"
	"roost/builder/pack"
	"roost/builder/program"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
	"roost/images/depot"
	"roost/images/keys"
)

// Order says what to build and where to.
type Order struct {
	Recipe  string         // file, or "roost:NAME" for a shipped one
	Version images.Version // of the release; the recipe's when empty
	Keys    *keys.Set
	Depot   string // where the release is published, see depot.ParseReference; "" for nowhere
}

// Built is a release that was built.
type Built struct {
	Release   *images.Release  `json:"release"`
	Digest    images.Digest    `json:"digest,omitempty"` // of the manifest; empty when the release was not published
	Depot     string           `json:"depot,omitempty"`
	Contents  *images.Contents `json:"-"`
	Artifacts *pack.Artifacts  `json:"-"`
}

// Build makes a release of a recipe, from its lock, and publishes it. It resolves nothing: a lock that is missing or
// does not answer the recipe is an error that says what to run.
func (w *Workshop) Build(ctx context.Context, o Order) (*Built, error) {
	r, err := w.Load(o.Recipe)
	if err != nil {
		return nil, err
	}
	if o.Version != "" {
		r.Version = o.Version
	}
	l, err := w.ReadLock(r)
	if err != nil {
		return nil, err
	}
	programs, err := w.prepare(ctx, r, l)
	if err != nil {
		return nil, err
	}
	store, err := OpenTrees(w.Cache)
	if err != nil {
		return nil, err
	}
	image, err := w.assemble(ctx, r, l, programs, store, o.Keys)
	if err != nil {
		return nil, err
	}
	artifacts, err := w.pack(ctx, r, l, programs, store, image, o.Keys)
	if err != nil {
		return nil, err
	}
	built := &Built{Release: artifacts.Release, Artifacts: artifacts, Contents: contentsOf(r, l, image)}
	if o.Depot != "" {
		built.Depot = o.Depot
		err = w.publish(ctx, o, built)
	}
	return built, err
}

// programs are the compiled programs of a release: the init of the initrd, and what the recipe asks for.
type programs struct {
	init       *program.Binary
	recipe     []*program.Binary // as Recipe.Programs
	containers []string          // archives, as Recipe.Containers
}

// prepare fetches packages and compiles programs at the same time: one waits for the network, the other for processors.
func (w *Workshop) prepare(ctx context.Context, r *recipe.Recipe, l *lock.Lock) (*programs, error) {
	module := w.Module
	if module == "" {
		found, err := program.FindModule(".", filepath.Dir(r.Source()))
		if err != nil {
			return nil, err
		}
		module = found
	}
	p := &programs{recipe: make([]*program.Binary, len(r.Programs))}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return w.stage("fetch", fmt.Sprintf("%d packages", packages(l)), func() error { return w.fetch(ctx, l) })
	})
	group.Go(func() error {
		return w.stage("compile", fmt.Sprintf("%d programs", len(r.Programs)+1), func() (err error) {
			s := program.Source{Module: module, Package: "./appliance/initrd", Architecture: r.Architecture}
			if p.init, err = program.Compile(ctx, w.Cache, s); err != nil {
				return err
			}
			for i, want := range r.Programs {
				if p.recipe[i], err = w.compile(ctx, r, l, module, want); err != nil {
					return err
				}
			}
			return w.containers(ctx, r, l, p)
		})
	})
	return p, group.Wait()
}

// containers makes the archives of the recipe's container images.
func (w *Workshop) containers(ctx context.Context, r *recipe.Recipe, l *lock.Lock, p *programs) error {
	for _, c := range r.Containers {
		file, err := w.container(ctx, r, l, p, c)
		if err != nil {
			return err
		}
		p.containers = append(p.containers, file)
	}
	return nil
}

func (w *Workshop) container(ctx context.Context, r *recipe.Recipe, l *lock.Lock, p *programs, c recipe.Container) (string, error) {
	if i := slices.IndexFunc(r.Programs, func(have recipe.Program) bool { return have.Name == c.Program }); i >= 0 {
		return container.Of(ctx, w.Cache, c, p.recipe[i].Path, r.Architecture)
	}
	pin, ok := l.Container(c.Name)
	if !ok {
		return "", fmt.Errorf("cannot fetch image %s: the lock does not pin it: run \"roost lock %s\"", c.Name, r.Source())
	}
	return w.puller(r).Fetch(ctx, w.Cache, c, pin, w.Offline)
}

func (w *Workshop) puller(r *recipe.Recipe) container.Puller {
	return container.Puller{Base: filepath.Dir(r.Source()), Architecture: r.Architecture, Keychain: authn.DefaultKeychain}
}

// compile makes one program of the recipe.
func (w *Workshop) compile(ctx context.Context, r *recipe.Recipe, l *lock.Lock, module string, want recipe.Program) (*program.Binary, error) {
	if _, pinned := want.Locked(); pinned {
		pin, ok := l.Program(want.Name)
		if !ok || pin.Wants != want.WantsDigest() {
			return nil, fmt.Errorf("cannot compile %s: the lock does not pin it: run \"roost lock %s\"", want.Name, r.Source())
		}
		return program.CompileLocked(ctx, w.Cache, want, pin, r.Architecture, w.Offline)
	}
	s := program.Source{Module: module, Package: want.Package, Architecture: r.Architecture}
	if want.Directory != "" {
		s.Module = filepath.Join(filepath.Dir(r.Source()), want.Directory)
	}
	return program.Compile(ctx, w.Cache, s)
}

func packages(l *lock.Lock) (n int) {
	for range l.Packages() {
		n++
	}
	return n
}

// assemble makes the tree of the root image.
func (w *Workshop) assemble(ctx context.Context, r *recipe.Recipe, l *lock.Lock, p *programs, store *tree.Store, set *keys.Set) (image assemble.Result, err error) {
	table, err := w.readFile(recipe.Shipped + "ids.yaml")
	if err != nil {
		return image, fmt.Errorf("cannot read the table of user ids: %w", err)
	}
	ids, err := assemble.ParseIDs(table)
	if err != nil {
		return image, err
	}
	files, err := ownFiles(r, l, set)
	if err != nil {
		return image, err
	}
	config := assemble.Config{Store: store, Deb: w.Cache.Blob, Lock: l, Recipe: r, IDs: ids, Files: files, Log: w.Log}
	for i, want := range r.Programs {
		if want.Target != "" {
			config.Programs = append(config.Programs, assemble.Program{Target: want.Target, Path: p.recipe[i].Path, Links: want.Links()})
		}
	}
	for i, c := range r.Containers {
		config.Programs = append(config.Programs, assemble.Program{Target: c.File(), Path: p.containers[i], Mode: 0o644})
	}
	err = w.stage("assemble", r.Name+" "+string(r.Version), func() (err error) { image, err = assemble.Tree(ctx, config); return err })
	return image, err
}

// ownFiles are what a release holds besides packages and the recipe's files: whom it trusts, and what it is.
func ownFiles(r *recipe.Recipe, l *lock.Lock, set *keys.Set) ([]recipe.File, error) {
	public, err := set.ReleasePublicPEM()
	if err != nil {
		return nil, err
	}
	stamp, err := json.Marshal(map[string]any{"name": r.Name, "version": r.Version, "lock": l.Digest()})
	if err != nil {
		return nil, err
	}
	file := func(path string, content []byte) recipe.File {
		return recipe.File{Path: path, Mode: 0o644, Owner: "root", Group: "root", Content: content}
	}
	files := []recipe.File{
		file("/usr/lib/roost/trust/release.pub", public),
		file("/usr/lib/roost/release.json", append(stamp, '\n')),
	}
	if len(r.Components) > 0 {
		components, err := componentsFile(r, l)
		if err != nil {
			return nil, err
		}
		files = append(files, file(images.ComponentsPath, components))
	}
	return files, nil
}

// Places of the boot loader and the UKI stub in Debian's systemd-boot-efi.
const (
	stubPath   = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	loaderPath = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

func (w *Workshop) pack(ctx context.Context, r *recipe.Recipe, l *lock.Lock, p *programs, store *tree.Store, image assemble.Result, set *keys.Set) (a *pack.Artifacts, err error) {
	signer, cert := set.SecureBootDB()
	in := pack.Input{
		Name: r.Name, Version: r.Version, Architecture: r.Architecture, Created: l.SourceDate(), Lock: l.Digest(),
		Tree: image.Tree, Store: store, Kernel: pack.Kernel{Version: image.Kernel.Version, Image: image.Kernel.Image},
		Arguments: r.Kernel.Arguments, InitrdModules: r.Kernel.InitrdModules, Init: p.init.Path,
		Slot: int64(r.Slot.Root), Verity: int64(r.Slot.Verity), State: int64(r.Slot.State), Memory: int64(r.Needs.Memory),
		Update: images.Update{Tries: r.Update.Tries, GateSeconds: r.Update.GateSeconds, RollbackFloor: r.Update.RollbackFloor},
		Gates:  r.Gates, Units: image.Units, Signer: signer, Cert: cert, Cache: w.Cache, Log: w.Log,
	}
	for path, to := range map[string]*string{stubPath: &in.Stub, loaderPath: &in.Loader} {
		e, ok := image.Tree.Lookup(path)
		if !ok {
			return nil, fmt.Errorf("cannot make a boot image of %s: it has no %s; add the package systemd-boot-efi", r.Name, path)
		}
		*to = store.Path(e.Blob)
	}
	in.Packages = installed(l, image.Packages)
	for i, b := range append([]*program.Binary{p.init}, p.recipe...) {
		name := "initrd"
		if i > 0 {
			name = r.Programs[i-1].Name
		}
		in.Materials = append(in.Materials, pack.Material{URI: "pkg:golang/" + name + "?toolchain=" + b.Toolchain, Digest: b.Source})
	}
	err = w.stage("pack", r.Name+" "+string(r.Version), func() (err error) { a, err = pack.Image(ctx, in); return err })
	return a, err
}

// installed joins what dpkg says of the packages with the digests of the lock.
func installed(l *lock.Lock, list []assemble.Installed) []pack.Package {
	digests := map[string]images.Digest{}
	for p := range l.Packages() {
		digests[p.Name] = p.SHA256
	}
	out := make([]pack.Package, 0, len(list))
	for _, p := range list {
		out = append(out, pack.Package{Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Source, SourceVersion: p.SourceVer, Digest: digests[p.Name], Files: p.Files})
	}
	return out
}

// publish signs the release and puts it into the depot.
func (w *Workshop) publish(ctx context.Context, o Order, built *Built) error {
	return w.stage("publish", o.Depot, func() (err error) {
		defer func() {
			if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, depot.ErrNoSpace) {
				err = fmt.Errorf("%w; free some space there, or name another place with --depot, and build again: what was made is in the cache", err)
			}
		}()
		d, err := depot.Open(ctx, o.Depot, depot.Options{Create: true})
		if err != nil {
			return err
		}
		defer d.Close()
		a := built.Artifacts
		publication := depot.Publication{Document: a.Release, Parts: map[images.Kind]string{}, Papers: map[string][]byte{}, Signer: o.Keys.Release()}
		for kind, f := range a.Blobs() {
			publication.Parts[kind] = f.Path
		}
		for mediaType, f := range map[string]pack.File{images.MediaTypeSBOM: a.SBOM, images.MediaTypeInToto: a.Provenance} {
			if publication.Papers[mediaType], err = os.ReadFile(f.Path); err != nil {
				return fmt.Errorf("cannot read %s: %w", mediaType, err)
			}
		}
		if publication.Papers[images.MediaTypeContents], err = json.Marshal(built.Contents); err != nil {
			return err
		}
		r, err := d.Publish(ctx, publication)
		if err != nil {
			return err
		}
		built.Digest = r.Manifest.Digest
		return nil
	})
}

// OpenTrees opens the store of trees that a cache holds beside its files.
func OpenTrees(cache *archive.Cache) (*tree.Store, error) {
	return tree.OpenStore(filepath.Join(cache.Dir(), "trees"))
}
