package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWriteFile: a file appears whole under its name, what a killed run left is used up, and what is no file is let alone.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path, partial := filepath.Join(dir, "edge.raw"), filepath.Join(dir, ".edge.raw.partial")
	write := func(text string) error {
		return writeFile(path, func(f *os.File) error {
			if _, err := os.Stat(path); err == nil {
				t.Error("it has its name before it is whole")
			}
			if err := f.Truncate(0); err != nil {
				return err
			}
			_, err := f.WriteString(text)
			return err
		})
	}
	if err := os.WriteFile(partial, []byte("left by a run that was killed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write("new"); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "new" {
		t.Errorf("it holds %q, %v", content, err)
	}
	if _, err := os.Stat(partial); !os.IsNotExist(err) {
		t.Errorf("something is left: %v", err)
	}

	other, err := os.Create(partial)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := write("newer"); err == nil || !strings.Contains(err.Error(), "edge.raw: another process is writing it") {
		t.Errorf("while another process writes it: %v", err)
	}

	for _, name := range []string{"/dev/full", dir} {
		err := writeFile(name, func(*os.File) error { t.Error("it is written to"); return nil })
		if err == nil || !strings.Contains(err.Error(), "it is no regular file; name a new file, and copy that to a device with dd") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(name); err != nil {
			t.Errorf("%s is gone: %v", name, err)
		}
	}
}
