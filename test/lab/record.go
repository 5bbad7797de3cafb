package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Recording is where a machine's state at one moment and all that it writes to its disk from then on are kept.
type Recording struct {
	Dir string // an existing directory
}

// Paths of a recording's files.
func (r Recording) Base() string      { return filepath.Join(r.Dir, "base.raw") }   // the disk when the recording began
func (r Recording) Log() string       { return filepath.Join(r.Dir, "writes.log") } // QEMU's blklogwrites
func (r Recording) Variables() string { return filepath.Join(r.Dir, "vars.fd") }    // the firmware's variable store then

// Record copies the disk and the variable store of a running machine of Spec.WriteLog, and records every write and flush of
// the disk from that moment on. The machine stands still for the copy, and notices nothing of it.
func (m *Machine) Record(ctx context.Context, r Recording) (err error) {
	if !m.WriteLog {
		return fmt.Errorf("cannot record %s: it was not made for it", m.Name)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot record %s: %w", m.Name, err)
		}
	}()
	if err := (vm{m}).control(ctx, "stop"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vm{m}.control(ctx, "cont")) }()
	for from, to := range map[string]string{m.DiskPath(): r.Base(), m.varsPath(): r.Variables()} {
		if err := copySparse(ctx, from, to); err != nil {
			return err
		}
	}
	if err := os.WriteFile(r.Log(), nil, 0o600); err != nil {
		return err
	}
	q, err := dialQMP(ctx, m.controlPath())
	if err != nil {
		return err
	}
	defer q.close()
	return q.all(
		qmpCommand{"blockdev-add", map[string]any{"driver": "file", "node-name": "log", "filename": r.Log(), "cache": map[string]any{"no-flush": true}}},
		qmpCommand{"blockdev-add", map[string]any{"driver": "blklogwrites", "node-name": "logged", "file": "file", "log": "log"}},
		reopen("logged"))
}

// StopRecording ends a recording: the log is complete then. While the machine stands still for it, check is called, if not
// nil, to compare the disk with the log. The machine then goes on.
func (m *Machine) StopRecording(ctx context.Context, check func() error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot end the recording of %s: %w", m.Name, err)
		}
	}()
	// Flushes too, which brings the log's count of entries up to date.
	if err := (vm{m}).control(ctx, "stop"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vm{m}.control(ctx, "cont")) }()
	q, err := dialQMP(ctx, m.controlPath())
	if err != nil {
		return err
	}
	defer q.close()
	err = q.all(reopen("file"), qmpCommand{"blockdev-del", map[string]any{"node-name": "logged"}}, qmpCommand{"blockdev-del", map[string]any{"node-name": "log"}})
	if err == nil && check != nil {
		err = check()
	}
	return err
}

// reopen puts another node below the machine's disk.
func reopen(below string) qmpCommand {
	return qmpCommand{"blockdev-reopen", map[string]any{"options": []any{
		map[string]any{"driver": "raw", "node-name": "raw", "file": below, "discard": "unmap"}}}}
}

// copySparse copies a disk without its holes, or shares its blocks where the file system can.
func copySparse(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w: %s", from, err, out)
	}
	return nil
}
