package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// bench is one run.
type bench struct {
	dir    string // absolute; everything that is made lies here
	source string // Roost's sources, absolute
	mirror string // Debian mirror, as roost's --mirror
	words  io.Writer
	begun  time.Time
	table  Table

	built func(context.Context) (*edge, error) // the release that several parts need, made once
	tools func(context.Context) (*kit, error)  // the Debian 13 tool tree, made once
}

// part is a group of rows that belong together. Its error says that our own side failed.
type part struct {
	name string
	run  func(context.Context) ([]Row, error)
}

func (b *bench) parts() []part {
	return []part{
		{"build", b.build}, {"boot", b.boot}, {"firmware", b.firmware}, {"tftp", b.tftp}, {"http", b.http}, {"dhcp", b.dhcp}, {"memory", b.memory},
	}
}

// run is the command as a function: exit status 0, 1 when a part of ours failed, 2 for a wrong command line.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	b := &bench{words: stderr, begun: time.Now()}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("only", "", "parts to run, separated by commas: "+b.names())
	format := flags.String("o", "table", "table or json")
	dir := flags.String("dir", filepath.Join("out", "bench"), "work directory; its tool tree and packages are used again")
	flags.StringVar(&b.mirror, "mirror", "", "Debian mirror; default $ROOST_MIRROR, else what this computer's apt uses")
	text := flags.String("role", "", "used by the command itself, for its helpers in network namespaces")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *text != "" {
		if err := runRole(ctx, *text, stdin, stdout, stderr); err != nil && ctx.Err() == nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
		return 0
	}
	chosen, err := b.choose(*only)
	if err != nil || *format != "table" && *format != "json" || flags.NArg() > 0 {
		fmt.Fprintf(stderr, "bench: cannot use these arguments: %v; see -h\n", err)
		return 2
	}
	return b.conduct(ctx, *dir, chosen, *format, stdout)
}

// conduct measures and prints. What was measured before a failure is printed too.
func (b *bench) conduct(ctx context.Context, dir string, parts []part, format string, stdout io.Writer) int {
	failure := b.measure(ctx, dir, parts)
	b.table.Took = time.Since(b.begun)
	write := b.table.writeText
	if format == "json" {
		write = b.table.writeJSON
	}
	if len(b.table.Rows) > 0 {
		failure = errors.Join(failure, write(stdout))
	}
	if failure != nil {
		fmt.Fprintln(b.words, "bench:", failure)
		return 1
	}
	return 0
}

func (b *bench) names() string {
	var all []string
	for _, p := range b.parts() {
		all = append(all, p.name)
	}
	return strings.Join(all, ",")
}

func (b *bench) choose(only string) ([]part, error) {
	if only == "" {
		return b.parts(), nil
	}
	var chosen []part
	for _, name := range strings.Split(only, ",") {
		i := slices.IndexFunc(b.parts(), func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no part %q, only %s", name, b.names())
		}
		chosen = append(chosen, b.parts()[i])
	}
	return chosen, nil
}

// measure runs parts one after the other. A part that fails does not keep the next from running.
func (b *bench) measure(ctx context.Context, dir string, parts []part) error {
	var err error
	if b.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if b.source, err = filepath.Abs("."); err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(b.dir, "lock"), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("cannot work in %s: another bench does", b.dir)
	}
	b.table.Host = thisHost()
	b.built, b.tools = once(b.makeEdge), once(b.makeKit)
	var failures []error
	for _, p := range parts {
		b.say("part %s", p.name)
		rows, err := p.run(ctx)
		if ctx.Err() != nil { // rows of an interrupted part are no figures
			return errors.Join(append(failures, ctx.Err())...)
		}
		b.table.add(p.name, rows...)
		if err != nil {
			b.say("part %s failed: %v", p.name, err)
			failures = append(failures, fmt.Errorf("part %s: %w", p.name, err))
		}
	}
	return errors.Join(failures...)
}

// once makes a function that does its work at the first call and remembers what came of it.
func once[T any](make func(context.Context) (T, error)) func(context.Context) (T, error) {
	var first sync.Once
	var value T
	var err error
	return func(ctx context.Context) (T, error) {
		first.Do(func() { value, err = make(ctx) })
		return value, err
	}
}

// say tells what goes on, with the time since the run began.
func (b *bench) say(format string, a ...any) {
	took := time.Since(b.begun).Round(time.Second)
	fmt.Fprintf(b.words, "%02d:%02d  %s\n", int(took.Minutes()), int(took.Seconds())%60, fmt.Sprintf(format, a...))
}

// thisHost describes this computer; what cannot be read stays empty.
func thisHost() Host {
	h := Host{CPUs: runtime.NumCPU()}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		h.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		h.Kernel = string(bytes.TrimSpace(release))
	}
	h.Memory = field("/proc/meminfo", "MemTotal") << 10
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(info), "model name\t: ")
		h.Model, _, _ = strings.Cut(rest, "\n")
	}
	return h
}

// field returns the number of a line "name:  number kB" of a file below /proc, 0 when there is none.
func field(path, name string) int64 {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
