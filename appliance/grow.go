package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"roost/appliance/linux"
	"roost/images/disk"
	"roost/updater/slot"
)

// Grow makes the state partition and its file system as large as the disk allows; a virtual disk may have grown, or an image
// was copied to a larger one. It does nothing where nothing grew, and goes on where it was cut off: the partition table is
// written so that one copy is always whole, the kernel is told, and a mounted ext4 grows under its journal.
//
// It runs before the daemon, the only other writer of the partition table.
func Grow(ctx context.Context, root string, log *slog.Logger) error {
	machine := linux.Machine{Root: root}
	boot, err := machine.Boot()
	if err != nil {
		return err
	}
	if boot.Origin != "disk" {
		return nil // state is in memory
	}
	device, closer, err := slot.OpenDevice(filepath.Join(root, boot.Disk))
	if err != nil {
		return err
	}
	err = grow(ctx, machine, boot.Disk, device, log)
	return errors.Join(err, closer.Close())
}

func grow(ctx context.Context, machine linux.Machine, path string, device slot.Device, log *slog.Logger) error {
	table, err := disk.Read(device, device.Size())
	if err != nil {
		return fmt.Errorf("cannot grow the state partition: %w", err)
	}
	if table.ExtendState(device.Size()) {
		if err := table.Write(device, device.Size()); err != nil {
			return fmt.Errorf("cannot grow the state partition: %w", err)
		}
		log.Info("the disk grew; the state partition grows with it", "disk", path)
	}
	state, ok := table.Find(disk.State)
	if !ok {
		return fmt.Errorf("cannot grow the state partition: %s has none", path)
	}
	if err := machine.ResizePartition(path, state.Number, state.Offset, state.Size); err != nil {
		return err
	}
	grown, err := machine.GrowExt4(ctx, partition(path, state.Number), state.Size-disk.StateTail)
	if err == nil && grown {
		log.Info("the state file system grew", "bytes", state.Size-disk.StateTail)
	}
	return err
}
