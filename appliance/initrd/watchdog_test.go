package main

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// bowl counts what a watchdog is fed.
type bowl struct {
	fed    int
	closed bool
	last   []byte
}

func (b *bowl) Write(p []byte) (int, error) { b.fed++; b.last = p; return len(p), nil }
func (b *bowl) Close() error                { b.closed = true; return nil }

func TestWatchdogIsFedByProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bowl{}
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		con := &console{out: null, dog: &watchdog{f: b}}
		time.Sleep(time.Hour)
		if b.fed != 0 {
			t.Fatal("time alone feeds it")
		}
		con.step("something happens")
		con.warn("something is odd")
		if b.fed != 2 || b.last[0] == 'V' { // the magic character would switch it off (Documentation/watchdog/watchdog-api.rst)
			t.Errorf("two lines fed it %d times, with %q", b.fed, b.last)
		}
		con.dog.leave()
		if !b.closed {
			t.Error("systemd finds it busy")
		}
	})
}

func TestWatchdogDuringPrograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bowl{}
		w := &watchdog{f: b}
		failure := errors.New("e2fsck says no")
		if err := w.during(func() error { time.Sleep(10*programFeeds + time.Second); return failure }); err != failure {
			t.Errorf("got %v", err)
		}
		if b.fed != 11 {
			t.Errorf("ten minutes fed it %d times", b.fed)
		}
		b.fed = 0
		err := w.during(func() error { time.Sleep(3 * programLimit); return nil })
		if hour := int(programLimit / programFeeds); err != nil || b.fed > hour+1 {
			t.Errorf("a program that hangs is fed %d times, want %d at most (%v)", b.fed, hour+1, err)
		}
	})
}

func TestNoWatchdog(t *testing.T) {
	var none *watchdog
	none.feed()
	none.leave()
	if err := none.during(func() error { return nil }); err != nil {
		t.Error(err)
	}
}
