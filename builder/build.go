package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"roost/builder/archive"
	"roost/builder/assemble"
	"roost/builder/lock"
	"roost/builder/pack"
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
	b, err := w.begin(r, l, o.Keys)
	if err != nil {
		return nil, err
	}
	image, artifacts, err := b.make(ctx)
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
