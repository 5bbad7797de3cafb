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

// uptime is the time since the kernel started, in milliseconds.
func uptime() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return now.Nano() / 1e6
}
