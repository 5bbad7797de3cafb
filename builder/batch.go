package builder

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/errgroup"

	"roost/builder/assemble"
	"roost/builder/container"
	"roost/builder/cores"
	"roost/builder/lock"
	"roost/builder/pack"
	"roost/builder/program"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
	"roost/images/keys"
)

// batch is a release in the making. Its parts are made at the same time as far as they do not need each other: programs are
// compiled while packages are fetched and configured, and the initrd is packed while the tree is still being assembled.
type batch struct {
	*Workshop
	recipe *recipe.Recipe
	lock   *lock.Lock
	keys   *keys.Set
	module string // directory of Roost's own sources
	store  *tree.Store
	cores  *cores.Pool

	compiled   chan struct{}     // closed when the programs are there, which are:
	init       *program.Binary   // of the initrd
	programs   []*program.Binary // as Recipe.Programs
	containers []string          // archives, as Recipe.Containers

	initrd errgroup.Group // packs parts of the initrd
}

func (w *Workshop) begin(r *recipe.Recipe, l *lock.Lock, set *keys.Set) (*batch, error) {
	store, err := OpenTrees(w.Cache)
	if err != nil {
		return nil, err
	}
	module := w.Module
	if module == "" {
		if module, err = program.FindModule(".", filepath.Dir(r.Source())); err != nil {
			return nil, err
		}
	}
	return &batch{
		Workshop: w, recipe: r, lock: l, keys: set, module: module, store: store, cores: cores.New(runtime.GOMAXPROCS(0)),
		compiled: make(chan struct{}), programs: make([]*program.Binary, len(r.Programs)),
	}, nil
}

// make makes all parts.
func (b *batch) make(ctx context.Context) (image assemble.Result, artifacts *pack.Artifacts, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return b.compileAll(ctx) })
	group.Go(func() error {
		if err := b.stage("fetch", fmt.Sprintf("%d packages", packages(b.lock)), func() error { return b.fetch(ctx, b.lock) }); err != nil {
			return err
		}
		image, err = b.assemble(ctx)
		if err == nil {
			artifacts, err = b.pack(ctx, image)
		}
		return err
	})
	err = group.Wait()
	b.initrd.Wait() // pack has told what failed
	return image, artifacts, err
}

func packages(l *lock.Lock) (n int) {
	for range l.Packages() {
		n++
	}
	return n
}

// compileAll compiles the programs, and begins the initrd with the one that is its init.
func (b *batch) compileAll(ctx context.Context) error {
	return b.stage("compile", fmt.Sprintf("%d programs", len(b.programs)+1), func() error {
		group, compiling := errgroup.WithContext(ctx)
		group.Go(func() (err error) {
			own := program.Source{Module: b.module, Package: "./appliance/initrd", Architecture: b.recipe.Architecture, Cores: b.cores}
			b.init, err = program.Compile(compiling, b.Cache, own)
			return err
		})
		group.Go(func() (err error) {
			for i, want := range b.recipe.Programs {
				if b.programs[i], err = b.compile(compiling, want); err != nil {
					return err
				}
			}
			return nil
		})
		if err := group.Wait(); err != nil {
			return err
		}
		for _, c := range b.recipe.Containers {
			file, err := b.container(ctx, c)
			if err != nil {
				return err
			}
			b.containers = append(b.containers, file)
		}
		b.initrd.Go(func() error {
			return pack.Prepare(ctx, pack.Input{Init: b.init.Path, Cache: b.Cache, Log: b.Log, Cores: b.cores})
		})
		close(b.compiled)
		return nil
	})
}

// compile makes one program of the recipe.
func (b *batch) compile(ctx context.Context, want recipe.Program) (*program.Binary, error) {
	if _, pinned := want.Locked(); pinned {
		pin, ok := b.lock.Program(want.Name)
		if !ok || pin.Wants != want.WantsDigest() {
			return nil, fmt.Errorf("cannot compile %s: the lock does not pin it: run \"roost lock %s\"", want.Name, b.recipe.Source())
		}
		return program.CompileLocked(ctx, b.Cache, want, pin, b.recipe.Architecture, b.Offline)
	}
	s := program.Source{Module: b.module, Package: want.Package, Architecture: b.recipe.Architecture, Cores: b.cores}
	if want.Directory != "" {
		s.Module = filepath.Join(filepath.Dir(b.recipe.Source()), want.Directory)
	}
	return program.Compile(ctx, b.Cache, s)
}

// container makes the archive of one of the recipe's container images.
func (b *batch) container(ctx context.Context, c recipe.Container) (string, error) {
	r := b.recipe
	if i := slices.IndexFunc(r.Programs, func(have recipe.Program) bool { return have.Name == c.Program }); i >= 0 {
		return container.Of(ctx, b.Cache, c, b.programs[i].Path, r.Architecture)
	}
	pin, ok := b.lock.Container(c.Name)
	if !ok {
		return "", fmt.Errorf("cannot fetch image %s: the lock does not pin it: run \"roost lock %s\"", c.Name, r.Source())
	}
	return b.puller(r).Fetch(ctx, b.Cache, c, pin, b.Offline)
}

