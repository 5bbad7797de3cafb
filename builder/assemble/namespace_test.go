package assemble

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"roost/builder/cores"
	"roost/builder/tree"
)

// toolTree is a tree in which this machine's own programs run, with some files to change.
func toolTree(t *testing.T) (*bench, *assembly, tree.Tree) {
	t.Helper()
	b := newBench(t).group("base", aliases, hostTools(t), pkg{name: "files", files: []tarFile{
		text("./srv/keep", "keep"), text("./srv/edit", "old"), text("./srv/twin", "old"), text("./srv/gone", "x"), folder("./srv/d/", 0o755, 0, 0), text("./srv/d/in", "x"), text("./srv/mode", "m"),
		folder("./srv/remade/", 0o755, 0, 0), text("./srv/remade/old", "x"), text("./srv/hidden", "h")}})
	a := &assembly{Config: b.config}
	a.Cores = cores.New(1)
	layers, err := a.unpackAll(t.Context(), a.Lock.Groups)[0].wait()
	if err != nil {
		t.Fatal(err)
	}
	d := tree.NewDraft()
	if err := newOwnership().merge(d, layers); err != nil {
		t.Fatal(err)
	}
	made, err := d.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return b, a, made
}

func TestRunTakesChangesOver(t *testing.T) {
	b, a, before := toolTree(t)
	after, err := a.run(t.Context(), before, job{name: "change", input: map[string]string{"word": "hello\n"}, hide: func(p string) bool { return p == "/srv/hidden" }, script: `
cd /srv
echo new >edit
rm gone
rm -r d
rm -r remade && mkdir remade && echo y >remade/new
chown 7:8 mode
chmod 4750 mode
ln -s keep link
mv keep moved
cat /run/roost/word >word
[ ! -e hidden ]
touch /tmp/t /dev/d /run/r
mkdir /var && mkdir -m 2770 /var/made
`})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/srv/edit": "new\n", "/srv/twin": "old", "/srv/gone": "nothing", "/srv/d": "nothing", "/srv/d/in": "nothing", "/srv/remade/old": "nothing", "/srv/remade/new": "y\n",
		"/srv/link": "-> keep", "/srv/keep": "nothing", "/srv/moved": "keep", "/srv/word": "hello\n", "/srv/hidden": "h",
		"/tmp/t": "nothing", "/dev/d": "nothing", "/run/r": "nothing", "/run/roost": "nothing", policy: "nothing", "/var/made": "directory 2770 0:0",
	} {
		if got := b.read(after, p); got != want {
			t.Errorf("%s is %q, want %q", p, got, want)
		}
	}
	if e, _ := after.Lookup("/srv/mode"); e.Mode != 0o4750 || e.UID != 7 || e.GID != 8 {
		t.Errorf("mode is %o of %d:%d", e.Mode, e.UID, e.GID)
	}
	// Whoever changes a file through the overlay must not change the store's.
	for _, e := range before.Entries() {
		if e.Type == tree.File {
			if _, err := a.Store.ReadFile(e.Blob); err != nil {
				t.Fatal(err)
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(a.Store.Path(before.Digest())))), "tmp", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("a run leaves %v, %v", left, err)
	}
}

