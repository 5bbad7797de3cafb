package program

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"roost/builder/archive"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func module(t *testing.T) string {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module roost\n\ngo 1.26\n")
	write(t, filepath.Join(dir, "cmd/hello/main.go"), "package main\n\nfunc main() { println(\"hello\") }\n")
	return dir
}

func openCache(t *testing.T) *archive.Cache {
	c, err := archive.OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestReproducible compiles one source in two directories with two caches and compares bytes.
func TestReproducible(t *testing.T) {
	var first []byte
	for range 2 {
		b, err := Compile(t.Context(), openCache(t), Source{Module: module(t), Package: "./cmd/hello", Architecture: "amd64"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(b.Path)
		if err != nil || !bytes.HasPrefix(got, []byte("\x7fELF")) {
			t.Fatalf("no program: %v", err)
		}
		if first != nil && !bytes.Equal(first, got) {
			t.Error("two compilations differ")
		}
		first = got
	}
}

func TestCacheFollowsSource(t *testing.T) {
	dir, cache := module(t), openCache(t)
	s := Source{Module: dir, Package: "./cmd/hello", Architecture: "amd64"}
	compile := func() string {
		b, err := Compile(t.Context(), cache, s)
		if err != nil {
			t.Fatal(err)
		}
		return b.Path
	}
	first := compile()
	write(t, filepath.Join(dir, "cmd/hello/main_test.go"), "package main\n")
	write(t, filepath.Join(dir, "README.md"), "words\n")
	if again := compile(); again != first {
		t.Error("a change that no program sees was compiled")
	}
	write(t, filepath.Join(dir, "cmd/hello/more.go"), "package main\n\nvar more = 1\n")
	if changed := compile(); changed == first {
		t.Error("a change of the source was not compiled")
	}
}

func TestCompileError(t *testing.T) {
	dir := module(t)
	write(t, filepath.Join(dir, "cmd/hello/main.go"), "package main\n\nfunc main() { missing() }\n")
	_, err := Compile(t.Context(), openCache(t), Source{Module: dir, Package: "./cmd/hello", Architecture: "amd64"})
	if err == nil || !strings.Contains(err.Error(), "undefined: missing") {
		t.Errorf("the compiler's words are lost: %v", err)
	}
}

// TestCompileFullDisk fills the disk of temporary files and that of the compiler's cache, which has the go command miss
// packages of its own.
func TestCompileFullDisk(t *testing.T) {
	dir, cache, small := module(t), openCache(t), t.TempDir()
	if err := unix.Mount("roost-test", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	for _, variable := range []string{"TMPDIR", "GOCACHE"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, small)
			_, err := Compile(t.Context(), cache, Source{Module: dir, Package: "./cmd/hello", Architecture: "amd64"})
			const want = "cannot compile ./cmd/hello: the disk of temporary files (TMPDIR) or of Go's build cache (GOCACHE) is full; free some space and run this again"
			if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := Compile(t.Context(), cache, Source{Module: dir, Package: "./cmd/hello", Architecture: "amd64"}); err != nil {
		t.Errorf("with room: %v", err)
	}
}

func TestFindModule(t *testing.T) {
	dir := module(t)
	got, err := FindModule(t.TempDir(), filepath.Join(dir, "cmd/hello"))
	if err != nil || got != dir {
		t.Errorf("found %q, %v", got, err)
	}
	if _, err := FindModule(t.TempDir()); err == nil {
		t.Error("found sources in an empty directory")
	}
}
