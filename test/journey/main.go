// Command journey walks the main job of Roost from end to end on virtual machines, with visible progress: build, serve,
// discover, install, update, roll back. It is what make run runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"roost/test/vm"
)

func main() {
	roost := flag.String("roost", "out/roost", "the roost command")
	dir := flag.String("dir", "out/journey", "work directory; must not exist")
	short := flag.Bool("short", false, "let each bad release meet one machine only")
	cuts := flag.Int("cuts", 0, "boot so many machines whose power was cut during the worker's update, after judging all states of its disk")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := walk(ctx, *roost, *dir, *short, *cuts); err != nil {
		fmt.Fprintln(os.Stderr, "journey:", err)
		os.Exit(1)
	}
}

func walk(ctx context.Context, roost, dir string, short bool, cuts int) error {
	roost, err := filepath.Abs(roost)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	// What an earlier walk left is of no use to this one.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	j := &vm.Journey{Roost: roost, Recipes: filepath.Join("test", "vm", "testdata"), Dir: dir, Out: os.Stdout, Lab: "journey", Short: short, Cuts: cuts}
	return j.Run(ctx)
}
