package inventory

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the expected inventories")

// TestRead reads recorded machines: a txtar archive each, in which a line "-> TARGET" makes a symbolic link.
func TestRead(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no machines: %v", err)
	}
	for _, name := range archives {
		t.Run(filepath.Base(name), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			root := plant(t, archive)
			i := Read(root)
			i.CPU.Architecture = "amd64"
			got, err := json.MarshalIndent(i, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			want := strings.TrimSuffix(name, ".txtar") + ".json"
			if *update {
				if err := os.WriteFile(want, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			expected, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if string(expected) != string(got)+"\n" {
				t.Errorf("inventory:\n%s", got)
			}
		})
	}
}

func plant(t *testing.T, archive *txtar.Archive) string {
	t.Helper()
	root := t.TempDir()
	for _, file := range archive.Files {
		path := filepath.Join(root, file.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		text := string(file.Data)
		if target, ok := strings.CutPrefix(strings.TrimSpace(text), "-> "); ok {
			if err := os.MkdirAll(filepath.Join(filepath.Dir(path), target), 0o755); err != nil && !strings.Contains(target, ".") {
				t.Fatal(err)
			}
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "\\x00", "\x00")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestReadHere reads the machine the test runs on: it must be quick and tell at least its processors and memory.
func TestReadHere(t *testing.T) {
	begin := time.Now()
	i := Read("/")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("reading took %s", took)
	}
	if i.CPU.Threads == 0 || i.Memory == 0 {
		t.Errorf("processors %d, memory %d", i.CPU.Threads, i.Memory)
	}
	if again := Read("/"); fmt.Sprint(again.Disks, again.PCI, again.NUMA) != fmt.Sprint(i.Disks, i.PCI, i.NUMA) {
		t.Error("two readings differ")
	}
}

func TestReadNothing(t *testing.T) {
	i := Read(t.TempDir())
	if i.Firmware.Kind != "bios" || i.Disks == nil || i.NICs == nil {
		t.Errorf("an empty tree gives %+v", i)
	}
}
