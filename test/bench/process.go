package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// command prepares a program that ends, with all it started, when ctx ends.
func command(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// output runs a program to its end and returns what it printed to standard output. The error has its last words.
func output(ctx context.Context, arguments ...string) (string, error) {
	var out bytes.Buffer
	cmd := command(ctx, arguments...)
	cmd.Stdout = &out
	err := finish(cmd, arguments[0])
	return out.String(), err
}

// finish runs a prepared command; what it prints to a stream that nobody took goes into the error.
func finish(cmd *exec.Cmd, name string) error {
	words := &tail{}
	if cmd.Stdout == nil {
		cmd.Stdout = words
	}
	if cmd.Stderr == nil {
		cmd.Stderr = words
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot run %s: %w: %s", name, err, words)
	}
	return nil
}

// processor is what an ended command and the programs it waited for took of the processors. Beside the time by the clock it
// tells work from waiting, also on a busy computer.
func processor(cmd *exec.Cmd) time.Duration {
	if cmd.ProcessState == nil {
		return 0
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// tail keeps the last words of a program.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

// maxTail bounds what is kept of a program that talks much.
const maxTail = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-maxTail):]
	return len(p), nil
}

// all returns what was kept.
func (t *tail) all() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}

// String returns the last lines in one.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return strings.Join(lines[max(0, len(lines)-6):], " | ")
}

// service is a program that runs until it is stopped.
type service struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	words  *tail
	ended  chan struct{}
	err    error
	after  func() // runs once it has stopped; nil = nothing to do
}

// start starts a service. Its standard output goes to out where that is given.
func start(ctx context.Context, out io.Writer, arguments ...string) (*service, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &service{cmd: command(ctx, arguments...), cancel: cancel, words: &tail{}, ended: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = s.words, s.words
	if out != nil {
		s.cmd.Stdout = out
	}
	if err := s.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("cannot start %s: %w", arguments[0], err)
	}
	go func() {
		defer close(s.ended)
		s.err = s.cmd.Wait()
	}()
	return s, nil
}

// stop ends the service and all it started, and waits for it.
func (s *service) stop() {
	s.cancel()
	<-s.ended
	if s.after != nil {
		s.after()
	}
}

// await polls until ready says so. A service that has ended or takes longer than limit is an error with its last words.
func (s *service) await(ctx context.Context, limit time.Duration, ready func() bool) error {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ended:
			return fmt.Errorf("%s has ended: %v: %s", s.cmd.Args[0], s.err, s.words)
		case <-timeout.C:
			return fmt.Errorf("%s does not answer within %v: %s", s.cmd.Args[0], limit, s.words)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// look finds a program and says which package has it.
func look(program, debian string) (string, error) {
	path, err := exec.LookPath(program)
	if errors.Is(err, exec.ErrNotFound) {
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if _, err := os.Stat(dir + program); err == nil {
				return dir + program, nil
			}
		}
		return "", fmt.Errorf("%s is not installed; make bench installs it (package %s)", program, debian)
	}
	return path, err
}
