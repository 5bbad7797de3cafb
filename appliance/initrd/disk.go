package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"roost/images/disk"
)

// diskWait bounds the wait for slow controllers and spinning disks.
const diskWait = 60 * time.Second

// findRootOnDisk finds the root and verity partitions of this release on the disk that holds the given partition.
// Both are found by GUID: the root partition's is the first half of the root hash, the verity partition's the second
// (UAPI.2 Discoverable Partitions).
func (m *machine) findRootOnDisk(loader string) error {
	rootGUID, verityGUID, err := disk.SlotGUIDs(m.args.rootHash)
	if err != nil {
		return err
	}
	loaderGUID, err := disk.ParseGUID(loader)
	if err != nil {
		return fmt.Errorf("cannot use what the boot loader says about its partition: %v", err)
	}
	events, err := openUevents()
	if err != nil {
		return err
	}
	defer events.close()
	m.loadForDevices() // those that came before anyone listened, such as a USB disk while other drivers were loaded
	deadline := time.Now().Add(diskWait)
	for {
		if node, table := diskHolding("/sys/class/block", loaderGUID); node != "" && hasNodes(node, table) {
			return m.useDisk(node, table, rootGUID, verityGUID)
		}
		if !events.wait(time.Until(deadline)) {
			return fmt.Errorf("cannot find the disk this machine booted from (partition %s) within %d s; this image may lack its driver", loader, int(diskWait.Seconds()))
		}
		m.loadForDevices()
	}
}

// hasNodes tells whether the kernel has made the nodes of all partitions: a disk can be read a moment before.
func hasNodes(node string, table *disk.Table) bool {
	for _, p := range table.Partitions {
		if _, err := os.Stat(partitionNode(node, p.Number)); err != nil {
			return false
		}
	}
	return true
}

// useDisk fills m.root from the partitions of the disk this machine booted from.
func (m *machine) useDisk(node string, table *disk.Table, root, verity disk.GUID) error {
	data, okData := table.FindUUID(root)
	tree, okTree := table.FindUUID(verity)
	if !okData || !okTree {
		return fmt.Errorf("cannot find the root image %.16s… on %s, the disk this machine booted from", m.args.rootHash, node)
	}
	m.root = rootSource{data: partitionNode(node, data.Number), verity: partitionNode(node, tree.Number)}
	if state, ok := table.Find(disk.State); ok {
		m.root.state = partitionNode(node, state.Number)
	}
	m.record.Origin, m.record.Disk = "disk", node
	m.con.step("root image on %s (%s)", m.root.data, data.Name)
	return nil
}

// diskHolding returns the node and table of the disk that has a partition of the given GUID, or "".
func diskHolding(class string, guid disk.GUID) (string, *disk.Table) {
	dirs, err := filepath.Glob(filepath.Join(class, "*"))
	if err != nil {
		return "", nil
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			continue
		}
		node := "/dev/" + filepath.Base(dir)
		table, err := readTable(node)
		if err != nil {
			continue // no disk of ours
		}
		if _, ok := table.FindUUID(guid); ok {
			return node, table
		}
	}
	return "", nil
}

func readTable(node string) (*disk.Table, error) {
	f, err := os.Open(node)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return disk.Read(f, size)
}

// partitionNode names partition n of a disk as the kernel does.
func partitionNode(disk string, n int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return disk + "p" + strconv.Itoa(n)
	}
	return disk + strconv.Itoa(n)
}

// uevents is the kernel's stream of device events.
type uevents struct{ fd int }

func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for devices: %v", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot listen for devices: %v", err)
	}
	return &uevents{fd: fd}, nil
}

func (u *uevents) close() { unix.Close(u.fd) }

// wait returns true after an event, false when the time is over.
func (u *uevents) wait(limit time.Duration) bool {
	if limit <= 0 {
		return false
	}
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	if err := unix.SetsockoptTimeval(u.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return false
	}
	buf := make([]byte, 8192)
	_, _, err := unix.Recvfrom(u.fd, buf, 0)
	return err == nil || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR)
}

// prepareState formats a fresh state partition and checks any other, with the programs of the verified root.
func (m *machine) prepareState() error {
	fresh, err := isFresh(sysroot + m.root.state) // /dev is in the root image by now
	if err != nil {
		return err
	}
	if fresh {
		m.con.step("formatting the state partition %s", m.root.state)
		return m.con.dog.during(func() error {
			return runInRoot("/usr/sbin/mkfs.ext4", "-q", "-F", "-L", "state", m.root.state, stateBlocks(m.root.state))
		})
	}
	err = m.con.dog.during(func() error { return runInRoot("/usr/sbin/e2fsck", "-p", m.root.state) })
	var exit *exitError
	if errors.As(err, &exit) && exit.code&^3 == 0 {
		m.con.warn("the file system on %s was repaired", m.root.state)
		return nil
	}
	return err
}

func isFresh(node string) (bool, error) {
	f, err := os.Open(node)
	if err != nil {
		return false, fmt.Errorf("cannot read the state partition: %v", err)
	}
	defer f.Close()
	head := make([]byte, len(disk.FreshMark))
	if _, err := f.ReadAt(head, 0); err != nil {
		return false, fmt.Errorf("cannot read the state partition: %v", err)
	}
	return string(head) == disk.FreshMark, nil
}

// stateBlocks is mkfs.ext4's size argument: all but the tail that stays free.
func stateBlocks(node string) string {
	b, err := os.ReadFile(filepath.Join(sysroot, "/sys/class/block", filepath.Base(node), "size"))
	sectors, convErr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || convErr != nil || sectors*512 <= disk.StateTail {
		return ""
	}
	return strconv.FormatInt((sectors*512-disk.StateTail)>>10, 10) + "k"
}
