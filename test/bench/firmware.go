package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"roost/pxe"
	"roost/test/lab"
)

// firmware compares how long UEFI firmware takes to load 32 MiB by TFTP: from our server, and from pin/tftp as other boot
// servers in Go use it. Where machines are emulated the processor's share decides, so the best of two boots counts.
func (b *bench) firmware(ctx context.Context) ([]Row, error) {
	row := Row{What: "TFTP 32 MiB to OVMF in a machine", Unit: Seconds, Target: Target{Times: 2, Over: "pin/tftp"}}
	file, err := b.noise(fmt.Sprintf("tftp-%d.efi", tftpSize), tftpSize)
	if err != nil {
		return nil, err
	}
	l, err := b.upLab(ctx)
	if err != nil {
		return nil, err
	}
	defer b.downLab(l)
	var own error
	for _, c := range []struct {
		who, machine, note string
		pin                bool
	}{{ours, "ours", "", false}, {"pin/tftp", "pin", "drops the window that the firmware asks for", true}} {
		best := time.Duration(0)
		for n := range 2 {
			b.say("%s: %s, boot %d of 2", row.What, c.who, n+1)
			took, err := loadByFirmware(ctx, l, fmt.Sprint(c.machine, n), serving{Interface: l.Interface(), Mode: pxe.Own, File: file, Pin: c.pin})
			if err != nil {
				row.Results = append(row.Results, sideOf(c.who, 0, "", err))
				if c.who == ours {
					own = err
				}
				break
			}
			if best == 0 || took < best {
				best = took
			}
			if n == 1 {
				row.Results = append(row.Results, Result{Who: c.who, Value: best.Seconds(), Note: c.note})
			}
		}
	}
	return []Row{row}, own
}

// upLab makes the lab of the bench.
func (b *bench) upLab(ctx context.Context) (*lab.Lab, error) {
	dir := filepath.Join(b.dir, "lab")
	l, err := lab.Up(ctx, lab.Config{Name: "bench", Dir: dir})
	if err == nil {
		b.say("machines run under %s", l.Accelerator())
	}
	return l, err
}

func (b *bench) downLab(l *lab.Lab) {
	if err := l.Down(); err != nil {
		b.say("%v", err)
	}
}

// loadByFirmware serves in the lab, boots a blank machine from the network and returns how long its transfer took.
func loadByFirmware(ctx context.Context, l *lab.Lab, name string, s serving) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	arguments, err := roleArguments(role{Serve: &s})
	if err != nil {
		return 0, err
	}
	cmd := command(ctx, arguments...)
	words := &tail{}
	cmd.Stderr = words
	events, out := io.Pipe()
	cmd.Stdout = out
	if err := l.Start(cmd); err != nil {
		return 0, fmt.Errorf("cannot serve: %w", err)
	}
	defer func() {
		cancel()
		events.Close()
		_ = cmd.Wait() // it was told to stop; how it says so does not matter
	}()
	m, err := l.Add(lab.Spec{Name: name, Memory: 512 << 20, Disk: -1})
	if err != nil {
		return 0, err
	}
	if err := m.PowerOn(ctx); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.PowerOff()) }()
	found := make(chan pxe.Event, 1)
	go awaitTransfer(events, found)
	select {
	case e := <-found:
		if e.Bytes != tftpSize {
			return 0, fmt.Errorf("%d bytes of %d were sent: %s", e.Bytes, tftpSize, e.Reason)
		}
		return e.Took, nil
	case <-ctx.Done():
		console, _ := os.ReadFile(m.ConsoleLog()) // for the error only
		return 0, fmt.Errorf("the firmware loaded nothing: %w: %s; console ends %q", ctx.Err(), words, lastOf(console, 300))
	}
}

// awaitTransfer reports the first transfer that ended.
func awaitTransfer(events io.Reader, found chan<- pxe.Event) {
	for lines := bufio.NewScanner(events); lines.Scan(); {
		var e pxe.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && (e.Kind == pxe.TFTPDone || e.Kind == pxe.TFTPFailed) {
			found <- e
			break
		}
	}
	_, _ = io.Copy(io.Discard, events) // the server must not be held up
}

func lastOf(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
