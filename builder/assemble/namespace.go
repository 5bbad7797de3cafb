package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"roost/builder/tree"
)

// job is work done by programs of a tree, on that tree.
type job struct {
	name   string            // for errors and logs
	script string            // run by the tree's own /bin/sh
	input  map[string]string // files in /run/roost by name, for the script
	hide   func(string) bool // files the programs shall not see, by path; they stay in the tree; may be nil
	report func(line string) // called with each line of output; may be nil
}

// run lays t out, runs the job in it and returns the tree that comes out.
//
// The programs see nothing of the host: the tree is the lower layer of an overlay whose upper one is a tmpfs, all in a
// mount namespace of its own; no network but a loopback that is down; own process, IPC and host name spaces; a /dev of
// five harmless nodes; no privilege to load modules, set clocks or reach hardware. Cancelling ctx kills every process.
func (a *assembly) run(ctx context.Context, t tree.Tree, j job) (tree.Tree, error) {
	for _, dir := range []string{"/dev", "/etc", "/proc", "/run", "/tmp", "/usr", path.Dir(policy)} {
		if e, ok := t.Lookup(dir); ok && e.Type != tree.Directory {
			return tree.Tree{}, fmt.Errorf("cannot %s: %s is a %v, and what is written there could land outside the tree", j.name, dir, e.Type)
		}
	}
	scratch, err := a.Store.Scratch("job-")
	if err != nil {
		return tree.Tree{}, err
	}
	defer a.discard(scratch)
	lower := filepath.Join(scratch, "lower")
	if err := os.Mkdir(lower, 0o755); err != nil {
		return tree.Tree{}, err
	}
	if err := a.materialise(ctx, t, lower, j.hide); err != nil {
		return tree.Tree{}, explainFull(err)
	}
	var result tree.Tree
	onOwnThread(func() { result, err = a.runInNamespace(ctx, t, scratch, j) })
	if err != nil {
		return tree.Tree{}, fmt.Errorf("cannot %s: %w", j.name, explainFull(err))
	}
	return result, nil
}

// onOwnThread calls f on a thread that ends with it, and with it the namespaces that f put the thread in. The main thread
// would never end, so it is kept busy while another one is taken.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked, which makes the thread end with the goroutine
		if unix.Gettid() == unix.Getpid() {
			onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// explainFull says it in plain words when the disk or the memory for scratch files is full.
func explainFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("no space left for the build (free some in the cache's file system, or in memory for scratch files): %w", err)
	}
	return err
}

// runInNamespace must be called on a locked thread that nothing else will use.
func (a *assembly) runInNamespace(ctx context.Context, t tree.Tree, scratch string, j job) (tree.Tree, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET); err != nil {
		return tree.Tree{}, fmt.Errorf("no namespaces (run as root, or in a user namespace, see BecomeRoot): %w", err)
	}
	unix.Umask(0o022) // of this thread only, since it has mounts of its own; the caller's must not show in the tree
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return tree.Tree{}, fmt.Errorf("mounts cannot be made private: %w", err)
	}
	if err := unix.Sethostname([]byte("roost")); err != nil {
		return tree.Tree{}, fmt.Errorf("cannot set the host name: %w", err)
	}
	work := filepath.Join(scratch, "work")
	root, err := mountOverlay(filepath.Join(scratch, "lower"), work)
	if err != nil {
		return tree.Tree{}, err
	}
	if err := furnish(root, j); err != nil {
		return tree.Tree{}, err
	}
	if err := execute(ctx, root, j); err != nil {
		return tree.Tree{}, err
	}
	for _, name := range []string{"run", "tmp", "dev"} {
		if err := unix.Unmount(filepath.Join(root, name), unix.MNT_DETACH); err != nil {
			return tree.Tree{}, fmt.Errorf("cannot unmount /%s: %w", name, err)
		}
	}
	return a.absorb(t, filepath.Join(work, "upper"))
}

// mountOverlay mounts lower with a fresh tmpfs on top and returns the directory of the result.
func mountOverlay(lower, work string) (string, error) {
	if err := os.Mkdir(work, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("roost", work, "tmpfs", 0, "mode=0755"); err != nil {
		return "", fmt.Errorf("cannot mount scratch memory: %w", err)
	}
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o755); err != nil {
			return "", err
		}
	}
	root := filepath.Join(work, "root")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", escapeOption(lower), escapeOption(work), escapeOption(work))
	err := unix.Mount("overlay", root, "overlay", 0, options+",redirect_dir=off,metacopy=off")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) { // in a user namespace overlay's marks have another name, and both features are off
		err = unix.Mount("overlay", root, "overlay", 0, options+",userxattr")
	}
	if err != nil {
		return "", fmt.Errorf("cannot mount an overlay: %w", err)
	}
	return root, nil
}

// escapeOption protects the characters that mean something in overlay's options.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`).Replace(s)
}

// Files that a job finds and that are never taken over into the tree: policy forbids invoke-rc.d to start services, and
// names lets scripts look up the host's own name, always with the same answer.
const (
	policy = "/usr/sbin/policy-rc.d"
	names  = "/etc/hosts"
)

