package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// defaultFileSystem is what a volume gets when nobody says.
const defaultFileSystem = "ext4"

// validFileSystem refuses what volumes cannot have.
func validFileSystem(kind string) error {
	if kind != "" && kind != "ext4" && kind != "xfs" {
		return status.Errorf(codes.InvalidArgument, "file system %q: want ext4 or xfs", kind)
	}
	return nil
}

// The note on an image that says which file system was made in it; while it is being made, that.
const (
	noteKey    = "roost.filesystem"
	noteMaking = "making"
)

// fileSystem makes the file system of a new volume. One that was made before stays as it is, whatever it is: mounting it
// tells.
func (c *Cluster) fileSystem(ctx context.Context, i image, device, kind string) error {
	note, err := c.meta(ctx, i, noteKey)
	if err != nil {
		return err
	}
	switch note {
	case noteMaking:
	case "":
		empty, err := isBlank(device)
		if err != nil {
			return err
		}
		if !empty {
			return nil // of a volume that somebody else filled
		}
		if err := c.note(ctx, i, noteKey, noteMaking); err != nil {
			return err
		}
	default:
		return nil
	}
	if kind == "xfs" {
		err = call("mkfs.xfs", "-q", "-f", "-K", device)
	} else {
		// A new image reads as zeros, so nothing needs to be discarded or cleared.
		err = call("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", device)
	}
	if err != nil {
		return err
	}
	return c.note(ctx, i, noteKey, kind)
}

// blankSize is how much of a device's begin must be zero for it to be blank: all places of known file systems, volume groups
// and keys are in it.
const blankSize = 4 << 20

// isBlank reports whether a device holds nothing.
func isBlank(device string) (bool, error) {
	f, err := os.Open(device)
	if err != nil {
		return false, fmt.Errorf("cannot look into a volume: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, blankSize))
	if err != nil {
		return false, fmt.Errorf("cannot look into a volume: %w", err)
	}
	return len(bytes.Trim(b, "\x00")) == 0, nil
}

// mend has ext4 replay its journal and repair what needs no decision. xfs does so when it is mounted.
func mend(device, kind string) error {
	if kind == "xfs" {
		return nil
	}
	out, err := exec.Command("e2fsck", "-p", device).CombinedOutput()
	var ended *exec.ExitError
	const unrepaired = 4 // e2fsck(8): bits from here on say that it did not come to an end
	if errors.As(err, &ended) && ended.ExitCode() < unrepaired || err == nil {
		return nil
	}
	return fmt.Errorf("cannot repair the file system of a volume: %w: %s", err, bytes.TrimSpace(out))
}

// growFileSystem makes a mounted file system as large as its device.
func growFileSystem(device, kind, point string) error {
	if kind == "xfs" {
		return call("xfs_growfs", point)
	}
	return call("resize2fs", device)
}

// deviceSize is the size of a block device in bytes.
func deviceSize(device string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, fmt.Errorf("cannot measure a volume: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("cannot measure a volume: %w", err)
	}
	return size, nil
}

// usage is how full a mounted file system is.
func usage(point string) (*syscall.Statfs_t, error) {
	s := &syscall.Statfs_t{}
	if err := syscall.Statfs(point, s); err != nil {
		return nil, fmt.Errorf("cannot measure a volume: %w", err)
	}
	return s, nil
}
