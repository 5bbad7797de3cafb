package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setClockFloor moves the clock forward to the release's own time when the hardware clock is behind it, so that
// certificates made after the release are valid on a machine whose clock battery is dead. The kernel has already set
// the clock from the RTC. systemd-timesyncd later adds the last saved time as another floor.
func setClockFloor(con *console) {
	b, err := os.ReadFile("/etc/initrd-release")
	if err != nil {
		con.warn("cannot read the release time: %v", err)
		return
	}
	floor, ok := releaseTime(string(b))
	if !ok || !time.Now().Before(floor) {
		return
	}
	tv := unix.NsecToTimeval(floor.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		con.warn("cannot set the clock: %v", err)
		return
	}
	con.step("the hardware clock was behind the release; clock set to %s", floor.UTC().Format(time.RFC3339))
}

// releaseTime reads ROOST_CREATED= (seconds since 1970) from an os-release style file.
func releaseTime(s string) (time.Time, bool) {
	for _, line := range strings.Split(s, "\n") {
		value, ok := strings.CutPrefix(line, "ROOST_CREATED=")
		if !ok {
			continue
		}
		seconds, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64)
		if err != nil || seconds <= 0 {
			return time.Time{}, false
		}
		return time.Unix(seconds, 0), true
	}
	return time.Time{}, false
}

// startWatchdog arms the hardware watchdog when there is one and leaves it running without a keeper: systemd takes it
// over, and a boot that hangs before that is reset.
func startWatchdog(con *console) {
	const seconds = 180
	f, err := os.OpenFile("/dev/watchdog0", os.O_WRONLY, 0)
	if err != nil {
		return // no watchdog hardware; the inventory reports that
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, seconds); err != nil {
		con.warn("cannot set the watchdog to %d s: %v", seconds, err)
	}
	// Closing without the magic character keeps the timer running.
	if err := f.Close(); err != nil {
		con.warn("cannot release the watchdog: %v", err)
	}
}
