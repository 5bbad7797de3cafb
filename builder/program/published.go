package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"roost/builder/archive"
	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/images"
)

// Pin chooses the modules that p is built from, by Go's own rules, with the toolchain of this computer. It asks the
// network, as the Go toolchain is set up to, and the sums it returns were checked against the checksum database where
// that is set up.
func Pin(ctx context.Context, p recipe.Program) (lock.Program, error) {
	pin, err := resolve(ctx, p)
	if err != nil {
		return lock.Program{}, fmt.Errorf("cannot lock program %s: %w", p.Name, err)
	}
	return pin, nil
}

func resolve(ctx context.Context, p recipe.Program) (lock.Program, error) {
	version, err := toolchain(ctx, os.TempDir())
	if err != nil {
		return lock.Program{}, err
	}
	b, err := newBench(version, false)
	if err != nil {
		return lock.Program{}, err
	}
	defer os.RemoveAll(b.dir)
	pin := lock.Program{Name: p.Name, Wants: p.WantsDigest(), Toolchain: version, Go: languageOf(version), Modules: []lock.Module{}}
	for _, m := range p.Modules {
		pin.Modules = append(pin.Modules, lock.Module{Path: m.Path, Version: m.Version, Require: lock.Direct})
	}
	if err := b.writeModule(pin); err != nil {
		return lock.Program{}, err
	}
	if len(p.Modules) > 0 {
		if err := b.open(ctx, p, &pin); err != nil {
			return lock.Program{}, err
		}
	}
	if err := b.writeSources(p); err != nil {
		return lock.Program{}, err
	}
	if err := b.writeModule(pin); err != nil {
		return lock.Program{}, err
	}
	if err := b.tool(ctx, p); err != nil {
		return lock.Program{}, err
	}
	if _, err := b.run(ctx, "mod", "tidy"); err != nil {
		return lock.Program{}, err
	}
	return pin, b.readModule(ctx, &pin)
}

// CompileLocked returns a program whose modules and toolchain are pinned, from the cache when it is there; then it asks
// nobody. Else modules come from where the Go toolchain is set up to take them, or, offline, from its module cache.
func CompileLocked(ctx context.Context, cache *archive.Cache, p recipe.Program, pin lock.Program, architecture string, offline bool) (*Binary, error) {
	text, err := json.Marshal([]any{"published 1", p.Name, p.Package, p.Commands, p.Main, p.Stamps, pin, architecture})
	if err != nil {
		return nil, err
	}
	key := images.DigestOf(text)
	bin := &Binary{Source: key, Toolchain: pin.Toolchain}
	bin.Path, err = cache.Entry(Section, key.Hex())
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return bin, err
	}
	build := func(w io.Writer) error { return compileLocked(ctx, p, pin, architecture, offline, w) }
	if err := cache.PutEntry(Section, key.Hex(), build); err != nil {
		return nil, fmt.Errorf("cannot compile %s: %w", p.Name, err)
	}
	bin.Path, err = cache.Entry(Section, key.Hex())
	return bin, err
}

func compileLocked(ctx context.Context, p recipe.Program, pin lock.Program, architecture string, offline bool, w io.Writer) error {
	b, err := newBench(pin.Toolchain, offline)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.writeModule(pin); err != nil {
		return err
	}
	if len(p.Commands) > 0 {
		if err := b.find(ctx, p); err != nil {
			return err
		}
	}
	if err := b.writeSources(p); err != nil {
		return err
	}
	flags := []string{"-s", "-w", "-buildid="}
	for _, s := range p.Stamps {
		flags = append(flags, "-X", s.Key+"="+s.Value)
	}
	out := filepath.Join(b.dir, "out")
	what := "."
	if len(p.Modules) > 0 && p.Package != "" {
		what = p.Package
	}
	b.env = append(b.env, "GOOS=linux", "GOARCH="+architecture)
	if _, err := b.run(ctx, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags="+strings.Join(flags, " "), "-o", out, what); err != nil {
		return err
	}
	return copyFile(w, out)
}

// bench is the directory of the main module that a program is built in.
type bench struct {
	dir  string
	env  []string
	dirs map[string]string // module path to its files in the module cache, for modules that have commands
}

func newBench(toolchain string, offline bool) (*bench, error) {
	dir, err := os.MkdirTemp("", "roost-program-")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, dirs: map[string]string{}}
	b.env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOAMD64=v1", "GOTOOLCHAIN="+toolchain)
	if offline {
		b.env = append(b.env, "GOPROXY=off")
	}
	return b, nil
}

// niceness of compilers: a large program takes many minutes, and the computer has other work.
const niceness = 10

// run calls the go command in the module and returns what it prints. The error holds the command's own words.
func (b *bench) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = b.dir, b.env
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Start()
	if err == nil {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, niceness) // only for the comfort of others
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", args[0], explain(err, words.String()+out.String()))
	}
	return out.Bytes(), nil
}

// lastLines keeps an error readable: the reason is at the end.
func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

