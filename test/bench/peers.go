package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/images"
	"roost/images/uki"
	"roost/recipes"
)

// measured is how long a peer took, or why it did not.
type measured struct {
	took time.Duration
	note string
	cpu  time.Duration // of the processors
	err  error
}

// result puts the measured time into the table.
func (m measured) result(who string) Result {
	return sideOf(who, m.took.Seconds(), withProcessor(m.note, m.cpu), m.err)
}

// withProcessor adds to a note what the work took of the processors.
func withProcessor(note string, cpu time.Duration) string {
	return fmt.Sprintf("%s; %.0f s of processor time", note, cpu.Seconds())
}

// built is what a peer made.
type built struct {
	who              string
	cold, leaf, same measured
	root, uki        int64  // bytes
	tree             string // how its tree differs from ours
}

// builders runs the peers. Each gets the same packages from a local repository, the same initrd and programs ready-made,
// removes the same files and keeps the same kernel modules, decompressed.
func (b *bench) builders(ctx context.Context, e *edge) []built {
	k, err := b.prepareBuilders(ctx, e)
	if err != nil {
		failed := measured{err: fmt.Errorf("cannot prepare the peers: %w", err)}
		return []built{{who: "mkosi", cold: failed, leaf: failed, same: failed}, {who: "mmdebstrap", cold: failed, leaf: failed, same: failed}}
	}
	return []built{b.mkosi(ctx, k, e), b.mmdebstrap(ctx, k, e)}
}

func (b *bench) prepareBuilders(ctx context.Context, e *edge) (*kit, error) {
	k, err := b.tools(ctx)
	if err != nil {
		return nil, err
	}
	b.say("preparing the peers' repository and parts")
	if err := b.makeRepository(ctx, k, e); err != nil {
		return nil, err
	}
	if err := b.splitUKI(); err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(b.path("share"), 0o755), os.WriteFile(b.path("share", "finish.sh"), []byte(finishScript(removals())), 0o755)); err != nil {
		return nil, err
	}
	_, err = k.run(ctx, `cd /bench/ours
rm -rf tree
fsck.erofs --extract=tree root.erofs
cp tree/usr/bin/roostd /bench/share/
cd tree/usr/lib/modules/*
find . -name '*.ko' | sort > /bench/share/modules
cd /bench/ours/tree
find . | sort > /bench/ours/paths`)
	return k, err
}