// placeholders are empty files in the place of keys that packages make for each machine, and that the seal would remove. With
// them there, no script spends time on making any. They are never taken over into the tree either.
func placeholders() []string {
	return []string{"/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key"}
}

// furnish mounts what programs expect to find: /run with the job's input, /tmp and a small /dev.
func furnish(root string, j job) error {
	for name, options := range map[string]string{"run": "mode=0755", "tmp": "mode=1777", "dev": "mode=0755"} {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("roost", dir, "tmpfs", unix.MS_NOSUID, options); err != nil {
			return fmt.Errorf("cannot mount /%s: %w", name, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "run/roost"), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(root, "run/lock"), 0o1777); err != nil {
		return err
	}
	for name, content := range j.input {
		if err := os.WriteFile(filepath.Join(root, "run/roost", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "run/roost/script"), []byte(j.script), 0o644); err != nil {
		return err
	}
	for _, f := range []struct {
		name, content string
		mode          os.FileMode
	}{
		{policy, "#!/bin/sh\nexit 101\n", 0o755},
		{names, hosts + "127.0.1.1 roost\n", 0o644},
	} {
		at := filepath.Join(root, f.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(f.content), f.mode)); err != nil {
			return err
		}
	}
	for _, name := range placeholders() {
		at := filepath.Join(root, name)
		if info, err := os.Lstat(filepath.Dir(at)); err != nil || !info.IsDir() {
			continue // nobody's package is there
		}
		f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return makeDevices(filepath.Join(root, "dev"))
}

func makeDevices(dev string) error {
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		at := filepath.Join(dev, name)
		if unix.Mknod(at, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))) == nil {
			if err := unix.Chmod(at, 0o666); err != nil {
				return err
			}
			continue
		}
		// A user namespace may not make device nodes, but may bind the host's harmless ones.
		if err := errors.Join(os.WriteFile(at, nil, 0o666), unix.Mount("/dev/"+name, at, "", unix.MS_BIND, "")); err != nil {
			return fmt.Errorf("cannot make /dev/%s: %w", name, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(dev, "shm"), 0o1777)
}

// enter is what the first process does before the job's script: take away what could reach the kernel, and give up
// privileges that no package needs.
const enter = `set -e
umask 022
if [ -x /usr/bin/mount ]; then
	mount --bind /proc/sys /proc/sys
	mount -o remount,bind,ro /proc/sys
fi
drop=-sys_module,-sys_time,-sys_boot,-sys_rawio,-sys_pacct,-syslog,-wake_alarm,-block_suspend,-audit_control,-mac_admin,-mac_override,-sys_admin,-sys_ptrace,-mknod,-net_admin,-bpf,-perfmon,-linux_immutable
exec setpriv --bounding-set=$drop --inh-caps=-all -- /bin/sh -e /run/roost/script
`

// environment is all that programs of a job see: one locale, one time zone, one clock, no terminal.
func environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TZ=UTC", "TERM=dumb", "SHELL=/bin/sh",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", tree.FileTime),
		"DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true", "DEBCONF_NOWARNINGS=yes",
		"SYSTEMD_OFFLINE=1", "PYTHONHASHSEED=0", "PERL_HASH_SEED=0", "INITRD=No",
	}
}

func execute(ctx context.Context, root string, j job) error {
	out := &lastLines{report: j.report}
	cmd := exec.CommandContext(ctx, "/usr/bin/unshare", "--fork", "--pid", "--kill-child", "--mount-proc", "--", "/bin/sh", "-c", enter)
	cmd.Path = "/usr/bin/unshare" // in the tree, not on the host
	cmd.Err = nil
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 10 * time.Second // for the kernel to end what a killed job left
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:    root,
		Setsid:    true,
		Pdeathsig: syscall.SIGKILL,
	}
	err := cmd.Run()
	out.flush()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &jobError{cause: err, lines: out.lines}
	}
	return nil
}

// jobError is a failed job with the last it said.
type jobError struct {
	cause error
	lines []string
}

func (e *jobError) Error() string {
	if len(e.lines) == 0 {
		return e.cause.Error()
	}
	return fmt.Sprintf("%v; it said last:\n  %s", e.cause, strings.Join(e.lines, "\n  "))
}

func (e *jobError) Unwrap() error { return e.cause }

// keptLines is how much of a job's output an error repeats.
const keptLines = 25

// lastLines passes lines on and keeps the last ones.
type lastLines struct {
	report  func(string)
	lines   []string
	partial []byte
}

func (w *lastLines) Write(p []byte) (int, error) {
	w.partial = append(w.partial, p...)
	for {
		line, rest, ok := bytes.Cut(w.partial, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.partial = rest
		w.take(string(line))
	}
}

func (w *lastLines) flush() {
	if len(w.partial) > 0 {
		w.take(string(w.partial))
		w.partial = nil
	}
}

func (w *lastLines) take(line string) {
	if w.report != nil {
		w.report(line)
	}
	if w.lines = append(w.lines, line); len(w.lines) > keptLines {
		w.lines = w.lines[1:]
	}
}