func (b *bench) write(name, text string) error {
	file := filepath.Join(b.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// moduleName is the path of the main module; it begins the names of the packages that are copied into it.
const moduleName = "roost.local/program"

// writeModule writes go.mod and go.sum from the pins.
func (b *bench) writeModule(pin lock.Program) error {
	var mod, sum strings.Builder
	fmt.Fprintf(&mod, "module %s\n\ngo %s\n\n", moduleName, pin.Go)
	for _, m := range pin.Modules {
		if m.Require != "" {
			comment := ""
			if m.Require == lock.Indirect {
				comment = " // indirect"
			}
			fmt.Fprintf(&mod, "require %s %s%s\n", m.Path, m.Version, comment)
		}
		if m.Replaces {
			fmt.Fprintf(&mod, "replace %s => %s %s\n", m.Path, m.Path, m.Version)
		}
		if m.Sum != "" {
			fmt.Fprintf(&sum, "%s %s %s\n", m.Path, m.Version, m.Sum)
		}
		if m.GoMod != "" {
			fmt.Fprintf(&sum, "%s %s/go.mod %s\n", m.Path, m.Version, m.GoMod)
		}
	}
	return errors.Join(b.write("go.mod", mod.String()), b.write("go.sum", sum.String()))
}

// open fetches the modules that the recipe names, takes the language version from them, and replaces their nested modules.
func (b *bench) open(ctx context.Context, p recipe.Program, pin *lock.Program) error {
	pin.Go = ""
	for _, m := range p.Modules {
		if err := b.download(ctx, m.Path, m.Version); err != nil {
			return err
		}
		file, err := b.goMod(ctx, filepath.Join(b.dirs[m.Path], "go.mod"))
		if err != nil {
			return fmt.Errorf("module %s: %w", m.Path, err)
		}
		if pin.Go == "" || newerGo(file.Go, pin.Go) {
			pin.Go = file.Go
		}
		for _, r := range file.Replace {
			if m.Nested == "" || r.New.Version != "" {
				continue // replacements count in main modules only
			}
			pin.Modules = append(pin.Modules, lock.Module{Path: r.Old.Path, Version: m.Nested, Replaces: true})
		}
	}
	if pin.Go == "" {
		pin.Go = languageOf(pin.Toolchain)
	}
	return nil
}

// find locates the modules that have a program's commands; the pins say in which version.
func (b *bench) find(ctx context.Context, p recipe.Program) error {
	for _, m := range p.Modules {
		if slices.ContainsFunc(p.Commands, func(c string) bool { return inModule(c, m.Path) }) {
			if err := b.download(ctx, m.Path, m.Version); err != nil {
				return err
			}
		}
	}
	return nil
}

func inModule(pkg, module string) bool { return pkg == module || strings.HasPrefix(pkg, module+"/") }

func (b *bench) download(ctx context.Context, module, version string) error {
	out, err := b.run(ctx, "mod", "download", "-json", module+"@"+version)
	if err != nil {
		return fmt.Errorf("module %s: %w", module, err)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(out, &got); err != nil || got.Dir == "" {
		return fmt.Errorf("module %s: the go command names no directory: %v", module, err)
	}
	b.dirs[module] = got.Dir
	return nil
}

// goMod is what "go mod edit -json" prints, as far as we read it.
type goMod struct {
	Go      string
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
}

func (b *bench) goMod(ctx context.Context, file string) (*goMod, error) {
	out, err := b.run(ctx, "mod", "edit", "-json", file)
	if err != nil {
		return nil, err
	}
	m := &goMod{}
	return m, json.Unmarshal(out, m)
}

// tool makes the module depend on a command that it does not import.
func (b *bench) tool(ctx context.Context, p recipe.Program) error {
	if len(p.Modules) == 0 || p.Package == "" {
		return nil
	}
	_, err := b.run(ctx, "mod", "edit", "-tool="+p.Package)
	return err
}

// readModule turns go.mod and go.sum, as the go command left them, into pins.
func (b *bench) readModule(ctx context.Context, pin *lock.Program) error {
	file, err := b.goMod(ctx, filepath.Join(b.dir, "go.mod"))
	if err != nil {
		return err
	}
	pin.Go = file.Go
	pins := map[[2]string]*lock.Module{}
	at := func(path, version string) *lock.Module {
		key := [2]string{path, version}
		if pins[key] == nil {
			pins[key] = &lock.Module{Path: path, Version: version}
		}
		return pins[key]
	}
	replaced := map[string]string{}
	for _, r := range file.Replace {
		replaced[r.Old.Path] = r.New.Version
		at(r.Old.Path, r.New.Version).Replaces = true
	}
	for _, r := range file.Require {
		version := r.Version
		if v, ok := replaced[r.Path]; ok {
			version = v
		}
		at(r.Path, version).Require = lock.Direct
		if r.Indirect {
			at(r.Path, version).Require = lock.Indirect
		}
	}
	sums, err := os.ReadFile(filepath.Join(b.dir, "go.sum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(sums)) {
		words := strings.Fields(line)
		if len(words) != 3 {
			return fmt.Errorf("go.sum has the line %q", line)
		}
		if version, ok := strings.CutSuffix(words[1], "/go.mod"); ok {
			at(words[0], version).GoMod = words[2]
		} else {
			at(words[0], version).Sum = words[2]
		}
	}
	pin.Modules = make([]lock.Module, 0, len(pins))
	for _, m := range pins {
		pin.Modules = append(pin.Modules, *m)
	}
	slices.SortFunc(pin.Modules, lock.CompareModules)
	return nil
}

// languageOf is the language version of a toolchain: "1.26" of "go1.26.8".
func languageOf(toolchain string) string {
	parts := strings.SplitN(strings.TrimPrefix(toolchain, "go"), ".", 3)
	if len(parts) < 2 {
		return "1.26"
	}
	minor, _, _ := strings.Cut(parts[1], "rc")
	return parts[0] + "." + minor
}

// newerGo compares language versions such as 1.26 and 1.26.0.
func newerGo(a, b string) bool {
	number := func(s string) (n int) {
		for i, part := range strings.SplitN(s+".0.0", ".", 4)[:3] {
			v := 0
			_, _ = fmt.Sscanf(part, "%d", &v) // a part that is no number counts as 0
			n += v << (20 - 10*i)
		}
		return n
	}
	return number(a) > number(b)
}

// commandName is what a command is called by: the last element of its import path.
func commandName(pkg string) string { return path.Base(pkg) }