func TestRunIsConfined(t *testing.T) {
	_, a, before := toolTree(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var said []string
	_, err := a.run(t.Context(), before, job{name: "look", report: func(line string) { said = append(said, line) }, script: fmt.Sprintf(`
[ ! -e %s ]
[ $$ = 1 ]
read name </proc/sys/kernel/hostname; echo "host $name"
while read -r interface rest; do case $interface in *:) echo "link $interface";; esac; done </proc/net/dev
if (echo 1 >/proc/sys/vm/drop_caches) 2>/dev/null; then echo "drop_caches written"; fi
for f in /dev/*; do echo "$f"; done
echo "locale $LC_ALL, epoch $SOURCE_DATE_EPOCH, user ${USER-none}"
while read -r key value; do [ $key != CapBnd: ] || echo "bounding $value"; done </proc/self/status
`, secret)})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(said, "\n")
	want := "host roost\nlink lo:\n/dev/fd\n/dev/full\n/dev/null\n/dev/random\n/dev/shm\n/dev/stderr\n/dev/stdin\n/dev/stdout\n/dev/urandom\n/dev/zero\nlocale C.UTF-8, epoch 1735689600, user none"
	if !strings.HasPrefix(got, want) {
		t.Errorf("a job sees\n%s\nwant\n%s", got, want)
	}
	var bounding uint64
	if _, err := fmt.Sscanf(said[len(said)-1], "bounding %x", &bounding); err != nil || bounding&(1<<16|1<<17|1<<21|1<<22|1<<25|1<<27) != 0 {
		t.Errorf("capabilities over modules, raw I/O, mounts, reboot, clock or device nodes are in %q (%v)", said[len(said)-1], err)
	}
}

func TestRunFails(t *testing.T) {
	_, a, before := toolTree(t)
	_, err := a.run(t.Context(), before, job{name: "break", script: "echo one; echo two >&2; exit 3\n"})
	if err == nil || err.Error() != "cannot break: exit status 3; it said last:\n  one\n  two" {
		t.Errorf("error %v", err)
	}
}

// TestDiskFull fills the store's file system in the middle of a build, then makes room: the build says why it stopped, and
// what it left does no harm.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system; CI has it")
	}
	small := t.TempDir()
	if err := unix.Mount("roost-test", small, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	store, err := tree.OpenStore(small)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	random := rand.New(rand.NewChaCha8([32]byte{}))
	content := make([]byte, 3<<19)
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	b.group("base", aliases, pkg{name: "large", files: []tarFile{text("./usr/share/large", string(content))}})
	want := b.build().Tree.Digest()
	b.config.Store, b.store = store, store
	if _, err := Tree(t.Context(), b.config); err == nil || !strings.Contains(err.Error(), "no space left for the build") || !strings.Contains(err.Error(), "large") {
		t.Errorf("error %v, want one that names the full disk and the package", err)
	}
	if err := unix.Mount("roost-test", small, "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	if got := b.build().Tree.Digest(); got != want {
		t.Errorf("after making room the tree is %s, want %s", got, want)
	}
}

// TestUmask: what the caller's umask takes away must not be missing in the tree, nor for the programs of a job.
func TestUmask(t *testing.T) {
	script := "#!/bin/sh\nset -e\nfor f in / /dev /dev/null /dev/shm /etc /etc/hosts /run /run/lock /run/roost /tmp /usr/sbin/policy-rc.d; do set -- $(ls -ld $f); echo \"$1 $f\"; done >/srv/seen\nmkdir /srv/made /var/made\n"
	b := newBench(t).group("base", aliases, hostTools(t), pkg{name: "looks", members: map[string]string{"postinst": script}, files: []tarFile{folder("./srv/", 0o755, 0, 0)}})
	want := b.build()
	store, err := tree.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seen := b.read(want.Tree, "/srv/seen")
	b.config.Store, b.store = store, store
	defer unix.Umask(unix.Umask(0o077))
	got := b.build()
	if changed, removed := want.Tree.Changes(got.Tree); len(changed)+len(removed) > 0 {
		t.Errorf("changed %v, removed %v\nsaw\n%swant\n%s", changed, removed, b.read(got.Tree, "/srv/seen"), seen)
	}
}

