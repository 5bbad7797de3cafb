// Command volumed gives pods of this host volumes on Ceph. The machine's daemon writes the units that start it.
//
//	volumed serve      serve Kubernetes, until it is told to end
//	volumed release    unmount all volumes and take their devices away, as the machine goes down
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"roost/appliance/volume"
)

const usage = "usage: volumed serve | release [flags]"

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	if len(args) == 0 || args[0] != "serve" && args[0] != "release" {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	cluster := &volume.Cluster{}
	driver := &volume.Driver{Cluster: cluster, Log: log}
	released := volume.Released{Cluster: cluster, Log: log}
	flags := flag.NewFlagSet("volumed", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cluster.Program, "rbd", "rbd", "program that knows Ceph")
	flags.StringVar(&cluster.Config, "conf", "", "settings of Ceph")
	flags.StringVar(&cluster.User, "id", "", "user of Ceph, without client.")
	flags.StringVar(&cluster.Keyring, "keyring", "", "file with the user's key")
	flags.StringVar(&driver.Pool, "pool", "kubernetes", "pool in which volumes are made that name no other")
	flags.StringVar(&driver.Node, "node", "", "name of this host in Kubernetes")
	socket := flags.String("socket", "", "where to serve")
	registry := flags.String("registry", "", "directory in which the kubelet looks for plugins")
	flags.StringVar(&released.Pods, "pods", "", "cgroup of all pods, which are killed when they do not end")
	flags.DurationVar(&released.Patience, "patience", 15*time.Second, "how long pods have to end by themselves")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	var err error
	switch {
	case args[0] == "release":
		err = released.Release(ctx)
	case driver.Node == "" || *socket == "":
		fmt.Fprintln(stderr, "volumed: serve needs -node and -socket")
		return 2
	default:
		err = driver.Serve(ctx, *socket, *registry)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Error("volumed stops", "error", err)
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
