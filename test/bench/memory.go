package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// memory asks the test that runs a controller and a worker in processes of their own how much they hold.
func (b *bench) memory(ctx context.Context) ([]Row, error) {
	b.say("memory of a controller and a worker")
	cmd := command(ctx, "go", "test", "-count=1", "-v", "-run", "^TestFootprint$", "./appliance")
	cmd.Dir = b.source
	text := &tail{}
	cmd.Stdout, cmd.Stderr = text, text
	failure := cmd.Run()
	held := parseFootprint(text.all())
	var rows []Row
	for _, half := range []struct {
		name  string
		limit float64
	}{{"worker", 60}, {"controller", 150}} {
		row := Row{What: "memory of roostd on a " + half.name + ", resident", Unit: Megabytes, Target: Target{Limit: half.limit}}
		if half.name == "controller" {
			row.What = "memory of roostd on a single controller, resident"
		}
		megabytes, ok := held[half.name]
		if !ok {
			failure = errors.Join(failure, fmt.Errorf("no figure for the %s: %s", half.name, text))
			row.Results = []Result{{Who: ours, Failure: failure.Error()}}
		} else {
			row.Results = []Result{{Who: ours, Value: megabytes, Note: "in the daemon's test program, after fifty beats"}}
			failure = nil // a limit that was passed is for the table to say
		}
		rows = append(rows, row)
	}
	return rows, failure
}

// parseFootprint finds the lines "worker: 41 MB resident". They count MiB; the figures returned are MB.
func parseFootprint(text string) map[string]float64 {
	held := map[string]float64{}
	for _, m := range regexp.MustCompile(`(worker|controller): ([0-9]+) MB resident`).FindAllStringSubmatch(text, -1) {
		if n, err := strconv.ParseFloat(m[2], 64); err == nil {
			held[m[1]] = n * (1 << 20) / 1e6
		}
	}
	return held
}
