package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"roost/builder/archive"
	"roost/builder/lock"
	"roost/images"
	"roost/recipes"
)

// kit is a Debian 13 tree with the peers' tools. It is made once and kept in the work directory.
type kit struct{ root, work string }

// kitPackages are what peers need: builders and what they call, Debian's maker of initrds, servers. None of it is installed
// on this computer, where Debian would start the servers at once and at every boot.
const kitPackages = "mkosi,mmdebstrap,systemd-ukify,systemd-repart,systemd-boot-efi,systemd-boot-tools,erofs-utils,cryptsetup-bin," +
	"dosfstools,mtools,e2fsprogs,initramfs-tools,zstd,xz-utils,kmod,cpio,apt-utils," +
	"dnsmasq-base,atftpd,nginx,kea-dhcp4-server,kea-admin"

// enter is a shell script that runs a command in the tree $1, with the work directory $2 at /bench, in namespaces of its
// own. The tree becomes the root of the mount namespace, because mkosi's own sandbox refuses to start in a mere chroot.
const enter = `set -eu
root=$1 work=$2; shift 2
mkdir -p "$root/bench"
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --bind "$work" "$root/bench"
cd "$root"
pivot_root . .
umount -l .
exec env -i PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8 SOURCE_DATE_EPOCH=` + "${SOURCE_DATE_EPOCH:-0}" + ` "$@"`

// line is the command line of a program in the tree. It ends with all it started when it is killed.
func (k *kit) line(arguments ...string) []string {
	return append([]string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", enter, "sh", k.root, k.work}, arguments...)
}

// run runs a shell script in the tree and returns what it printed to standard output.
func (k *kit) run(ctx context.Context, script string, arguments ...string) (string, error) {
	return output(ctx, k.script(script, arguments...)...)
}

// script is the command line of a shell script in the tree.
func (k *kit) script(text string, arguments ...string) []string {
	return k.line(append([]string{"sh", "-euc", text, "sh"}, arguments...)...)
}

// makeKit makes the tool tree from a mirror.
func (b *bench) makeKit(ctx context.Context) (*kit, error) {
	k := &kit{work: b.dir, root: b.path("tools-" + images.DigestOf([]byte(kitPackages)).Hex()[:12])}
	if _, err := os.Stat(k.root); err == nil {
		return k, nil
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a tool tree needs root: run with sudo")
	}
	mmdebstrap, err := look("mmdebstrap", "mmdebstrap")
	if err != nil {
		return nil, err
	}
	b.say("making the Debian 13 tool tree of the peers (kept for the next run)")
	sources, err := b.kitSources()
	if err != nil {
		return nil, err
	}
	old, err := filepath.Glob(b.path("tools-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	// A tree that was interrupted must not be taken for a whole one. In a mount namespace of its own, what mmdebstrap mounts in
	// the tree goes when it is killed, before anybody removes the tree.
	half := b.path("tools-half")
	_, err = output(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", mmdebstrap, "--mode=root", "--variant=apt", "--include="+kitPackages, `--aptopt=APT::Install-Recommends "false"`, "trixie", half, sources)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(half))
	}
	return k, os.Rename(half, k.root)
}

// kitSources writes apt's sources for the tool tree, checked with the archive keys that come with the recipes.
func (b *bench) kitSources() (string, error) {
	mirror, err := archive.FindMirror(b.mirror, os.Getenv, os.DirFS("/"))
	if err != nil {
		return "", err
	}
	key, err := fs.ReadFile(recipes.FS(), "keys/debian-trixie.asc")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(b.path("debian.asc"), key, 0o644); err != nil {
		return "", err
	}
	var text strings.Builder
	for _, suite := range []string{"trixie", "trixie-updates", "trixie-security"} {
		fmt.Fprintf(&text, "deb [signed-by=%s] %s %s main\n", b.path("debian.asc"), mirror.Bases(suite)[0], suite)
	}
	return b.path("sources.list"), os.WriteFile(b.path("sources.list"), []byte(text.String()), 0o644)
}

// noInitramfs is the control file of an empty package that stands for a maker of initrds, which Debian's kernel wants and
// the image has not.
const noInitramfs = `Package: roost-no-initramfs
Version: 1
Architecture: all
Maintainer: Roost <roost@example.org>
Provides: linux-initramfs-tool
Description: stands for a tool that makes initrds
`

const emptyPackage = "roost-no-initramfs"

// makeRepository makes a local apt repository of the packages of both locks, for the peers to read.
func (b *bench) makeRepository(ctx context.Context, k *kit, e *edge) error {
	repo := b.path("repo")
	if err := os.RemoveAll(repo); err != nil {
		return err
	}
	for _, l := range []*lock.Lock{e.lock, e.leaf} {
		for p := range l.Packages() {
			if err := linkFile(b.path("cold", archive.SectionBlobs, p.SHA256.Hex()), filepath.Join(repo, "pool", filepath.Base(p.File))); err != nil {
				return err
			}
		}
	}
	empty := filepath.Join(repo, "empty", "DEBIAN")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(empty, "control"), []byte(noInitramfs), 0o644); err != nil {
		return err
	}
	_, err := k.run(ctx, `cd /bench/repo
dpkg-deb --root-owner-group --build empty pool/`+emptyPackage+`_1_all.deb
rm -r empty
mkdir -p dists/trixie/main/binary-amd64
apt-ftparchive packages pool > dists/trixie/main/binary-amd64/Packages
o='-o APT::FTPArchive::Release'
apt-ftparchive $o::Suite=trixie $o::Codename=trixie $o::Components=main $o::Architectures=amd64 release dists/trixie > Release
mv Release dists/trixie/`)
	return err
}
