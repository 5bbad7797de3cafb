package appliance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/linux"
	"roost/appliance/software"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/durable"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
	"roost/images/rootfs"
	"roost/updater"
	"roost/updater/boot"
	"roost/updater/boot/boottest"
	"roost/updater/slot"
)

// box is a machine whose disk is a file. Everything that decides, fetches, installs or writes is what a real machine runs;
// pretended are the firmware, the kernel and the file system of the EFI system partition.
type box struct {
	*machine
	daemon *daemon
	path   string // of the disk
	road   road   // to the registry

	mu     sync.Mutex // guards the fields below
	esp    boottest.Partition
	broken error // of every write to the disk
	boot   boxBoot
}

// boxBoot is one boot of a box.
type boxBoot struct {
	id, file, version string
	off               func()
}

// road is a transport that can be made to misbehave.
type road struct {
	http.RoundTripper
	mu    sync.Mutex
	fault func(*http.Request, *http.Response) // of what is read of a blob; nil: none
	keys  []*ecdsa.PublicKey                  // that the machine trusts
}

// Open is the machine's fetcher.
func (b *box) Open(ctx context.Context, reference string) (*updater.Source, error) {
	f := &Fetcher{Registry: b.identity.Assignment.Controllers[0], Transport: &b.road, Keys: b.road.trusted(),
		Patience: depot.Options{Stall: 300 * time.Millisecond, Retries: 8, Pause: 20 * time.Millisecond}}
	return f.Open(ctx, reference)
}

func (r *road) trusted() []*ecdsa.PublicKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys
}

func (r *road) trust(key *ecdsa.PrivateKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = []*ecdsa.PublicKey{&key.PublicKey}
}

func (r *road) RoundTrip(q *http.Request) (*http.Response, error) {
	answer, err := r.RoundTripper.RoundTrip(q)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && r.fault != nil && strings.Contains(q.URL.Path, "/blobs/") {
		r.fault(q, answer)
	}
	return answer, err
}

func (r *road) set(fault func(*http.Request, *http.Response)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault
}

const boxDisk = 256 << 20

// box makes machine n with a blank disk.
func (l *lab) box(n int) *box {
	l.t.Helper()
	b := &box{machine: l.machine(n)}
	b.road.trust(l.key)
	root := filepath.Join(b.dir, "root")
	trustFile := filepath.Join(root, releaseKeys)
	b.path = filepath.Join(b.dir, "disk")
	b.disk = api.Disk{Path: b.path, Size: boxDisk}
	if err := os.MkdirAll(filepath.Dir(trustFile), 0o700); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(trustFile, releasetest.PEM(l.t, &l.key.PublicKey), 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(b.path, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Truncate(b.path, boxDisk); err != nil {
		l.t.Fatal(err)
	}
	b.daemon = &daemon{root: root, boot: &linux.Boot{Origin: "network"}, log: l.log}
	b.writes = b.install
	return b
}

// install is what a discovered machine does, with the identity also where this process finds it.
func (b *box) install(ctx context.Context, key *trust.Key, a *api.Assignment, site *client.Client, progress func(int64, int64)) error {
	if err := b.daemon.install(ctx, key, a, site, progress); err != nil {
		return err
	}
	fetcher := &Fetcher{Registry: a.Registry, Transport: site.Transport(), Keys: b.road.trusted()}
	source, err := fetcher.Open(ctx, a.Repository+"@"+string(a.Release))
	if err != nil {
		return err
	}
	defer source.Close()
	r := source.Release
	_, uki := boottest.UKI(r.Name, string(r.Version))
	b.esp.Put(boot.BaseName(r.Name, string(r.Version))+".efi", uki)
	dir, err := durable.Open(filepath.Join(b.dir, "identity"), 0o600)
	if err != nil {
		return err
	}
	state, err := durable.Open(filepath.Join(b.dir, "state"), 0o600)
	if err != nil {
		return err
	}
	if err := state.Write(configFile, []byte(`{"schema":1,"hostname":"x"}`)); err != nil {
		return err
	}
	installed := slot.Installed{Manifest: source.Manifest, Name: r.Name, Version: r.Version, RootHash: r.RootHash, UKI: r.UKI, File: boot.BaseName(r.Name, string(r.Version))}
	if err := (slot.Records{Dir: state}).Put(installed, func(slot.Installed) bool { return true }); err != nil {
		return err
	}
	return key.Save(dir, a)
}

// run boots the box from its disk, again after every reboot, until ctx ends.
func (b *box) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := b.live(ctx); err != nil {
			return err
		}
	}
	return nil
}

