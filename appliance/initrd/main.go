package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "initrd: this program is the init of a Roost boot image and runs only as process 1")
		os.Exit(2)
	}
	con := openConsole()
	m := &machine{con: con, start: time.Now()}
	err := m.boot()
	// boot returns only on failure: success replaces this process by systemd.
	m.fail(err)
}

// machine is one boot. Each step fills in what the next one needs.
type machine struct {
	con   *console
	start time.Time

	args    cmdline
	trial   bool // systemd-boot counts this boot
	modules *moduleIndex
	record  bootRecord
	root    rootSource
}

// rootSource is the pair of block devices that hold the root image and its verity data, and the state partition if the
// machine has one.
type rootSource struct {
	data, verity string // device paths
	state        string // device path, empty without a disk
}

func (m *machine) boot() error {
	if err := mountEarly(); err != nil {
		return err
	}
	m.con.reopen()
	m.record.Began = uptime()
	m.con.step("Roost boots")
	args, err := readCmdline()
	if err != nil {
		return err
	}
	m.args = args
	m.record.RootHash = args.rootHash
	if err := m.loadDrivers(); err != nil {
		return err
	}
	setClockFloor(m.con)
	m.trial = bootIsCounted()
	m.con.dog = startWatchdog(m.con)
	if err := m.findRoot(); err != nil {
		return err
	}
	if err := m.openRoot(); err != nil {
		return err
	}
	return m.handOver()
}

// findRoot fills m.root. A machine that the firmware started from a disk uses that disk and nothing else; any other
// machine asks the network, for its site alone where a disc holds the image.
func (m *machine) findRoot() error {
	partition, err := loaderPartition()
	switch {
	case err == nil:
		return m.findRootOnDisk(partition)
	case errors.Is(err, os.ErrNotExist):
		found, err := m.findRootOnOptical()
		switch {
		case err != nil:
			return err
		case !found:
			return m.fetchRoot()
		}
		// The image is here already, so a network without a site is no failure.
		if _, _, err := m.askSite(); err != nil {
			m.con.warn("cannot learn of a site: %v", err)
		}
		return nil
	}
	return err
}

// fail ends a boot that cannot go on: one clear line, then a reboot. A counted boot reboots soon, because the boot
// loader then falls back; any other waits, so that a broken site is not hammered and a person can read the screen.
func (m *machine) fail(err error) {
	wait := 60 * time.Second
	if m.trial {
		wait = 5 * time.Second
	}
	m.con.failure(fmt.Sprintf("%v; rebooting in %d s", err, int(wait.Seconds())))
	time.Sleep(wait)
	reboot()
}
