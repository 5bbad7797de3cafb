// Command journey walks the main job of Roost from end to end on virtual machines, with visible progress: build, serve,
// discover, install, update, roll back. It is what make run runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
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
	return errors.Join(j.Run(ctx), handOver(dir, os.Getenv("SUDO_UID"), os.Getenv("SUDO_GID")))
}

// handOver gives the work directory to the user who called sudo, who may read it and remove it then.
func handOver(dir, user, group string) error {
	if user == "" || group == "" {
		return nil
	}
	uid, err := strconv.Atoi(user)
	if err != nil {
		return fmt.Errorf("cannot read SUDO_UID: %w", err)
	}
	gid, err := strconv.Atoi(group)
	if err != nil {
		return fmt.Errorf("cannot read SUDO_GID: %w", err)
	}
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, uid, gid)
	})
}
