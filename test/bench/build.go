package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"roost/builder/archive"
	"roost/builder/lock"
	"roost/builder/program"
	"roost/images"
	"roost/images/depot"
)

// Recipes of the bench: the shipped one, and the same with a leaf package in its top group.
const (
	edgeRecipe = "include: [\"roost:edge.yaml\"]\nname: edge\nversion: 1.0.0\n"
	leafRecipe = "include: [\"roost:edge.yaml\"]\nname: edge\nversion: 2.0.0\npackages: [" + leafPackage + "]\n"
)

const leafPackage = "less"

// edge is the release that was built, with what peers get of it.
type edge struct {
	lock, leaf *lock.Lock
	release    *images.Release
	cold       measured
}

// path is a file of the work directory.
func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// makeEdge builds edge cold: with packages, Go modules and Go's own build cache there, and nothing else.
func (b *bench) makeEdge(ctx context.Context) (*edge, error) {
	e := &edge{}
	if err := b.prepare(ctx, e); err != nil {
		return nil, fmt.Errorf("cannot prepare the build: %w", err)
	}
	b.say("build of edge, cold: %s", ours)
	var err error
	if e.release, e.cold, err = b.roostBuild(ctx, "edge.yaml"); err != nil {
		return nil, err
	}
	return e, b.unpackRelease(ctx)
}

// prepare makes the command, keys, locks and a cache that holds packages only.
func (b *bench) prepare(ctx context.Context, e *edge) error {
	b.say("preparing: command, keys, lock, packages")
	for _, dir := range []string{"recipes", "keys", "depot", "cold", "ours"} {
		if err := os.RemoveAll(b.path(dir)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.MkdirAll(b.path("recipes"), 0o755), os.MkdirAll(b.path("ours"), 0o755)); err != nil {
		return err
	}
	cmd := command(ctx, "go", "build", "-o", b.path("roost"), ".")
	cmd.Dir = b.source
	if err := finish(cmd, "go build"); err != nil {
		return err
	}
	if _, err := b.roost(ctx, nil, "keys", "init", b.path("keys"), "--name", "Bench"); err != nil {
		return err
	}
	var err error
	if e.lock, err = b.makeLock(ctx, "edge.yaml", edgeRecipe); err != nil {
		return err
	}
	// The second lock starts from the first, so that it differs by the leaf alone.
	if err := copyFile(b.path("recipes", "edge.lock"), b.path("recipes", "leaf.lock")); err != nil {
		return err
	}
	if e.leaf, err = b.makeLock(ctx, "leaf.yaml", leafRecipe); err != nil {
		return err
	}
	return b.stockPackages(ctx, e)
}

// roost runs the command under test. What it prints goes to stdout, what it says of its progress is returned.
func (b *bench) roost(ctx context.Context, stdout io.Writer, arguments ...string) (measured, error) {
	cmd := command(ctx, append([]string{b.path("roost")}, arguments...)...)
	cmd.Dir = b.source
	words := &tail{}
	cmd.Stdout, cmd.Stderr = stdout, words
	begun := time.Now()
	if err := finish(cmd, "roost "+arguments[0]); err != nil {
		return measured{}, fmt.Errorf("%w%s", err, words)
	}
	return measured{took: time.Since(begun), cpu: processor(cmd), note: words.all()}, nil
}

// makeLock writes a recipe and locks it with the archive's present state.
func (b *bench) makeLock(ctx context.Context, name, text string) (*lock.Lock, error) {
	recipe := b.path("recipes", name)
	if err := os.WriteFile(recipe, []byte(text), 0o644); err != nil {
		return nil, err
	}
	arguments := []string{"lock", recipe}
	if b.mirror != "" {
		arguments = append(arguments, "--mirror", b.mirror)
	}
	if _, err := b.roost(ctx, io.Discard, arguments...); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(strings.TrimSuffix(recipe, ".yaml") + ".lock")
	if err != nil {
		return nil, err
	}
	return lock.Decode(data)
}

// stockPackages fetches all packages into the user's cache and links them into the cold one. It also compiles the image's
// programs once elsewhere, so that Go has everything they need.
func (b *bench) stockPackages(ctx context.Context, e *edge) error {
	dir, err := archive.DefaultDir(os.Getenv)
	if err != nil {
		return err
	}
	warm, err := archive.OpenCache(dir)
	if err != nil {
		return err
	}
	defer warm.Close()
	mirror, err := archive.FindMirror(b.mirror, os.Getenv, os.DirFS("/"))
	if err != nil {
		return err
	}
	var items []archive.Item
	for _, l := range []*lock.Lock{e.lock, e.leaf} {
		for p := range l.Packages() {
			items = append(items, archive.Item{Suite: p.Suite, Path: p.File, Size: p.Size, SHA256: p.SHA256})
		}
	}
	if err := (&archive.Source{Cache: warm, Mirror: mirror}).Fetch(ctx, items); err != nil {
		return err
	}
	for _, item := range items {
		blob, err := warm.Blob(item.SHA256)
		if err != nil {
			return err
		}
		if err := linkFile(blob, b.path("cold", archive.SectionBlobs, item.SHA256.Hex())); err != nil {
			return err
		}
	}
	for _, name := range []string{"./appliance/initrd", "./appliance/roostd"} {
		if _, err := program.Compile(ctx, warm, program.Source{Module: b.source, Package: name, Architecture: "amd64"}); err != nil {
			return err
		}
	}
	return nil
}

// linkFile gives a file a second name, or copies it to another file system. What is there already stays.
func linkFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return copyFile(from, to)
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// roostBuild builds a recipe with the cold cache, without network, and publishes the release. The note says what its stages
// took.
func (b *bench) roostBuild(ctx context.Context, recipe string) (*images.Release, measured, error) {
	var out bytes.Buffer
	m, err := b.roost(ctx, &out, "build", b.path("recipes", recipe), "--cache", b.path("cold"), "--offline", "--source", b.source,
		"--keys", b.path("keys"), "--depot", b.path("depot"), "-o", "json")
	if err != nil {
		return nil, m, err
	}
	m.note = "stages: " + parseStages(m.note)
	var built struct {
		Release *images.Release `json:"release"`
	}
	if err := json.Unmarshal(out.Bytes(), &built); err != nil {
		return nil, m, fmt.Errorf("cannot read what roost build printed: %w", err)
	}
	return built.Release, m, nil
}

// parseStages makes "fetch 0.0 s, compile 7.1 s, …" of the lines that roost build prints at the end of each stage.
func parseStages(words string) string {
	var stages []string
	for line := range strings.Lines(words) {
		f := strings.Fields(line)
		if len(f) >= 3 && f[2] == "s" {
			stages = append(stages, f[0]+" "+f[1]+" s")
		}
	}
	return strings.Join(stages, ", ")
}

// unpackRelease puts the parts of the release where peers and machines find them: ours/uki, root, verity, loader.
func (b *bench) unpackRelease(ctx context.Context) error {
	d, err := depot.Open(ctx, b.path("depot"), depot.Options{})
	if err != nil {
		return err
	}
	defer d.Close()
	r, err := d.Get(ctx, "edge:1.0.0")
	if err != nil {
		return err
	}
	for _, kind := range images.Kinds() {
		body, _, err := r.Content(ctx, kind)
		if err != nil {
			return err
		}
		f, err := os.Create(b.path("ours", string(kind)))
		if err != nil {
			return errors.Join(err, body.Close())
		}
		_, err = io.Copy(f, body)
		if err := errors.Join(err, f.Close(), body.Close()); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", kind, err)
		}
	}
	return nil
}