// splitUKI takes our UKI apart: initrd, os-release, command line.
func (b *bench) splitUKI() error {
	f, err := os.Open(b.path("ours", string(images.KindUKI)))
	if err != nil {
		return err
	}
	defer f.Close() // opened for reading
	info, err := f.Stat()
	if err != nil {
		return err
	}
	image, err := uki.Open(f, info.Size())
	if err != nil {
		return err
	}
	line, err := image.CommandLine()
	if err != nil {
		return err
	}
	release, err := image.OSRelease()
	if err != nil {
		return err
	}
	for name, content := range map[string]io.Reader{"initrd": image.Initrd(), "kernel": image.Kernel(), "cmdline": strings.NewReader(line), "osrelease": strings.NewReader(release)} {
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.path("ours", name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// removals are the recipe's rules of what is left out.
func removals() []recipe.Rule {
	r, err := recipe.Loader{Shipped: recipes.FS()}.Load(recipe.Shipped + "edge.yaml")
	if err != nil {
		return nil // the build of ours has said why
	}
	return r.Remove
}

// finishScript makes a tree of packages what ours is: our daemon, our choice of kernel modules, the recipe's removals. Its
// arguments are the tree and the directory of the script itself.
func finishScript(rules []recipe.Rule) string {
	var b strings.Builder
	b.WriteString(`set -eu
cd "$1"
cp "$2/roostd" usr/bin/
cd usr/lib/modules/*
find . -name '*.ko.xz' | sed 's/\.xz$//' | sort > /tmp/modules.all
comm -23 /tmp/modules.all "$2/modules" | sed 's/$/.xz/' | xargs -r rm -f
find . -name '*.ko.xz' -print0 | xargs -0 -r -P 2 -n 50 unxz -f
cd "$1"
depmod -b "$1" "$(basename "$1"/usr/lib/modules/*)"
rm -rf var/cache/apt var/lib/apt/lists var/log/*.log
`)
	for _, r := range rules {
		if dir, all := strings.CutSuffix(r.Pattern, "/**"); all && !r.Keep && !strings.Contains(dir, "*") {
			keep := slices.ContainsFunc(rules, func(k recipe.Rule) bool { return k.Keep && strings.HasPrefix(k.Pattern, dir+"/") })
			if keep {
				fmt.Fprintf(&b, "find .%s -type f ! -name copyright -delete 2>/dev/null || true\n", dir)
			} else {
				fmt.Fprintf(&b, "rm -rf .%s\n", dir)
			}
		}
	}
	return b.String()
}

// pathOptions are the same rules as dpkg's options, which keep what is left out from being written at all.
func pathOptions(rules []recipe.Rule) []string {
	var options []string
	for _, r := range rules {
		verb := "exclude"
		if r.Keep {
			verb = "include"
		}
		options = append(options, "--dpkgopt=path-"+verb+"="+strings.ReplaceAll(r.Pattern, "**", "*"))
	}
	return options
}

func names(l *lock.Lock) []string {
	all := []string{emptyPackage}
	for p := range l.Packages() {
		all = append(all, p.Name)
	}
	return all
}

// patience is how long a peer's build may take before it counts as failed.
const patience = 15 * time.Minute

// timed measures one build of a peer.
func (b *bench) timed(ctx context.Context, k *kit, what, script string, arguments ...string) measured {
	b.say("%s", what)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begun := time.Now()
	cmd := command(ctx, k.script(script, arguments...)...)
	err := finish(cmd, "in the tool tree")
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("not done after %v", patience)
	}
	return measured{took: time.Since(begun), cpu: processor(cmd), err: err}
}

// mmdebstrap is Debian's own way by hand: mmdebstrap, mkfs.erofs, veritysetup, ukify. $1 are the packages, the rest are
// options of mmdebstrap.
const mmdebstrapScript = `rm -rf /bench/mmdebstrap
mkdir /bench/mmdebstrap
cd /bench/mmdebstrap
include=$1; shift
mmdebstrap --quiet --mode=root --variant=essential --format=directory --include="$include" --aptopt='APT::Install-Recommends "false"' "$@" \
  trixie root 'deb [trusted=yes] copy:///bench/repo trixie main' < /dev/null
cp root/boot/vmlinuz-* kernel
rm -rf root/boot/*
sh /bench/share/finish.sh /bench/mmdebstrap/root /bench/share
mkfs.erofs --quiet -T "$SOURCE_DATE_EPOCH" -x1 root.erofs root
veritysetup format --root-hash-file=hash root.erofs root.verity > /dev/null
ukify build --linux=kernel --initrd=/bench/ours/initrd --os-release=@/bench/ours/osrelease --uname="$(basename root/usr/lib/modules/*)" \
  --cmdline="roothash=$(cat hash) panic=10 console=tty0 console=ttyS0,115200" --output=edge.efi > /dev/null
`

func (b *bench) mmdebstrap(ctx context.Context, k *kit, e *edge) built {
	p := built{who: "mmdebstrap"}
	arguments := func(l *lock.Lock) []string {
		return append([]string{strings.Join(names(l), ",")}, pathOptions(removals())...)
	}
	p.cold = b.timed(ctx, k, "build of edge, cold: mmdebstrap + mkfs.erofs + veritysetup + ukify", mmdebstrapScript, arguments(e.lock)...)
	p.cold.note = "mmdebstrap + mkfs.erofs + veritysetup + ukify"
	if p.cold.err != nil {
		p.leaf, p.same = p.cold, p.cold
		return p
	}
	p.root, p.uki = size(b.path("mmdebstrap", "root.erofs")), size(b.path("mmdebstrap", "edge.efi"))
	p.tree = b.compareTree(ctx, k, e, "/bench/mmdebstrap/root")
	// It keeps nothing between runs: the same work again is what nothing changed costs.
	p.same = p.cold
	p.same.note = "keeps nothing between runs; the cold figure"
	p.leaf = b.timed(ctx, k, "build of edge with one leaf package more: mmdebstrap", mmdebstrapScript, arguments(e.leaf)...)
	p.leaf.note = "keeps nothing between runs"
	return p
}

// mkosiConfig is a mkosi.conf that makes a disk with an EFI system partition that holds the UKI, an EROFS root and its
// verity data.
func mkosiConfig(packages []string) string {
	return `[Distribution]
Distribution=debian
Release=trixie
Architecture=x86-64
LocalMirror=file:///bench/repo

[Output]
Format=disk
Output=edge
OutputDirectory=/bench/mkosi/out
SplitArtifacts=uki,partitions

[Content]
Bootable=yes
Bootloader=uki
Initrds=/bench/ours/initrd
KernelCommandLine=panic=10 console=tty0 console=ttyS0,115200
WithRecommends=no
WithDocs=no
KernelModulesInitrd=no
PrepareScripts=/bench/mkosi/conf/prepare
Packages=` + strings.Join(packages, "\n        ") + `

[Build]
Incremental=yes
BuildSources=/bench/share
History=no
CacheDirectory=/bench/mkosi/cache
PackageCacheDirectory=/bench/mkosi/packages
WorkspaceDirectory=/bench/mkosi/workspace
`
}

// mkosiParts are the other files of mkosi's configuration.
func mkosiParts() map[string]string {
	return map[string]string{
		"mkosi.repart/00-esp.conf":    "[Partition]\nType=esp\nFormat=vfat\nCopyFiles=/efi:/\nSizeMinBytes=128M\nSizeMaxBytes=128M\n",
		"mkosi.repart/10-root.conf":   "[Partition]\nType=root\nFormat=erofs\nCopyFiles=/\nExcludeFiles=/boot/\nVerity=data\nVerityMatchKey=root\nMinimize=best\nSplitName=root\n",
		"mkosi.repart/11-verity.conf": "[Partition]\nType=root-verity\nVerity=hash\nVerityMatchKey=root\nMinimize=best\nSplitName=verity\n",
		"prepare":                     "#!/bin/sh\n[ \"$1\" != final ] || exec sh \"$SRCDIR/finish.sh\" \"$BUILDROOT\" \"$SRCDIR\"\n",
	}
}

func (b *bench) mkosi(ctx context.Context, k *kit, e *edge) built {
	p := built{who: "mkosi"}
	if err := b.prepareMkosi(e); err != nil {
		p.cold.err, p.leaf.err, p.same.err = err, err, err
		return p
	}
	const run = "cd /bench/mkosi/conf && exec mkosi \"$@\" build"
	p.cold = b.timed(ctx, k, "build of edge, cold: mkosi", run, "--force")
	p.cold.note = "mkosi 25 of Debian 13 with Incremental=yes, which includes writing its cache"
	if p.cold.err != nil {
		p.leaf, p.same = p.cold, p.cold
		return p
	}
	p.uki, p.root = size(b.path("mkosi", "out", "edge.efi")), size(b.path("mkosi", "out", "edge.root.raw"))
	p.same = b.timed(ctx, k, "build of edge with nothing changed: mkosi", run, "--force")
	p.same.note = "from its incremental cache"
	p.leaf = b.timed(ctx, k, "build of edge with one leaf package more: mkosi", run, "--force", "--volatile-package="+leafPackage)
	p.leaf.note = "the leaf as a volatile package on its incremental cache"
	return p
}

func (b *bench) prepareMkosi(e *edge) error {
	if err := os.RemoveAll(b.path("mkosi")); err != nil {
		return err
	}
	files := mkosiParts()
	files["mkosi.conf"] = mkosiConfig(names(e.lock))
	for _, dir := range []string{"out", "cache", "packages", "workspace", "conf/mkosi.repart"} {
		if err := os.MkdirAll(b.path("mkosi", dir), 0o755); err != nil {
			return err
		}
	}
	var failures []error
	for name, text := range files {
		failures = append(failures, os.WriteFile(b.path("mkosi", "conf", name), []byte(text), 0o755))
	}
	return errors.Join(failures...)
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// compareTree says in words how a peer's tree differs from ours.
func (b *bench) compareTree(ctx context.Context, k *kit, e *edge, tree string) string {
	text, err := k.run(ctx, `cd "$1"
find . | sort > /tmp/paths
comm -12 /tmp/paths /bench/ours/paths | wc -l
comm -23 /tmp/paths /bench/ours/paths | wc -l
comm -13 /tmp/paths /bench/ours/paths | wc -l
dpkg-query --admindir=var/lib/dpkg -W -f '${Package} ${Version}\n' || dpkg-query --admindir=usr/lib/dpkg -W -f '${Package} ${Version}\n'`, tree)
	if err != nil {
		return "its tree could not be compared with ours: " + err.Error()
	}
	return describeTree(text, e.lock)
}

// describeTree reads what compareTree's script prints: three numbers, then packages with versions.
func describeTree(text string, l *lock.Lock) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) < 3 {
		return "its tree could not be compared with ours"
	}
	want := map[string]bool{}
	for p := range l.Packages() {
		want[p.Name+" "+string(p.Version)] = true
	}
	other := 0
	for _, line := range lines[3:] {
		if !want[line] && !strings.HasPrefix(line, emptyPackage+" ") {
			other++
		}
		delete(want, line)
	}
	packages := "the same packages"
	if other+len(want) > 0 {
		packages = fmt.Sprintf("%d packages more and %d fewer than the lock", other, len(want))
	}
	return fmt.Sprintf("its tree: %s, %s paths as ours, %s only there, %s only in ours", packages, lines[0], lines[1], lines[2])
}
