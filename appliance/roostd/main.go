// Command roostd is the appliance daemon. It is in every image; what it does there depends on what the machine is.
//
//	roostd run      discover, or serve as a host or controller of a site
//	roostd state    keep components' state of before a new release, or put it back, before any unit uses it
//	roostd render   write the generated part of /etc, before sysinit.target
//	roostd grow     make the state partition as large as the disk allows
//	roostd gate     run the health gates of the running release once and print the results
//	roostd front    end TLS for OpenStack's services, by the routes in the file named next
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"roost/appliance"
)

const usage = "usage: roostd run | state | render | grow | gate | front FILE"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	if len(args) != 1 && !(len(args) == 2 && args[0] == "front") {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	var err error
	switch args[0] {
	case "run":
		debug.SetGCPercent(50)          // memory is dearer here than cycles
		debug.SetMemoryLimit(128 << 20) // soft: beyond it the collector works harder
		err = appliance.Run(ctx, log)
	case "state":
		err = appliance.State("/", log)
	case "render":
		err = appliance.Render(ctx, log)
	case "grow":
		err = appliance.Grow(ctx, "/", log)
	case "gate":
		err = appliance.PrintGates(ctx, stdout)
	case "front":
		err = errors.New("front needs a file of routes")
		if len(args) == 2 {
			err = appliance.Front(ctx, args[1], log)
		}
	default:
		fmt.Fprintf(stderr, "roostd: no verb %q; %s\n", args[0], usage)
		return 2
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Error("roostd stops", "error", err)
		return 1
	}
	return 0
}

// withoutTime leaves the time to the journal, which has a better one.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}