// live is one boot.
func (b *box) live(ctx context.Context) error {
	device, closer, err := slot.OpenDevice(b.path)
	if err != nil {
		return err
	}
	defer closer.Close()
	disk := &slot.Disk{Device: &brittle{device, b}}
	ctx, off := context.WithCancel(ctx)
	defer off()
	if err := b.start(disk, off); err != nil {
		return err
	}
	dir, err := durable.Open(filepath.Join(b.dir, "identity"), 0o600)
	if err != nil {
		return err
	}
	state, err := durable.Open(filepath.Join(b.dir, "state"), 0o600)
	if err != nil {
		return err
	}
	if b.identity, err = trust.LoadIdentity(dir); err != nil {
		return err
	}
	site, err := (&Node{Identity: b.identity}).connect()
	if err != nil {
		return err
	}
	defer site.Close()
	b.road.RoundTripper = site.Transport()
	engine := &updater.Updater{Journal: state, Slots: disk, Boot: b, Gates: b, Host: b, Log: b.lab.log, Now: time.Now, Pause: time.Millisecond,
		Fetcher: b}
	if err := engine.Start(ctx); err != nil {
		return err
	}
	facts, _ := b.Facts(ctx)
	agent := &software.Agent{Engine: engine, Files: state, RootHash: facts.RootHash, Slot: runningSlot(disk, facts.RootHash),
		Records: slot.Records{Dir: state}.List, Patience: time.Second, Log: b.lab.log}
	if err := agent.Load(); err != nil {
		return err
	}
	node := &Node{Identity: b.identity, Dir: dir, State: state, Agent: agent, Hardware: b.inventory, Beat: 50 * time.Millisecond, Log: b.lab.log,
		Facts: func(context.Context) api.Report { return api.Report{BootID: facts.Boot, Origin: "disk", Healthy: true} }}
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	err = node.Run(ctx)
	off()
	if e := <-ended; err == nil {
		err = e
	}
	return err
}

// start lets the loader choose. A version whose root no slot holds does not come up.
func (b *box) start(disk *slot.Disk, off func()) error {
	slots, err := disk.Slots()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.boots++
	file, version, ok := b.esp.PowerOn(3, 20, func(version string) boot.Outcome {
		hash := b.lab.roots[version]
		if slices.ContainsFunc(slots, func(s slot.Slot) bool { return s.RootHash == hash }) {
			return boot.Up
		}
		return boot.Reset
	})
	if !ok {
		return fmt.Errorf("machine %d does not boot any more: %v", b.n, slices.Sorted(maps.Keys(b.esp.Files())))
	}
	b.boot = boxBoot{id: fmt.Sprintf("boot-%d-%d", b.n, b.boots), file: file, version: version, off: off}
	return nil
}

// Use, Check, Facts, Evidence and Reboot are what the update engine needs of a machine.
func (b *box) Use(ctx context.Context, f func(boot.ESP) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.esp.Use(ctx, f)
}

func (b *box) Check(_ context.Context, gates []images.Gate) (results []updater.Result) {
	for _, gate := range gates {
		results = append(results, updater.Result{Name: gate.Name, Held: true})
	}
	return results
}

func (b *box) Facts(context.Context) (updater.Facts, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name, _ := boot.ParseName(b.boot.file)
	return updater.Facts{Boot: b.boot.id, Uptime: time.Hour, Architecture: "amd64", RootHash: b.lab.roots[b.boot.version],
		Started: boot.Started{Entry: name, Trial: name.Counted}}, nil
}

func (b *box) Evidence(context.Context, string) (updater.Found, error) { return updater.Found{}, nil }

func (b *box) Reboot(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.boot.off()
	return nil
}

