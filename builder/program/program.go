// Package program compiles the Go programs that go into an image: Roost's own and those that a recipe names.
//
// It promises the same bytes for the same sources and toolchain, in whatever directory they lie: paths are trimmed, no
// C code is linked, and neither version control nor a build id leaves a trace. A program is compiled once: the result
// is kept in the cache under the digest of everything it is made of, so an unchanged tree costs a walk over its files.
//
// Programs of published modules are built in a module of their own, whose go.mod and go.sum are written from the lock:
// every module that the build looks at has its sum there, and the toolchain its version. Several commands of such modules
// can become one program, which is smaller than their sum where they share code (Kubernetes: 173 MB for 613). A command's
// main package is copied and its function main renamed, nothing else is changed; so it must not embed files nor import
// what is internal to its module.
//
// Rejected: keeping prebuilt binaries beside the sources (nobody can check them); modules with their go.mod beside the recipe
// (a second lock in another language, and Go does not embed them); asking the go command what a program
// depends on (a second per program, where hashing the whole module takes milliseconds).
package program

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"roost/builder/archive"
	"roost/builder/cores"
	"roost/images"
)

// Section is the part of the cache that holds compiled programs.
const Section = "programs"

// Source names a program: a main package of a Go module on this computer.
type Source struct {
	Module       string // directory of the module
	Package      string // "./appliance/roostd"
	Architecture string // Debian's name, which is also Go's for those we support: amd64, arm64

	Cores *cores.Pool // to compile on when the program's turn comes; nil: at once
}

// Binary is a compiled program.
type Binary struct {
	Path      string        // in the cache; must not be changed
	Source    images.Digest // of the module's files
	Toolchain string        // as go env GOVERSION prints it
}

// Compile returns the program, from the cache when nothing it is made of has changed. The error of a failed compilation
// holds the compiler's words.
func Compile(ctx context.Context, cache *archive.Cache, s Source) (*Binary, error) {
	version, err := toolchain(ctx, s.Module)
	if err != nil {
		return nil, err
	}
	source, err := sourceDigest(s.Module)
	if err != nil {
		return nil, fmt.Errorf("cannot read the sources of %s: %v", s.Package, err)
	}
	key := images.DigestOf([]byte(strings.Join([]string{"1", version, string(source), s.Package, s.Architecture}, "\n"))).Hex()
	b := &Binary{Source: source, Toolchain: version}
	b.Path, err = cache.Entry(Section, key)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	dir, err := os.MkdirTemp("", "roost-program-")
	if err != nil {
		return nil, fmt.Errorf("cannot compile %s: %v", s.Package, err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "program")
	work := func() error { return compile(ctx, s, out) }
	if s.Cores == nil {
		err = work()
	} else {
		err = s.Cores.Do(ctx, work)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot compile %s: %w", s.Package, err)
	}
	if err := cache.PutEntry(Section, key, func(w io.Writer) error { return copyFile(w, out) }); err != nil {
		return nil, fmt.Errorf("cannot compile %s: %w", s.Package, err)
	}
	b.Path, err = cache.Entry(Section, key)
	return b, err
}

func toolchain(ctx context.Context, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION")
	cmd.Dir = dir
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("cannot compile programs: the Go toolchain is not installed, or not on PATH")
	}
	if err != nil {
		return "", fmt.Errorf("cannot ask the Go toolchain for its version: %v", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func compile(ctx context.Context, s Source, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, s.Package)
	cmd.Dir = s.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+s.Architecture, "GOFLAGS=", "GOWORK=off", "GOAMD64=v1")
	words, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return explain(err, string(words))
	}
	return nil
}

// explain makes an error of what the go command said. A full disk has it say much else: that packages of its own are missing.
func explain(err error, words string) error {
	const full = "the disk of temporary files (TMPDIR) or of Go's build cache (GOCACHE) is full; free some space and run this again"
	for line := range strings.Lines(words) {
		if strings.Contains(line, unix.ENOSPC.Error()) {
			return fmt.Errorf("%s: %s", full, strings.TrimSpace(line))
		}
	}
	var st unix.Statfs_t
	if out, failed := exec.Command("go", "env", "GOCACHE").Output(); failed == nil {
		if unix.Statfs(strings.TrimSpace(string(out)), &st) == nil && int64(st.Bavail)*st.Bsize < 1<<20 {
			return errors.New(full)
		}
	}
	return fmt.Errorf("%w\n%s", err, lastLines(words))
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// sourceDigest names everything below a module that can take part in a program: all files but tests, their data,
// documents, hidden files and build output.
func sourceDigest(module string) (images.Digest, error) {
	h := sha256.New()
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == module {
			return nil
		}
		name := d.Name()
		if d.IsDir() {
			if strings.HasPrefix(name, ".") || name == "testdata" || name == "out" && filepath.Dir(path) == module {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".md") || filepath.Dir(path) == module && name == "roost" {
			return nil
		}
		return hashFile(h, module, path)
	})
	if err != nil {
		return "", err
	}
	return images.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// hashFile adds one file, its name and size first, so that no two trees give the same stream.
func hashFile(h io.Writer, module, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(module, path)
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%q %d\n", filepath.ToSlash(rel), len(b))
	_, err = h.Write(b)
	return err
}

// FindModule returns the directory of Roost's own sources: the closest parent of a start directory whose go.mod names
// the module roost.
func FindModule(starts ...string) (string, error) {
	for _, start := range starts {
		dir, err := filepath.Abs(start)
		if err != nil {
			return "", fmt.Errorf("cannot find Roost's sources: %v", err)
		}
		for ; ; dir = filepath.Dir(dir) {
			b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && strings.HasPrefix(string(b), "module roost\n") {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("cannot find Roost's sources, which hold the programs of an image: run in a checkout, or name one with --source")
}
