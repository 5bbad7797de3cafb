package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"roost/images/rootfs"
)

func TestMain(m *testing.M) {
	if status, done := Helper(os.Args); done {
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// seen is what the stand-in for systemd tells (testdata/init).
type seen struct {
	PID                                           int
	Args, Block, Disks, Links                     []string
	Hostname, Machine, BootID, Panic, Forward     string
	Cgroup, Kmsg, SetTime, Container, Boots, Root string
	Kill                                          bool
	Record                                        bootRecord
}

// standIn makes a root image with testdata/init in systemd's place.
func standIn(t *testing.T, dir string) Root {
	t.Helper()
	program := filepath.Join(dir, "systemd")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the stand-in: %v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1700000000, 0)
	var entries []rootfs.Entry
	for _, name := range []string{".", "etc", "proc", "sys", "dev", "run", "var", "usr", "usr/bin", "usr/lib", "usr/lib/systemd"} {
		entries = append(entries, rootfs.Entry{Path: name, Mode: rootfs.TypeDirectory | 0o755, Time: now})
	}
	entries = append(entries,
		rootfs.Entry{Path: "usr/lib/systemd/systemd", Mode: rootfs.TypeRegular | 0o755, Time: now, Size: info.Size(), Open: func() (io.ReadCloser, error) { return os.Open(program) }},
		rootfs.Entry{Path: "usr/bin/tell", Mode: rootfs.TypeSymlink | 0o777, Time: now, Target: "../lib/systemd/systemd"})
	image, err := os.Create(filepath.Join(dir, "root.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if _, err := rootfs.Write(image, entries, rootfs.Options{Label: "test"}); err != nil {
		t.Fatal(err)
	}
	return Root{Image: image.Name(), RootHash: strings.Repeat("ab", 32)}
}

// needContainers skips where the machine cannot make containers.
func needContainers(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes namespaces: run as root")
	}
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil || !bytes.Contains(b, []byte("erofs\n")) || !bytes.Contains(b, []byte("cgroup2\n")) {
		t.Skip("this kernel has no erofs or no cgroup2")
	}
}

// upContainer makes a lab with one container of the stand-in that has two disks and knows its site.
func upContainer(t *testing.T, root Root, name string) (*Lab, *Machine) {
	t.Helper()
	dir := t.TempDir()
	l, err := Up(t.Context(), Config{Name: name, Dir: filepath.Join(dir, "lab")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	m, err := l.Add(Spec{Name: "c1", Kind: Container, Root: root, Disks: []int64{1 << 20, 2 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(m.statePath(), "lib/roost/identity")
	if err := os.MkdirAll(identity, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"host-id": "x", "machine-id": "0123456789abcdef0123456789abcdef\n", "hostname": "one\n"} {
		if err := os.WriteFile(filepath.Join(identity, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l, m
}

// follow reads a machine's console log from the beginning and returns the n-th line that begins with word, without the word.
func follow(t *testing.T, m *Machine, word string, n int) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(m.ConsoleLog())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		found := 0
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), word); ok && strings.HasSuffix(line, "\n") {
				if found++; found == n {
					return strings.TrimSpace(rest)
				}
			}
		}
	}
	b, _ := os.ReadFile(m.ConsoleLog())
	t.Fatalf("line %d of %q does not come; console: %s", n, word, b)
	return ""
}

func look(t *testing.T, m *Machine, boot int) (s seen) {
	t.Helper()
	if err := json.Unmarshal([]byte(follow(t, m, "seen", boot)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitOff waits until the keeper is gone.
func awaitOff(t *testing.T, m *Machine) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); m.Running(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the container stays on")
		}
	}
}

// leftovers lists what a container leaves on this computer.
func leftovers(t *testing.T, l *Lab, m *Machine) (found []string) {
	t.Helper()
	root, err := hierarchy()
	if err != nil {
		t.Fatal(err)
	}
	if root != "" && exists(cgroupOf(m, root).path) {
		found = append(found, "its cgroup")
	}
	for _, file := range []string{"/proc/self/mountinfo"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), l.dir) {
			found = append(found, "a mount")
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, loop := range loops {
		if b, err := os.ReadFile(loop); err == nil && strings.Contains(string(b), l.dir) {
			found = append(found, "block device "+loop)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		if b, err := os.ReadFile(process); err == nil && strings.Contains(string(b), m.dir) {
			found = append(found, "process "+process)
		}
	}
	return found
}

// TestContainer makes real containers of a stand-in for systemd.
func TestContainer(t *testing.T) {
	needContainers(t)
	root := standIn(t, t.TempDir())
	for name, test := range map[string]func(*testing.T, Root){
		"sees itself": seesItself, "power": power, "crash": crash, "command": command, "refuses": refuses,
	} {
		t.Run(name, func(t *testing.T) { test(t, root) })
	}
}

func seesItself(t *testing.T, root Root) {
	_, m := upContainer(t, root, "tsees")
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := look(t, m, 1)
	if s.PID != 1 || s.Container != "roost" || s.Machine != "0123456789abcdef0123456789abcdef" {
		t.Errorf("pid %d, container %q, machine id %q", s.PID, s.Container, s.Machine)
	}
	here, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(s.BootID) != 36 || s.BootID == strings.TrimSpace(string(here)) {
		t.Errorf("boot id %q, the computer's %q, %v", s.BootID, here, err)
	}
	if panics, err := os.ReadFile("/proc/sys/kernel/panic"); err != nil || s.Panic != "77" || strings.TrimSpace(string(panics)) == "77" {
		t.Errorf("panic setting is %s inside, %s outside, %v", s.Panic, panics, err)
	}
	if s.Forward != "1" {
		t.Errorf("its network's settings cannot be changed: %q", s.Forward)
	}
	if !strings.Contains(s.Cgroup+"\n", "0::/\n") || !s.Kill {
		t.Errorf("cgroup %q, own %v", s.Cgroup, s.Kill)
	}
	if want := []string{"roost-tsees-c1-disk1", "roost-tsees-c1-disk2"}; !reflect.DeepEqual(s.Disks, want) || len(s.Block) != 2 {
		t.Errorf("disks %q, block devices %q", s.Disks, s.Block)
	}
	if b, err := os.ReadFile(m.dataPath(0)); err != nil || !bytes.HasPrefix(b, []byte("written inside")) || len(b) != 1<<20 {
		t.Errorf("the first disk holds %.20q, %v", b, err)
	}
	if want := []string{"lo ", guestNIC + " " + m.MAC()}; !reflect.DeepEqual(s.Links, want) {
		t.Errorf("links %q, want %q", s.Links, want)
	}
	if s.Kmsg != "<nil>" || !strings.Contains(s.SetTime, "not permitted") || !strings.Contains(s.Root, "read-only") || s.Hostname != "(none)" {
		t.Errorf("kmsg: %s, clock: %s, root: %s, name: %s", s.Kmsg, s.SetTime, s.Root, s.Hostname)
	}
	r := s.Record
	if r.Origin != "container" || r.RootHash != m.Root.RootHash || r.MAC != m.MAC() || len(r.Hardware.Disks) != 3 || r.Hardware.System.UUID != m.UUID() || r.Site != nil {
		t.Errorf("boot record %+v", r)
	}
}

// power presses every button.
func power(t *testing.T, root Root) {
	l, m := upContainer(t, root, "tpower")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Reset(ctx); err == nil || !strings.Contains(err.Error(), "it is off") {
		t.Errorf("reset of a machine that is off: %v", err)
	}
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerOn(ctx); err != nil {
		t.Errorf("on again: %v", err)
	}
	first := look(t, m, 1)
	if err := m.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	second := look(t, m, 2)
	in, typing := io.Pipe()
	attached := make(chan error, 1)
	var shown bytes.Buffer
	go func() { attached <- m.Console(ctx, in, &shown) }()
	io.WriteString(typing, "reboot\n")
	third := look(t, m, 3) // by the container's own wish
	typing.Close()
	if err := <-attached; err != nil {
		t.Errorf("console: %v", err)
	}
	if first.BootID == second.BootID || second.BootID == third.BootID || third.Boots != "xxx" {
		t.Errorf("boots %q, ids %s, %s, %s", third.Boots, first.BootID, second.BootID, third.BootID)
	}
	if err := m.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	awaitOff(t, m)
	follow(t, m, "powering off", 1)
	if found := leftovers(t, l, m); len(found) > 0 {
		t.Errorf("after a shutdown there is %q", found)
	}
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	look(t, m, 4)
	if err := m.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if found := leftovers(t, l, m); len(found) > 0 || m.Running() {
		t.Errorf("after the power went there is %q, running %v", found, m.Running())
	}
}

// crash kills the keeper, which can then clean nothing up.
func crash(t *testing.T, root Root) {
	l, m := upContainer(t, root, "tcrash")
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	look(t, m, 1)
	init := m.initPID()
	died, err := pidfdOpen(init)
	if err != nil {
		t.Fatal(err)
	}
	defer died.Close()
	if err := end(m.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := awaitExit(died, 10*time.Second); err != nil {
		t.Errorf("the container outlives its keeper: %v", err)
	}
	if m.Running() {
		t.Error("it is said to run")
	}
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatalf("on again after a crash: %v", err)
	}
	look(t, m, 2)
	if err := end(m.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if found := leftovers(t, l, m); len(found) > 0 {
		t.Errorf("after a crash there is %q", found)
	}
}

func command(t *testing.T, root Root) {
	_, m := upContainer(t, root, "tcmd")
	if _, err := m.Command(t.Context(), "tell"); err == nil {
		t.Error("a command runs in a machine that is off")
	}
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	look(t, m, 1)
	cmd, err := m.Command(t.Context(), "tell", "once")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("ended with %v, want status 7", err)
	}
	if got := string(out); !strings.Contains(got, "0::/ 0") || !strings.HasSuffix(got, "0123456789abcdef0123456789abcdef\n") {
		t.Errorf("the command saw %q", got)
	}
	if cmd, err = m.Command(t.Context(), "missing"); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot run missing in the container") {
		t.Errorf("a missing program: %v, %s", err, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if cmd, err = m.Command(ctx, "tell", "wait"); err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 8)
	if _, err := io.ReadAtLeast(pipe, line, 2); err != nil {
		t.Fatal(err)
	}
	cancel()
	if rest, err := io.ReadAll(pipe); err != nil { // ends when nobody in the container holds the pipe any more
		t.Errorf("%q, %v", rest, err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a cancelled command ends well")
	}
}

// refuses tries what cannot become a container.
func refuses(t *testing.T, root Root) {
	l, m := upContainer(t, root, "tbad")
	if _, err := l.Add(Spec{Name: "c2", Kind: Container}); err == nil || !strings.Contains(err.Error(), "no root image") {
		t.Errorf("without a root: %v", err)
	}
	broken := filepath.Join(l.dir, "broken.erofs")
	if err := os.WriteFile(broken, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	bad, err := l.Add(Spec{Name: "c3", Kind: Container, Root: Root{Image: broken}})
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.PowerOn(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot mount root image") {
		t.Errorf("a broken root image: %v", err)
	}
	if found := leftovers(t, l, bad); len(found) > 0 || bad.Running() {
		t.Errorf("after a failed start there is %q, running %v", found, bad.Running())
	}
	if err := os.Remove(m.dataPath(1)); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerOn(t.Context()); err == nil || !strings.Contains(err.Error(), "disk2.raw") {
		t.Errorf("a missing disk: %v", err)
	}
	if found := leftovers(t, l, m); len(found) > 0 {
		t.Errorf("after a failed start there is %q", found)
	}
}

func TestParseHierarchy(t *testing.T) {
	for _, test := range []struct{ mounts, want string }{
		{"", ""},
		{"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified"},
		{"30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		{"30 23 0:26 /../other /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", ""},
		{"30 23 0:26 / - cgroup2\n", ""},
	} {
		if got := parseHierarchy(test.mounts); got != test.want {
			t.Errorf("%q: got %q, want %q", test.mounts, got, test.want)
		}
	}
}

func FuzzParseHierarchy(f *testing.F) {
	f.Add("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	f.Fuzz(func(t *testing.T, mounts string) { parseHierarchy(mounts) })
}

// TestBootID makes ids as the kernel does: random, version 4.
func TestBootID(t *testing.T) {
	a, b := string(bootID()), string(bootID())
	if len(a) != 37 || a == b || a[14] != '4' || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Errorf("ids %q and %q", a, b)
	}
}

// TestHelper leaves other programs' arguments alone.
func TestHelper(t *testing.T) {
	for _, args := range [][]string{nil, {"roost"}, {"roost", "lab", "up"}, {keeperName}} {
		if _, done := Helper(args); done {
			t.Errorf("%q is taken for a helper", args)
		}
	}
}

// TestLoopGoesByItself closes the device: the kernel lets go of the file.
func TestLoopGoesByItself(t *testing.T) {
	needContainers(t)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := attachLoop(path, "x")
	if err != nil {
		t.Fatal(err)
	}
	status := filepath.Join("/sys/block", filepath.Base(d.file.Name()), "loop/backing_file")
	if b, err := os.ReadFile(status); err != nil || strings.TrimSpace(string(b)) != path {
		t.Errorf("it is of %q, %v", b, err)
	}
	size, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKGETSIZE64)
	if err != nil || size != 1<<20 {
		t.Errorf("size %s, %v", strconv.Itoa(size), err)
	}
	d.file.Close()
	if b, err := os.ReadFile(status); err == nil && strings.TrimSpace(string(b)) == path {
		t.Error("the block device stays")
	}
}