// brittle is a disk whose writes can be made to fail.
type brittle struct {
	slot.Device
	box *box
}

func (d *brittle) WriteAt(p []byte, offset int64) (int, error) {
	d.box.mu.Lock()
	err := d.box.broken
	d.box.mu.Unlock()
	if err != nil && len(p) > 65536 { // content; the partition table is smaller
		return 0, &os.PathError{Op: "write", Path: d.box.path, Err: err}
	}
	return d.Device.WriteAt(p, offset)
}

// breakDisk makes every write of content fail; nil mends it.
func (b *box) breakDisk(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

// fill leaves so many bytes free on the EFI system partition.
func (b *box) fill(free int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fillLocked(free)
}

func (b *box) fillLocked(free int64) {
	var used int64
	for _, data := range b.esp.Files() {
		used += int64(len(data))
	}
	b.esp.Capacity = used + free
}

// state is what must not change when a release is refused: what boots, and the bytes of the slot that runs.
func (b *box) state() string {
	b.lab.t.Helper()
	device, closer, err := slot.OpenDevice(b.path)
	if err != nil {
		b.lab.t.Fatal(err)
	}
	defer closer.Close()
	disk := &slot.Disk{Device: device}
	b.mu.Lock()
	defer b.mu.Unlock()
	text := fmt.Sprintf("boot %s of %s %v", b.boot.id, b.boot.version, slices.Sorted(maps.Keys(b.esp.Files())))
	slots, err := disk.Slots()
	if err != nil {
		b.lab.t.Fatal(err)
	}
	for _, s := range slots {
		if s.RootHash == b.lab.roots[b.boot.version] {
			text += fmt.Sprintf(", slot %s: %v", s.ID, disk.Check(context.Background(), s.ID, s.RootHash))
		}
	}
	return text
}

// real is a release whose root and hash tree are real, so that it can be installed and verified. change may alter its
// document.
func (l *lab) real(version images.Version, change func(*images.Release)) depot.Publication {
	l.t.Helper()
	r := imagestest.Release("edge", version)
	root, source := make([]byte, 1<<20), rand.New(rand.NewPCG(7, uint64(len(l.roots))))
	for i := range root {
		root[i] = byte(source.Uint32())
	}
	hasher := rootfs.NewHasher(bytes.Repeat([]byte{1}, 32), [16]byte{2})
	if _, err := hasher.Write(root); err != nil {
		l.t.Fatal(err)
	}
	tree, err := hasher.Tree()
	if err != nil {
		l.t.Fatal(err)
	}
	var verity bytes.Buffer
	if _, err := tree.WriteTo(&verity); err != nil {
		l.t.Fatal(err)
	}
	_, uki := boottest.UKI("edge", string(version))
	parts := map[images.Kind][]byte{images.KindUKI: uki, images.KindRoot: root, images.KindVerity: verity.Bytes(), images.KindLoader: imagestest.Content(r, images.KindLoader)}
	r.RootHash, r.CommandLine = tree.RootHash(), "roothash="+tree.RootHash()
	r.UKI, r.Root, r.Verity = partOf(uki), partOf(root), partOf(verity.Bytes())
	r.Needs = images.Needs{Slot: 2 << 20, Verity: 1 << 20, ESP: 40 << 20, Disk: 200 << 20, Memory: 1 << 30}
	r.Update.Tries = 2
	if change != nil {
		change(r)
	}
	if l.roots[string(version)] == "" { // else it is another build, which never runs
		l.roots[string(version)] = r.RootHash
	}
	p := depottest.Publication(l.t, r, l.key)
	for kind, data := range parts {
		if kind.Compressed() {
			data = compressed(l.t, data)
		}
		if err := os.WriteFile(p.Parts[kind], data, 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	return p
}

func partOf(b []byte) images.Part {
	return images.Part{Digest: images.DigestOf(b), Size: int64(len(b))}
}

func compressed(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

// shelve publishes to a depot of the operator's.
func (l *lab) shelve(p depot.Publication) *depot.Release {
	l.t.Helper()
	r, err := depottest.Open(l.t, "oci:"+filepath.Join(l.dir, "operator")).Publish(context.Background(), p)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}
