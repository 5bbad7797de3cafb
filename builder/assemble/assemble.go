// Package assemble turns locked packages and a recipe's edits into the tree of a root image. It is the only place that
// knows how packages become files.
//
// Packages are unpacked by us, once each and in parallel, into trees that are cached by the digest of the .deb. Groups of
// packages, fixed by the lock, go on top of one another; the tree after each is cached by the digests below and its own
// packages. Inside a group the real maintainer scripts run under the real dpkg, both out of the tree itself, in a
// namespace that holds nothing of the host ([assembly.run] says how). Then the recipe's edits are made, kernel modules are
// picked, decompressed and indexed, and the seal takes out identity, secrets, logs, caches and state.
//
// Promises: one configuration gives one tree, wherever and whenever it is assembled; the host is not touched; an error
// names the package whose script failed and what it said; a cancelled context leaves no process.
//
// It needs root, or a user namespace with a range of ids, which BecomeRoot makes.
//
// Rejected: computing what scripts do instead of running them. It was measured: the scripts of a bootable system of 138
// packages take 6 seconds on two processors, less than unpacking it, and the same code configures Ceph, Kubernetes and
// OpenStack together (775 packages), which nobody would have computed right. What is computed is what scripts cannot know:
// modules, units, accounts and the seal. Also rejected: apt in a chroot (no layers, needs the network's view of the world,
// acts on the host's /dev and /proc) and dpkg --unpack (one process, decompresses again each time).
package assemble

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"roost/builder/cores"
	"roost/builder/deb"
	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
)

// Config says what to assemble. Store, Deb, Lock and Recipe are needed.
type Config struct {
	Store    *tree.Store
	Deb      func(images.Digest) (path string, err error) // where the fetched .deb with this digest is
	Lock     *lock.Lock                                   // the packages
	Recipe   *recipe.Recipe                               // the edits
	Programs func(context.Context) ([]Program, error)     // waits until they are compiled; may be nil
	Files    []recipe.File                                // of the builder, on top of the recipe's: trust keys, the stamp
	IDs      IDs
	Cores    *cores.Pool  // nil: one of all processors
	Log      *slog.Logger // nil: silent

	// Modules is called as soon as the kernel and its modules are likely to be final, with a tree of the modules only, so that
	// work on them may begin. What they are in the end is in the result. It may be called more than once, and from another
	// goroutine; it may be nil.
	Modules func(tree.Tree, Kernel)
}

// Result is an assembled image.
type Result struct {
	Tree     tree.Tree
	Kernel   Kernel      // zero in an image without one; its content is in the store
	Packages []Installed // as dpkg's status has them
	Units    []string    // enabled units, sorted
}

// Installed is a package in the image.
type Installed struct {
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	Architecture string   `json:"architecture"`
	Source       string   `json:"source"`        // name of the source package
	SourceVer    string   `json:"sourceVersion"` // its version
	Files        []string `json:"files"`         // in the image, absolute, sorted; directories left out
}

// assembly is one run of Tree.
type assembly struct {
	Config
	programs []Program
	memory   deb.Memory
	copies   *copies         // of files that jobs share; nil: none
	trash    *errgroup.Group // removes directories of jobs; nil: they are removed at once
	plain    sync.Pool       // of *bytes.Buffer, for decompressed modules
}

// finishVersion is part of the key of every finished tree; it changes when edits or the seal do.
const finishVersion = "finish 3"

// Tree assembles. When nothing changed since an earlier call, the answer comes from the store.
func Tree(ctx context.Context, c Config) (Result, error) {
	a := &assembly{Config: c}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	if a.Cores == nil {
		a.Cores = cores.New(runtime.GOMAXPROCS(0))
	}
	result, err := a.tree(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("cannot assemble %s: %w", a.Recipe.Name, explainFull(err))
	}
	return result, nil
}

// errFound ends work that is not needed.
var errFound = errors.New("the image is in the store")

// tree has the packages configured while the programs are being compiled.
func (a *assembly) tree(ctx context.Context) (Result, error) {
	dir, err := a.Store.Scratch("copies-")
	if err != nil {
		return Result{}, err
	}
	a.copies, a.trash = &copies{dir: dir, kept: map[copied]string{}}, new(errgroup.Group)
	defer a.trash.Wait() // whatever it leaves is cleared when the cache is pruned
	defer a.discard(dir)
	var key images.Digest
	var result Result
	var configured tree.Tree
	group, early := errgroup.WithContext(ctx)
	group.Go(func() (err error) { configured, err = a.configured(early); return err })
	group.Go(func() (err error) {
		if a.Programs != nil {
			if a.programs, err = a.Programs(early); err != nil {
				return err
			}
		}
		if key, err = a.finishKey(); err != nil {
			return err
		}
		var found bool
		if result, found, err = a.loadResult(early, key); err == nil && found {
			err = errFound
		}
		return err
	})
	switch err := group.Wait(); {
	case err == errFound:
		return result, nil
	case err != nil:
		return Result{}, err
	}
	result, err = a.finish(ctx, configured)
	if err != nil {
		return Result{}, err
	}
	return result, a.saveResult(key, result)
}

