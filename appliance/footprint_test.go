package appliance

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/trust"
	"roost/images/durable"
)

// TestMain runs this binary as one half of a site when TestFootprint asks for it.
func TestMain(m *testing.M) {
	switch half := os.Getenv("ROOST_FOOTPRINT"); half {
	case "":
		os.Exit(m.Run())
	default:
		if err := runHalf(half, os.Getenv("ROOST_FOOTPRINT_DIR")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// runHalf is a controller or a worker alone in its process, until its input ends.
func runHalf(half, dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		bufio.NewReader(os.Stdin).ReadByte()
		cancel()
	}()
	files, err := durable.Open(filepath.Join(dir, "identity"), 0o600)
	if err != nil {
		return err
	}
	id, err := trust.LoadIdentity(files)
	if err != nil {
		return err
	}
	if half == "worker" {
		key, err := trust.NewKey()
		if err != nil {
			return err
		}
		m := &machine{lab: &lab{key: key, log: slog.New(slog.DiscardHandler)}, dir: dir, boots: 1, n: 1, engine: &engine{}}
		return m.run(ctx)
	}
	authority, err := id.OpenAuthority()
	if err != nil {
		return err
	}
	c, err := OpenController(ctx, ControllerConfig{Dir: filepath.Join(dir, "control"), Identity: id, Authority: authority, Beat: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", strings.TrimPrefix(id.Assignment.Controllers[0], "https://"))
	if err != nil {
		return err
	}
	return c.Run(ctx, listener)
}

// TestFootprint holds the memory of a controller and of a worker, each in a process of its own, after fifty beats. The
// programs are this test's, a little larger than the daemon.
func TestFootprint(t *testing.T) {
	l := newLab(t)
	controller, worker := l.machine(0), l.machine(1)
	one := l.found(t.Context(), controller)
	l.startController(controller)
	l.push(filepath.Join(l.dir, "depot"), one)
	installed := make(chan error, 1)
	go func() { installed <- worker.discover(context.Background(), l.address) }()
	h := l.await(mac(1), func(h *api.Host) bool { return h.Phase == api.Discovered })
	if _, err := l.admin.Approve(t.Context(), h.ID, api.Approval{Personality: "worker", Name: "worker-0"}); err != nil {
		t.Fatal(err)
	}
	if err := <-installed; err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.stop = nil

	halves := map[string]int{"controller": l.half("controller", controller.dir), "worker": l.half("worker", worker.dir)}
	l.await("worker-0", serving)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // fifty beats
	defer cancel()
	if err := l.admin.Watch(ctx, 0, nil, func(api.Event) error { return nil }); ctx.Err() == nil {
		t.Fatal(err)
	}
	for name, limit := range map[string]int64{"controller": 150 << 20, "worker": 60 << 20} {
		got := residentOf(t, halves[name])
		t.Logf("%s: %d MB resident", name, got>>20)
		if got > limit {
			t.Errorf("%s holds %d MB, more than %d MB", name, got>>20, limit>>20)
		}
	}
}

// half starts one half of the site and returns its process id.
func (l *lab) half(half, dir string) int {
	t := l.t
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "ROOST_FOOTPRINT="+half, "ROOST_FOOTPRINT_DIR="+dir, "GOGC=50")
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		command.Wait()
	})
	return command.Process.Pid
}

func residentOf(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
