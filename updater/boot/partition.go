package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Partition is the EFI system partition of the running machine. It is mounted only while it is used, and checked before
// each mount: names that a cut rename left sharing one chain of clusters must be told apart before either is removed.
type Partition struct {
	Device string // of the partition, for example /dev/vda1
	Dir    string // where it is mounted meanwhile
	Log    *slog.Logger

	mu sync.Mutex // one use at a time: a mounted file system must not be checked
}

// Use mounts the partition, calls f, and unmounts, which flushes what f wrote.
func (p *Partition) Use(ctx context.Context, f func(ESP) error) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot mount the EFI system partition: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_DIRSYNC
	if err := unix.Mount(p.Device, p.Dir, "vfat", flags, "umask=0077"); err != nil {
		return fmt.Errorf("cannot mount the EFI system partition %s: %w", p.Device, err)
	}
	defer func() {
		if e := unix.Unmount(p.Dir, 0); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot unmount the EFI system partition: %w", e))
		}
	}()
	volume, err := OpenVolume(p.Dir)
	if err != nil {
		return err
	}
	return f(ESP{Volume: volume})
}

// check repairs the file system as fsck does at boot. Exit status 1 means that it did.
func (p *Partition) check(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "fsck.vfat", "-a", p.Device).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		p.Log.Warn("EFI system partition is used unchecked", "error", err)
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		p.Log.Warn("EFI system partition was repaired", "output", strings.TrimSpace(string(out)))
		return nil
	}
	return fmt.Errorf("cannot check the EFI system partition %s: %w: %s", p.Device, err, strings.TrimSpace(string(out)))
}
