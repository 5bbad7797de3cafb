package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchdog is the machine's hardware watchdog, armed for the whole boot: what hangs before systemd takes over is reset, and
// counts as a failed attempt in a trial. It is fed by progress alone (a line on the console, a program that runs), never by
// a clock; so a slow network does not reset a machine, and a hung one does.
type watchdog struct {
	f interface {
		Write([]byte) (int, error)
		Close() error
	}
}

const (
	watchdogSeconds = 180
	programFeeds    = 60 * time.Second
	programLimit    = time.Hour // a check of a large file system on a slow disk may take so long
)

// startWatchdog arms the watchdog where there is one. The inventory tells of a machine without.
func startWatchdog(con *console) *watchdog {
	f, err := os.OpenFile("/dev/watchdog0", os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogSeconds); err != nil {
		con.warn("cannot set the watchdog to %d s: %v", watchdogSeconds, err)
	}
	return &watchdog{f: f}
}

// feed gives the boot another watchdogSeconds.
func (w *watchdog) feed() {
	if w != nil {
		_, _ = w.f.Write([]byte{0}) // a watchdog that takes no food resets the machine, which is its answer
	}
}

// leave hands the running timer over to systemd: closed without the magic character it goes on.
func (w *watchdog) leave() {
	if w != nil {
		_ = w.f.Close()
	}
}

// during feeds while a program runs, for an hour at most.
func (w *watchdog) during(run func() error) error {
	done := make(chan error, 1)
	go func() { done <- run() }()
	tick := time.NewTicker(programFeeds)
	defer tick.Stop()
	for end := time.Now().Add(programLimit); ; {
		select {
		case err := <-done:
			w.feed()
			return err
		case now := <-tick.C:
			if now.Before(end) {
				w.feed()
			}
		}
	}
}
