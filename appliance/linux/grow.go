package linux

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ResizePartition tells the kernel that a partition of a disk, whose table says so already, is size bytes long. Partitions in
// use can grow. Offset and size are in bytes; where the kernel knows them, nothing is done.
func (m Machine) ResizePartition(disk string, number int, offset, size int64) error {
	name := filepath.Base(disk)
	for _, separator := range []string{"", "p"} {
		b, err := os.ReadFile(m.path("sys/class/block", name, name+separator+strconv.Itoa(number), "size"))
		if err == nil && strings.TrimSpace(string(b)) == strconv.FormatInt(size/512, 10) {
			return nil
		}
	}
	f, err := os.Open(m.path(disk))
	if err != nil {
		return fmt.Errorf("cannot resize partition %d: %w", number, err)
	}
	defer f.Close()
	partition := unix.BlkpgPartition{Start: offset, Length: size, Pno: int32(number)}
	argument := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(partition)), Data: (*byte)(unsafe.Pointer(&partition))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&argument)))
	runtime.KeepAlive(&partition)
	if errno != 0 {
		return fmt.Errorf("cannot resize partition %d of %s: %w", number, disk, errno)
	}
	return nil
}

// GrowExt4 makes an ext4 file system, mounted or not, as large as size bytes, and reports whether it was smaller. It never
// shrinks one. Growing a mounted file system is a row of journaled steps of the kernel: a power cut leaves it whole, of a size
// in between.
func (m Machine) GrowExt4(ctx context.Context, node string, size int64) (bool, error) {
	have, block, err := ext4Size(m.path(node))
	if err != nil {
		return false, fmt.Errorf("cannot grow file system on %s: %w", node, err)
	}
	if want := size / block * block; have >= want {
		return false, nil
	}
	out, err := exec.CommandContext(ctx, "resize2fs", m.path(node), strconv.FormatInt(size>>10, 10)+"k").CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("cannot grow file system on %s: resize2fs: %w: %s", node, err, strings.TrimSpace(string(out)))
	}
	return true, nil
}

// ext4Size reads the size of a file system, and of its blocks, in bytes (Linux, Documentation/filesystems/ext4/super.rst).
func ext4Size(path string) (size, block int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return 0, 0, err
	}
	return parseExt4(super)
}

func parseExt4(super []byte) (size, block int64, err error) {
	const bits64 = 0x80 // of the incompatible features
	if len(super) < 1024 || binary.LittleEndian.Uint16(super[56:]) != 0xef53 {
		return 0, 0, fmt.Errorf("no ext4")
	}
	shift := binary.LittleEndian.Uint32(super[24:])
	if shift > 6 {
		return 0, 0, fmt.Errorf("no ext4: block size 2^%d KiB", shift)
	}
	block = 1024 << shift
	blocks := uint64(binary.LittleEndian.Uint32(super[4:]))
	if binary.LittleEndian.Uint32(super[96:])&bits64 != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(super[336:])) << 32
	}
	if blocks > 1<<46 {
		return 0, 0, fmt.Errorf("no ext4: %d blocks", blocks)
	}
	return int64(blocks) * block, block, nil
}
