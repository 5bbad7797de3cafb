package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// consoleLine is a line of a machine's serial console with the moment at which it was complete.
type consoleLine struct {
	at   time.Time
	text string
}

// Marks on the console.
const (
	handedOver   = "BdsDxe: starting "          // OVMF, before it enters a boot option's file
	initrdEnds   = "roost: starting the system" // our initrd; the script in Debian's says the same
	roostdSpeaks = "roost: this disk holds no identity"
)

// phases are the parts of a boot.
type phases struct {
	initrd time.Duration // from the hand-over to the end of the initrd; 0 = the console does not show it
	whole  time.Duration // from the hand-over to roostd
}

// findPhases measures a boot by its console: the last hand-over before roostd counts, because firmware may have tried
// other boot options before.
func findPhases(lines []consoleLine) (phases, error) {
	var p phases
	var begun, initrd time.Time
	for _, line := range lines {
		switch {
		case strings.Contains(line.text, handedOver):
			begun, initrd = line.at, time.Time{}
		case begun.IsZero():
		case strings.Contains(line.text, roostdSpeaks):
			p.whole = line.at.Sub(begun)
			if !initrd.IsZero() {
				p.initrd = initrd.Sub(begun)
			}
			return p, nil
		case initrd.IsZero() && strings.Contains(line.text, initrdEnds):
			initrd = line.at
		}
	}
	if begun.IsZero() {
		return p, errors.New("the console shows no hand-over of the firmware")
	}
	return p, errors.New("the console shows no word of roostd")
}

// watchConsole follows a console's log until a line holds the mark, and returns all lines. An error comes with the lines so
// far.
func watchConsole(ctx context.Context, path, mark string) ([]consoleLine, error) {
	var lines []consoleLine
	var rest []byte
	buffer := make([]byte, 64<<10)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading
	for {
		n, err := f.Read(buffer)
		if err != nil && !errors.Is(err, io.EOF) {
			return lines, err
		}
		now := time.Now()
		rest = append(rest, buffer[:n]...)
		for {
			line, after, ok := bytes.Cut(rest, []byte("\n"))
			if !ok {
				break
			}
			rest = after
			lines = append(lines, consoleLine{now, strings.TrimSpace(string(line))})
			if bytes.Contains(line, []byte(mark)) {
				return lines, nil
			}
		}
		if n > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return lines, fmt.Errorf("no line %q on the console: %w", mark, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastLines are the last lines of a console in one.
func lastLines(lines []consoleLine, n int) string {
	var texts []string
	for _, line := range lines[max(0, len(lines)-n):] {
		texts = append(texts, line.text)
	}
	return strings.Join(texts, " | ")
}
