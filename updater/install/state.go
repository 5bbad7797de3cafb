package install

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// File is a file that the installed system finds in its state at the first boot: identity, site, and what was installed.
type File struct {
	Path string      // below /var, for example lib/roost/identity/host-id
	Mode fs.FileMode // 0o600 for secrets; directories on the way are open to all
	Data []byte
}

// Formatter makes the state file system.
type Formatter interface {
	// Format makes a file system of size bytes at offset of the disk, with these files in it, and makes it last.
	Format(ctx context.Context, device string, offset, size int64, files []File) error
}

// Ext4 makes the state file system with the mkfs.ext4 of the running system.
type Ext4 struct {
	Dir string // for the files meanwhile: a file system in memory, for there are secrets among them; empty means /run
}

// Format runs mkfs.ext4 at an offset of the whole disk. It never discards blocks: what lies beside is in use.
func (f Ext4) Format(ctx context.Context, device string, offset, size int64, files []File) (err error) {
	dir := f.Dir
	if dir == "" {
		dir = "/run"
	}
	stage, err := os.MkdirTemp(dir, "roost-state-")
	if err != nil {
		return fmt.Errorf("cannot format the state partition: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(stage); err == nil && e != nil {
			err = fmt.Errorf("cannot remove the staged identity: %w", e)
		}
	}()
	if err := os.Chmod(stage, 0o755); err != nil { // it becomes /var
		return fmt.Errorf("cannot format the state partition: %w", err)
	}
	for _, file := range files {
		if err := stageFile(stage, file); err != nil {
			return fmt.Errorf("cannot format the state partition: %w", err)
		}
	}
	out, err := exec.CommandContext(ctx, "mkfs.ext4", "-F", "-q", "-L", "state", "-b", "4096",
		"-E", "nodiscard,root_owner=0:0,offset="+strconv.FormatInt(offset, 10), "-d", stage,
		device, strconv.FormatInt(size>>10, 10)+"k").CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot format the state partition: mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func stageFile(stage string, file File) error {
	if !fs.ValidPath(file.Path) || file.Path == "." {
		return fmt.Errorf("%q is no path below /var", file.Path)
	}
	path := filepath.Join(stage, file.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, file.Data, 0o600); err != nil {
		return err
	}
	return os.Chmod(path, file.Mode.Perm())
}