// discard removes a directory, when nothing else is to be done.
func (a *assembly) discard(dir string) {
	if a.trash == nil {
		os.RemoveAll(dir)
		return
	}
	a.Cores.Go(context.Background(), a.trash, func() error { return os.RemoveAll(dir) })
}

// configured returns the tree of all packages. The kernel's modules are prepared while later packages are configured, on the
// assumption that these change nothing about them. Where that is wrong, finish finds nothing in the store and prepares them
// again.
func (a *assembly) configured(ctx context.Context) (tree.Tree, error) {
	ctx, cancel := context.WithCancel(ctx)
	var early errgroup.Group
	begun := false
	t, err := a.groups(ctx, func(t tree.Tree) {
		kernel, ok, err := FindKernel(t)
		if begun || !ok || err != nil {
			return
		}
		begun = true
		early.Go(func() error {
			_, err := a.modules(ctx, t, kernel)
			return err
		})
	})
	if err != nil {
		cancel()
	}
	early.Wait() // what failed fails again in finish, if it matters
	cancel()
	return t, err
}

// finish makes an image of configured packages.
func (a *assembly) finish(ctx context.Context, t tree.Tree) (Result, error) {
	kernel, ok, err := FindKernel(t)
	if err != nil {
		return Result{}, err
	}
	if ok {
		if t, err = a.modules(ctx, t, kernel); err != nil {
			return Result{}, err
		}
	}
	packages, err := a.installed(t)
	if err != nil {
		return Result{}, err
	}
	if t, err = a.edit(t); err != nil {
		return Result{}, err
	}
	if t, err = a.seal(t); err != nil {
		return Result{}, err
	}
	for i := range packages {
		packages[i].Files = present(t, packages[i].Files)
	}
	return Result{Tree: t, Kernel: kernel, Packages: packages, Units: EnabledUnits(t)}, nil
}

// finishKey names the finished tree by all that goes into it.
func (a *assembly) finishKey() (images.Digest, error) {
	keys := a.groupKeys()
	parts := []string{finishVersion, string(a.Recipe.Digest())}
	if len(keys) > 0 {
		parts = append(parts, string(keys[len(keys)-1]))
	}
	files, err := json.Marshal(a.Files)
	if err != nil {
		return "", err
	}
	parts = append(parts, string(files))
	for _, p := range a.programs {
		d, err := digestFile(p.Path)
		if err != nil {
			return "", err
		}
		parts = append(parts, p.Target, d)
		parts = append(parts, p.Links...)
	}
	return keyOf(parts...), nil
}

func digestFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// record is what a saved result has besides its tree.
type record struct {
	Kernel   Kernel      `json:"kernel"`
	Packages []Installed `json:"packages"`
	Units    []string    `json:"units"`
}

// saveResult keeps a result as two trees: the image, and one with the record and what the image does not hold.
func (a *assembly) saveResult(key images.Digest, r Result) error {
	b, err := json.Marshal(record{r.Kernel, r.Packages, r.Units})
	if err != nil {
		return err
	}
	d := tree.NewDraft()
	if err := a.write(d, "/record", 0o644, b); err != nil {
		return err
	}
	if r.Kernel.Image != "" {
		if err := d.Put(tree.Entry{Path: "/kernel", Type: tree.File, Mode: 0o644, Blob: r.Kernel.Image, Size: r.Kernel.Size}); err != nil {
			return err
		}
	}
	beside, err := d.Tree()
	if err != nil {
		return err
	}
	return errors.Join(a.Store.SaveTree(keyOf("record", string(key)), beside), a.Store.SaveTree(key, r.Tree))
}

func (a *assembly) loadResult(ctx context.Context, key images.Digest) (Result, bool, error) {
	t, ok, err := a.Store.LoadTree(ctx, key)
	if err != nil || !ok {
		return Result{}, false, err
	}
	beside, ok, err := a.Store.LoadTree(ctx, keyOf("record", string(key)))
	if err != nil || !ok {
		return Result{}, false, err
	}
	e, _ := beside.Lookup("/record")
	b, err := a.Store.ReadFile(e.Blob)
	if err != nil {
		return Result{}, false, nil // damaged and gone from the store: made again
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return Result{}, false, nil
	}
	return Result{Tree: t, Kernel: r.Kernel, Packages: r.Packages, Units: r.Units}, true, nil
}

// keyOf names a list of strings: a digest that no other list has.
func keyOf(parts ...string) images.Digest {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return images.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}