func (w *Workshop) puller(r *recipe.Recipe) container.Puller {
	return container.Puller{Base: filepath.Dir(r.Source()), Architecture: r.Architecture, Keychain: authn.DefaultKeychain}
}

// assemble makes the tree of the root image.
func (b *batch) assemble(ctx context.Context) (image assemble.Result, err error) {
	r := b.recipe
	table, err := b.readFile(recipe.Shipped + "ids.yaml")
	if err != nil {
		return image, fmt.Errorf("cannot read the table of user ids: %w", err)
	}
	ids, err := assemble.ParseIDs(table)
	if err != nil {
		return image, err
	}
	files, err := ownFiles(r, b.lock, b.keys)
	if err != nil {
		return image, err
	}
	config := assemble.Config{
		Store: b.store, Deb: b.Cache.Blob, Lock: b.lock, Recipe: r, IDs: ids, Files: files, Log: b.Log, Cores: b.cores,
		Programs: b.ready, Modules: b.packModules(ctx),
	}
	err = b.stage("assemble", r.Name+" "+string(r.Version), func() (err error) { image, err = assemble.Tree(ctx, config); return err })
	return image, err
}

// ready waits for the programs and says where they belong.
func (b *batch) ready(ctx context.Context) ([]assemble.Program, error) {
	select {
	case <-b.compiled:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var all []assemble.Program
	for i, want := range b.recipe.Programs {
		if want.Target != "" {
			all = append(all, assemble.Program{Target: want.Target, Path: b.programs[i].Path, Links: want.Links()})
		}
	}
	for i, c := range b.recipe.Containers {
		all = append(all, assemble.Program{Target: c.File(), Path: b.containers[i], Mode: 0o644})
	}
	return all, nil
}

// packModules returns a function that begins to pack kernel modules into the initrd, once.
func (b *batch) packModules(ctx context.Context) func(tree.Tree, assemble.Kernel) {
	var once sync.Once
	return func(modules tree.Tree, kernel assemble.Kernel) {
		once.Do(func() {
			b.initrd.Go(func() error {
				return pack.Prepare(ctx, pack.Input{
					Tree: modules, Store: b.store, Kernel: pack.Kernel{Version: kernel.Version}, InitrdModules: b.recipe.Kernel.InitrdModules,
					Cache: b.Cache, Log: b.Log, Cores: b.cores,
				})
			})
		})
	}
}

// Places of the boot loader and the UKI stub in Debian's systemd-boot-efi.
const (
	stubPath   = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	loaderPath = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

func (b *batch) pack(ctx context.Context, image assemble.Result) (a *pack.Artifacts, err error) {
	r, l := b.recipe, b.lock
	signer, cert := b.keys.SecureBootDB()
	in := pack.Input{
		Name: r.Name, Version: r.Version, Architecture: r.Architecture, Created: l.SourceDate(), Lock: l.Digest(),
		Tree: image.Tree, Store: b.store, Kernel: pack.Kernel{Version: image.Kernel.Version, Image: image.Kernel.Image},
		Arguments: r.Kernel.Arguments, InitrdModules: r.Kernel.InitrdModules, Init: b.init.Path,
		Slot: int64(r.Slot.Root), Verity: int64(r.Slot.Verity), State: int64(r.Slot.State), Memory: int64(r.Needs.Memory),
		Update: images.Update{Tries: r.Update.Tries, GateSeconds: r.Update.GateSeconds, RollbackFloor: r.Update.RollbackFloor},
		Gates:  r.Gates, Units: image.Units, Signer: signer, Cert: cert, Cache: b.Cache, Log: b.Log,
		Prepared: b.initrd.Wait,
	}
	for path, to := range map[string]*string{stubPath: &in.Stub, loaderPath: &in.Loader} {
		e, ok := image.Tree.Lookup(path)
		if !ok {
			return nil, fmt.Errorf("cannot make a boot image of %s: it has no %s; add the package systemd-boot-efi", r.Name, path)
		}
		*to = b.store.Path(e.Blob)
	}
	in.Packages = installed(l, image.Packages)
	in.Contained = map[string]string{}
	for _, c := range r.Containers {
		if i := slices.IndexFunc(r.Programs, func(have recipe.Program) bool { return have.Name == c.Program }); i >= 0 {
			in.Contained[c.File()] = b.programs[i].Path
		}
	}
	for i, p := range append([]*program.Binary{b.init}, b.programs...) {
		name := "initrd"
		if i > 0 {
			name = r.Programs[i-1].Name
		}
		in.Materials = append(in.Materials, pack.Material{URI: "pkg:golang/" + name + "?toolchain=" + p.Toolchain, Digest: p.Source})
	}
	err = b.stage("pack", r.Name+" "+string(r.Version), func() (err error) { a, err = pack.Image(ctx, in); return err })
	return a, err
}