func TestRunIsCancelled(t *testing.T) {
	_, a, before := toolTree(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := time.Now()
	_, err := a.run(ctx, before, job{name: "sleep", script: "sleep 1000 & echo ready; wait\n", report: func(string) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the context is cancelled", err)
	}
	if took := time.Since(started); took > 8*time.Second { // a sleeper that lives would hold the pipe until WaitDelay ends
		t.Errorf("it took %v to end", took)
	}
}

// TestScripts configures packages with this machine's dpkg.
func TestScripts(t *testing.T) {
	shipped := pkg{name: "daemon", members: map[string]string{
		"preinst":   "#!/bin/sh\necho \"$0 $1\" >>/srv/log\n",
		"postinst":  "#!/bin/sh\nset -e\ncase $1 in\nconfigure) echo \"configure [$2]\" >>/srv/log; cat /etc/group >/srv/groups; # adduser --system _daemon\nupdate-alternatives --install /usr/bin/d d /usr/bin/daemon 10;;\ntriggered) echo \"triggered $2\" >>/srv/log;;\nesac\n",
		"conffiles": "/etc/daemon.conf\n",
		"triggers":  "interest-noawait /usr/share/plugins\n",
	}, files: []tarFile{tool("./usr/bin/daemon", "#!/bin/sh\n"), text("./etc/daemon.conf", "a=1\n"), text("./usr/share/plugins/own", ""), folder("./srv/", 0o755, 0, 0)}}
	ids := IDs{Users: []UserID{{Name: "_daemon", UID: 250, GID: 250, Home: "/", Shell: "/bin/sh"}, {Name: "unrelated", UID: 251, GID: 251, Home: "/", Shell: "/bin/sh"}}}
	b := newBench(t).group("base", aliases, hostTools(t), shipped)
	b.config.IDs = ids
	r := b.build()
	if got, want := b.read(r.Tree, "/srv/log"), "/var/lib/dpkg/info/daemon.preinst install\nconfigure []\n"; got != want {
		t.Errorf("scripts ran as\n%s, want\n%s", got, want)
	}
	if got := b.read(r.Tree, "/srv/groups"); !strings.Contains(got, "_daemon:*:250:") || strings.Contains(got, "unrelated") {
		t.Errorf("groups while configuring:\n%s", got)
	}
	if got := b.read(r.Tree, "/usr/bin/d"); got != "-> /etc/alternatives/d" {
		t.Errorf("the alternative is %s", got)
	}
	if got := b.read(r.Tree, "/etc/daemon.conf"); got != "a=1\n" {
		t.Errorf("the configuration file is %q", got)
	}
	if got := b.read(r.Tree, "/usr/lib/sysusers.d/00-roost.conf"); !strings.Contains(got, "u _daemon 250:250 - / /bin/sh\n") || strings.Contains(got, "unrelated") {
		t.Errorf("shipped users:\n%s", got)
	}

	// A file that comes later runs the trigger of a package below, even when nothing of its own has to run.
	b.group("top", pkg{name: "plugin", files: []tarFile{text("./usr/share/plugins/p", "")}})
	if got := b.read(b.build().Tree, "/srv/log"); !strings.HasSuffix(got, "configure []\ntriggered /usr/share/plugins\n") {
		t.Errorf("after a plugin came, scripts ran as\n%s", got)
	}

	// What a failing script said names the package.
	b.group("broken", pkg{name: "broken", members: map[string]string{"postinst": "#!/bin/sh\necho I cannot\nexit 7\n"}})
	_, err := Tree(t.Context(), b.config)
	for _, want := range []string{"package broken", "I cannot", "group broken"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestUnknownAccount(t *testing.T) {
	b := newBench(t).group("base", aliases, hostTools(t), pkg{name: "maker", members: map[string]string{"postinst": "#!/bin/sh\necho rogue:x:999:999::/:/bin/sh >>/etc/passwd\n"}})
	if _, err := Tree(t.Context(), b.config); err == nil || !strings.Contains(err.Error(), "/etc/passwd has rogue with number 999") {
		t.Errorf("an account that no table knows: %v", err)
	}
}

func TestRunRefusesLinkedMountPoints(t *testing.T) {
	_, a, before := toolTree(t)
	d := before.Draft()
	d.Remove("/run")
	if err := d.Put(tree.Entry{Path: "/run", Type: tree.Symlink, Mode: 0o777, Target: "/etc"}); err != nil {
		t.Fatal(err)
	}
	evil, err := d.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.run(t.Context(), evil, job{name: "enter", script: "true\n"}); err == nil || !strings.Contains(err.Error(), "/run is a symlink") {
		t.Errorf("error %v", err)
	}
}

// TestDiversion: a file that a lower package diverts is refused, for putting it in its place would be wrong in silence.
func TestDiversion(t *testing.T) {
	b := newBench(t).group("base", aliases, hostTools(t), pkg{name: "diverter", members: map[string]string{"postinst": "#!/bin/sh\nprintf '/srv/f\\n/srv/f.away\\ndiverter\\n' >/var/lib/dpkg/diversions\n"}})
	b.group("top", pkg{name: "victim", files: []tarFile{text("./srv/f", "f")}})
	if _, err := Tree(t.Context(), b.config); err == nil || !strings.Contains(err.Error(), "diverter diverts its file /srv/f") {
		t.Errorf("error %v", err)
	}
}

// TestOwnThread: whatever thread the scheduler picks, the process itself stays in the namespaces it was in.
func TestOwnThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces; CI has it")
	}
	before, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 64 {
		wait.Go(func() {
			onOwnThread(func() {
				if unix.Gettid() == unix.Getpid() {
					t.Error("the main thread was taken")
				}
				if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
					t.Error(err)
				}
			})
		})
	}
	wait.Wait()
	if after, err := os.Readlink("/proc/self/ns/mnt"); err != nil || after != before {
		t.Errorf("the process moved from %s to %s, %v", before, after, err)
	}
}