// build compares the time to make edge, and holds its sizes against the targets.
func (b *bench) build(ctx context.Context) ([]Row, error) {
	e, err := b.built(ctx)
	if err != nil {
		return nil, err
	}
	b.say("build of edge with one leaf package more: %s", ours)
	_, leaf, err := b.roostBuild(ctx, "leaf.yaml")
	if err != nil {
		return nil, err
	}
	b.say("build of edge with nothing changed: %s", ours)
	_, same, err := b.roostBuild(ctx, "leaf.yaml")
	if err != nil {
		return nil, err
	}
	first := e.cold
	first.note = "Roost also compiles the image's programs (Go's own cache warm), compresses for transport, writes SBOM and provenance, signs and publishes; " +
		"peers get programs and initrd ready-made and do none of that; " + first.note
	cold := Row{What: "build of edge, cold, packages cached", Unit: Seconds, Target: Target{Limit: 90, Times: 2}, Results: []Result{first.result(ours)}}
	change := Row{What: "build after one leaf package more", Unit: Seconds, Target: Target{Limit: 15}, Results: []Result{leaf.result(ours)}}
	none := Row{What: "build with nothing changed", Unit: Seconds, Target: Target{Limit: 1}, Results: []Result{same.result(ours)}}
	root := Row{What: "root image of edge, uncompressed", Unit: Megabytes, Target: Target{Limit: 450}, Results: []Result{{Who: ours, Value: float64(e.release.Root.Size) / 1e6}}}
	uki := Row{What: "kernel image (UKI) of edge", Unit: Megabytes, Target: Target{Limit: 40}, Results: []Result{{Who: ours, Value: float64(e.release.UKI.Size) / 1e6}}}
	for _, p := range b.builders(ctx, e) {
		for row, m := range map[*Row]measured{&cold: p.cold, &change: p.leaf, &none: p.same} {
			row.Results = append(row.Results, m.result(p.who))
		}
		if p.cold.err == nil {
			root.Results = append(root.Results, Result{Who: p.who, Value: float64(p.root) / 1e6, Note: p.tree})
			uki.Results = append(uki.Results, Result{Who: p.who, Value: float64(p.uki) / 1e6})
		}
	}
	return []Row{cold, change, none, root, uki}, nil
}
