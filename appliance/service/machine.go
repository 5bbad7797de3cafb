package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Machine is what every bring-up asks of the host; linux.Machine is one. A component adds what it alone asks.
type Machine interface {
	UnitState(ctx context.Context, unit string) (string, error)
	UnitStarted(ctx context.Context, unit string) (time.Time, error)
	StartUnit(ctx context.Context, unit string) error // again, with its newest settings; does not wait
	StopUnit(ctx context.Context, unit string) error
	Addresses() []string
}

// Files keeps small files through power loss; *durable.Dir is one.
type Files interface {
	Read(name string) ([]byte, error)
	Write(name string, b []byte) error
}

// Runs asks whether a unit is in one of some states, and started after the files that it reads were written. They are named
// as below root.
func Runs(ctx context.Context, m Machine, unit string, states []string, root string, inputs []string) error {
	state, err := m.UnitState(ctx, unit)
	if err != nil {
		return err
	}
	if !slices.Contains(states, state) {
		return fmt.Errorf("%s is %s", unit, state)
	}
	started, err := m.UnitStarted(ctx, unit)
	if err != nil {
		return err
	}
	for _, input := range inputs {
		info, err := os.Stat(filepath.Join("/", root, input))
		if err != nil {
			return fmt.Errorf("%s lacks %w", unit, err)
		}
		if started.Before(info.ModTime()) {
			return fmt.Errorf("%s runs with an older /%s", unit, input)
		}
	}
	return nil
}

// Written asks whether a file has its text and its mode.
func Written(path, text string, mode fs.FileMode) error {
	have, err := os.ReadFile(path)
	if err == nil && string(have) == text {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == mode {
			return nil
		}
	}
	return fmt.Errorf("%s is not as it should be", path)
}

// Write writes a file where it is not as it should be, in one piece. Nobody who may not read it ever can: it has its mode
// before its text. It is for what goes with the boot, and so not durable.
func Write(path, text string, mode fs.FileMode) error {
	if Written(path, text, mode) == nil {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("cannot write %s: %w", path, err) }
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	out, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := out.Chmod(mode); err != nil {
		return fail(errors.Join(err, out.Close()))
	}
	_, err = out.WriteString(text)
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}
