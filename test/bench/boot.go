package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"roost/images"
	"roost/images/disk"
	"roost/images/disk/media"
	"roost/images/uki"
	"roost/test/lab"
)

// debianInitrd is Debian's maker of initrds, in the table.
const debianInitrd = "initramfs-tools"

// boot compares the time from the moment the firmware starts a file to the first word of roostd: our initrd, and Debian's
// own with the same kernel, command line, root image, hash tree and first-boot work, on the same disk.
func (b *bench) boot(ctx context.Context) ([]Row, error) {
	e, err := b.built(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.splitUKI(); err != nil {
		return nil, err
	}
	whole := Row{What: "boot: firmware hand-over to roostd, disk, verity", Unit: Seconds}
	kernel := Row{What: "boot: of which kernel and initrd, to systemd", Unit: Seconds}
	size := Row{What: "initrd, kernel modules included", Unit: Megabytes}
	l, err := b.upLab(ctx)
	if err != nil {
		return nil, err
	}
	defer b.downLab(l)
	const what = "roostd's first word: what it is; a fresh disk, whose state partition is formatted on the way"
	for _, side := range []struct {
		who, machine, note string
		make               func(context.Context, *edge) (initrd []byte, err error)
	}{
		{ours, "ours", what, func(context.Context, *edge) ([]byte, error) { return os.ReadFile(b.path("ours", "initrd")) }},
		{debianInitrd, "debian", "MODULES=most; a local-top script calls veritysetup, a local-bottom script lays /var and /etc as ours does", b.debianInitrd},
	} {
		var best phases
		initrd, err := side.make(ctx, e)
		for n := 0; n < 2 && err == nil; n++ {
			b.say("boot: %s, %d of 2", side.who, n+1)
			var p phases
			p, err = b.bootOnce(ctx, l, fmt.Sprint(side.machine, n), e, initrd)
			if err == nil && (best.whole == 0 || p.whole < best.whole) {
				best = p
			}
		}
		whole.Results = append(whole.Results, sideOf(side.who, best.whole.Seconds(), side.note, err))
		silent := err
		if silent == nil && best.initrd == 0 {
			silent = errors.New("the console does not show the end of the initrd")
		}
		kernel.Results = append(kernel.Results, sideOf(side.who, best.initrd.Seconds(), "", silent))
		size.Results = append(size.Results, sideOf(side.who, float64(len(initrd))/1e6, "", err))
		if err != nil && side.who == ours {
			return []Row{whole, kernel, size}, err
		}
	}
	return []Row{whole, kernel, size}, nil
}

// debianInitrd makes an initrd with initramfs-tools in the tool tree, for our kernel and root image.
func (b *bench) debianInitrd(ctx context.Context, e *edge) ([]byte, error) {
	k, err := b.tools(ctx)
	if err != nil {
		return nil, err
	}
	b.say("boot: making Debian's initrd")
	if err := b.makeRepository(ctx, k, e); err != nil {
		return nil, err
	}
	if err := b.initramfsConfig(e); err != nil {
		return nil, err
	}
	_, err = k.run(ctx, `dpkg-deb -x /bench/repo/pool/"$1"_*.deb /tmp/kernel
rm -rf /usr/lib/modules/"$2"
mkdir -p /usr/lib/modules
mv /tmp/kernel/usr/lib/modules/"$2" /usr/lib/modules/ 2> /dev/null || mv /tmp/kernel/lib/modules/"$2" /usr/lib/modules/
cp /tmp/kernel/boot/config-* /boot/
rm -r /tmp/kernel
depmod "$2"
for f in modules hooks scripts; do cp -r /bench/initramfs/$f /etc/initramfs-tools/; done
mkinitramfs -o /bench/initramfs/initrd "$2"`, e.lock.Kernel, e.release.Kernel)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(b.path("initramfs", "initrd"))
}

// initramfsConfig writes what initramfs-tools lacks to boot our disk: it knows no dm-verity, and no /etc and /var of ours.
func (b *bench) initramfsConfig(e *edge) error {
	data, verity, err := disk.SlotGUIDs(e.release.RootHash)
	if err != nil {
		return err
	}
	var failures []error
	for name, text := range initramfsFiles(data.String(), verity.String(), e.release.RootHash) {
		path := b.path("initramfs", name)
		failures = append(failures, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755))
	}
	return errors.Join(failures...)
}

