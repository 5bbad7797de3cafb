package powercut

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"roost/images/disk"
	"roost/updater"
)

// CheckState checks the state partition of a rebuilt disk as the initrd does before it mounts it, demands that nothing is left
// to repair then, and returns what the update journal on it says. The partition is written to the new file path.
func (r Record) CheckState(ctx context.Context, s State, path string) (updater.Phase, error) {
	phase, err := r.checkState(ctx, s, path)
	if err != nil {
		return "", fmt.Errorf("cannot use the state partition after a power cut at %+v: %w", s, err)
	}
	return phase, nil
}

func (r Record) checkState(ctx context.Context, s State, path string) (updater.Phase, error) {
	if err := r.extractState(s, path); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "e2fsck", "-p", path).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode()&^3 != 0) { // 1 and 2: repaired
		return "", fmt.Errorf("e2fsck -p: %w: %s", err, out)
	}
	if out, err := exec.CommandContext(ctx, "e2fsck", "-f", "-n", path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("e2fsck -p left something to repair: %w: %s", err, out)
	}
	cat := exec.CommandContext(ctx, "debugfs", "-R", "cat /lib/roost/update.json", path)
	var errs strings.Builder
	cat.Stderr = &errs
	data, err := cat.Output()
	if err != nil {
		return "", fmt.Errorf("debugfs: %w", err)
	}
	if len(data) == 0 && strings.Contains(errs.String(), "File not found") {
		return updater.Idle, nil
	}
	var state updater.State
	if err := json.Unmarshal(data, &state); err != nil {
		return "", fmt.Errorf("the update journal is damaged: %w: %q", err, data)
	}
	return state.Phase, nil
}

// extractState writes the state partition to a sparse file.
func (r Record) extractState(s State, path string) (err error) {
	judge, closeFiles, err := r.open()
	if err != nil {
		return err
	}
	defer closeFiles()
	table, err := disk.Read(judge.Rebuilder.Base, judge.Rebuilder.Size)
	if err != nil {
		return err
	}
	partition, ok := table.Find(disk.State)
	if !ok {
		return fmt.Errorf("cannot find partition %s", disk.State)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(partition.Size); err != nil {
		return err
	}
	base, err := os.Open(r.Base)
	if err != nil {
		return err
	}
	defer base.Close()
	w := window{f, partition.Offset, partition.Size}
	if err := copyData(w, base, partition.Offset, partition.Offset+partition.Size); err != nil {
		return err
	}
	return judge.Rebuilder.Image(s).Overlay(w)
}

// copyData copies what is no hole.
func copyData(w io.WriterAt, base *os.File, at, end int64) error {
	for {
		data, err := base.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			return nil
		}
		if err != nil {
			return err
		}
		if at, err = base.Seek(data, unix.SEEK_HOLE); err != nil {
			return err
		}
		at = min(at, end)
		if _, err := io.Copy(io.NewOffsetWriter(w, data), io.NewSectionReader(base, data, at-data)); err != nil {
			return err
		}
	}
}

// window takes what is written to a stretch of a disk, and drops the rest.
type window struct {
	io.WriterAt
	offset, size int64
}

func (w window) WriteAt(p []byte, at int64) (int, error) {
	from, to := max(at, w.offset), min(at+int64(len(p)), w.offset+w.size)
	if from >= to {
		return len(p), nil
	}
	if _, err := w.WriterAt.WriteAt(p[from-at:to-at], from-w.offset); err != nil {
		return 0, err
	}
	return len(p), nil
}
