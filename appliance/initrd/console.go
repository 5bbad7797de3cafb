package main

import (
	"fmt"
	"os"
	"time"
)

// console prints for a person at the screen or the serial line. Lines go to /dev/kmsg when it exists: the kernel
// stamps them, copies them to every console, and keeps them for the journal and for pstore.
type console struct {
	kmsg *os.File
	out  *os.File
	last time.Time
	dog  *watchdog // every line is progress
}

func openConsole() *console { return &console{out: os.Stdout, last: time.Now()} }

// reopen switches to /dev/kmsg once devtmpfs is mounted.
func (c *console) reopen() {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err == nil {
		c.kmsg = f
	}
}

func (c *console) print(priority int, format string, a ...any) {
	c.dog.feed()
	line := fmt.Sprintf(format, a...)
	if c.kmsg != nil {
		if _, err := fmt.Fprintf(c.kmsg, "<%d>roost: %s\n", priority, line); err == nil {
			return
		}
	}
	fmt.Fprintf(c.out, "roost: %s\n", line)
}

// step says what begins. Priority 4 (warning) passes the usual console log level of 7 and of "quiet".
func (c *console) step(format string, a ...any) { c.print(4, format, a...) }

// warn says what went wrong but does not end the boot.
func (c *console) warn(format string, a ...any) { c.print(4, "warning: "+format, a...) }

// failure is the last line of a boot that ends here.
func (c *console) failure(line string) { c.print(0, "BOOT FAILED: %s", line) }

// progress prints at most once every two seconds.
func (c *console) progress(format string, a ...any) {
	if now := time.Now(); now.Sub(c.last) >= 2*time.Second {
		c.last = now
		c.step(format, a...)
	}
}