func initramfsFiles(data, verity, rootHash string) map[string]string {
	const head = "#!/bin/sh\ncase \"$1\" in prereqs) exit 0 ;; esac\n"
	return map[string]string{
		"modules":      "dm_verity\nerofs\noverlay\next4\n",
		"hooks/verity": head + ". /usr/share/initramfs-tools/hook-functions\ncopy_exec /usr/sbin/veritysetup\n",
		"scripts/local-top/verity": head + fmt.Sprintf(`data=/dev/disk/by-partuuid/%s verity=/dev/disk/by-partuuid/%s
n=0
while [ ! -e $data ] || [ ! -e $verity ]; do
	[ $n -lt 300 ] || break
	n=$((n+1))
	sleep 0.1
done
veritysetup open $data root $verity %s
echo ROOT=/dev/mapper/root >> /conf/param.conf
`, strings.ToLower(data), strings.ToLower(verity), rootHash),
		"scripts/local-bottom/state": head + fmt.Sprintf(`state=/dev/disk/by-partlabel/%s
mount -o bind /dev ${rootmnt}/dev
if chroot ${rootmnt} /usr/bin/head -c 14 $state | chroot ${rootmnt} /usr/bin/grep -q %s; then
	chroot ${rootmnt} /usr/sbin/mkfs.ext4 -q -F -L state $state
fi
umount ${rootmnt}/dev
mount -t ext4 -o nosuid,nodev,noatime,commit=5 $state ${rootmnt}/var
mkdir -p /run/roost/etc/upper /run/roost/etc/work
mount -t overlay -o nosuid,nodev,lowerdir=${rootmnt}/etc,upperdir=/run/roost/etc/upper,workdir=/run/roost/etc/work overlay ${rootmnt}/etc
echo '{"origin":"disk","rootHash":"%s","disk":"/dev/vda"}' > /run/roost/boot.json
echo '<4>%s' > /dev/kmsg
`, disk.State, strings.TrimSpace(disk.FreshMark), rootHash, initrdEnds),
	}
}

// bootOnce makes a disk with an initrd, boots it, and returns how long each phase took.
func (b *bench) bootOnce(ctx context.Context, l *lab.Lab, name string, e *edge, initrd []byte) (phases, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	image := b.path("boot.raw")
	defer os.Remove(image) // a sparse file that only the machine's copy needs
	if err := b.writeDisk(image, e.release, initrd); err != nil {
		return phases{}, err
	}
	m, err := l.Add(lab.Spec{Name: name, Disk: e.release.Needs.Disk, Image: image})
	if err != nil {
		return phases{}, err
	}
	if err := m.PowerOn(ctx); err != nil {
		return phases{}, err
	}
	lines, err := watchConsole(ctx, m.ConsoleLog(), roostdSpeaks)
	if err := errors.Join(err, m.PowerOff(), os.Remove(m.DiskPath())); err != nil {
		return phases{}, fmt.Errorf("cannot boot with this initrd: %w; the console ends: %s", err, lastLines(lines, 4))
	}
	return findPhases(lines)
}

// writeDisk makes a disk of the release with a UKI of that initrd.
func (b *bench) writeDisk(path string, r *images.Release, initrd []byte) error {
	parts := uki.Parts{CommandLine: r.CommandLine, Uname: r.Kernel, SBAT: "roost,1,Roost,edge,1,https://example.org\n", Initrd: initrd}
	var err error
	var release []byte
	for name, to := range map[string]*[]byte{"kernel": &parts.Kernel, "osrelease": &release} {
		if *to, err = os.ReadFile(b.path("ours", name)); err != nil {
			return err
		}
	}
	parts.OSRelease = string(release)
	if parts.Stub, err = os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub"); err != nil {
		return fmt.Errorf("%w; make bench installs it (package systemd-boot-efi)", err)
	}
	image, err := uki.Assemble(parts)
	if err != nil {
		return err
	}
	p := media.Parts{Name: r.Name, Version: r.Version, RootHash: r.RootHash, Created: r.Created, UKI: media.Part{Content: bytes.NewReader(image), Size: int64(len(image))}}
	if p.Loader, err = os.ReadFile(b.path("ours", string(images.KindLoader))); err != nil {
		return err
	}
	for kind, to := range map[images.Kind]*media.Part{images.KindRoot: &p.Root, images.KindVerity: &p.Verity} {
		f, err := os.Open(b.path("ours", string(kind)))
		if err != nil {
			return err
		}
		defer f.Close() // opened for reading
		*to = media.Part{Content: f, Size: r.Part(kind).Size}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(media.WriteDisk(f, r.Needs.Disk, disk.Layout{Slot: r.Needs.Slot, Verity: r.Needs.Verity}, p), f.Close())
}
