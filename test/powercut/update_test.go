package powercut_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/images"
	"roost/images/disk"
	"roost/images/disk/esp"
	"roost/images/rootfs"
	"roost/test/powercut"
	"roost/updater/boot"
	"roost/updater/slot"
)

const mib = 1 << 20

// version is a pretended release with a real hash tree.
type version struct {
	name  string
	uki   boot.UKI
	file  []byte
	parts map[images.Kind][]byte
	slot  slot.Content
}

func newVersion(t testing.TB, name string) version {
	t.Helper()
	v := version{name: name, parts: map[images.Kind][]byte{}}
	v.file = bytes.Repeat(fmt.Appendf(nil, "edge\n%s\n", name), 3000) // some forty clusters
	v.uki = boot.UKI{Base: boot.BaseName("edge", name), Digest: images.DigestOf(v.file), Size: int64(len(v.file))}
	root := make([]byte, 1*mib)
	r := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[0])))
	for i := range root {
		root[i] = byte(r.Uint32())
	}
	h := rootfs.NewHasher(bytes.Repeat([]byte{9}, 32), [16]byte{8})
	if _, err := h.Write(root); err != nil {
		t.Fatal(err)
	}
	tree, err := h.Tree()
	if err != nil {
		t.Fatal(err)
	}
	var verity bytes.Buffer
	if _, err := tree.WriteTo(&verity); err != nil {
		t.Fatal(err)
	}
	v.parts[images.KindRoot], v.parts[images.KindVerity] = root, verity.Bytes()
	v.slot = slot.Content{RootHash: tree.RootHash(), Root: part(root), Verity: part(verity.Bytes()),
		Open: func(_ context.Context, kind images.Kind) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(v.parts[kind])), nil
		}}
	return v
}

func part(b []byte) images.Part { return images.Part{Digest: images.DigestOf(b), Size: int64(len(b))} }

// machine is a disk under a recorder, with version 1 in slot a.
type machine struct {
	recorder *powercut.Recorder
	esp      disk.Partition
	one, two version
	volume   *powercut.VFAT
}

// newMachine puts a number of entries before version 1 into the directory, so that long names lie across sectors.
func newMachine(t *testing.T, padding int) *machine {
	t.Helper()
	ctx := context.Background()
	m := &machine{one: newVersion(t, "1"), two: newVersion(t, "2")}
	layout := disk.Layout{ESP: 40 * mib, Slot: 1 * mib, Verity: 1 * mib}
	size := layout.MinSize()
	base := powercut.NewRecorder(bytes.NewReader(nil), size)
	table, err := layout.Table(size, 512, []byte("power"))
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(base, size); err != nil {
		t.Fatal(err)
	}
	slots := slot.Disk{Device: base}
	if err := errors.Join(slots.Write(ctx, slot.A, m.one.slot), slots.Seal(ctx, slot.A, m.one.slot.RootHash)); err != nil {
		t.Fatal(err)
	}
	m.esp, _ = table.Find(disk.ESPA)
	loader := func() io.Reader { return strings.NewReader("loader") }
	spec := esp.Volume{Label: "ESP-A", Serial: 1, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	files := esp.Files(loader, "edge_1.efi", bytes.NewReader(m.one.file))
	for n := range padding {
		files = append(files, esp.File{Path: fmt.Sprintf("EFI/Linux/PAD%d", n), Content: strings.NewReader("x")})
	}
	if err := esp.Format(base, m.esp.Offset, m.esp.Size, spec, files); err != nil {
		t.Fatal(err)
	}
	m.recorder = powercut.NewRecorder(base, size)
	if m.volume, err = powercut.OpenVFAT(m.recorder, m.esp.Offset, m.esp.Size, "EFI/Linux"); err != nil {
		t.Fatal(err)
	}
	return m
}

// update is what the updater does to the disk, from the first write to the commit and the way back. The loader's own rename
// at the trial is among it.
func (m *machine) update(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	slots, e := slot.Disk{Device: m.recorder}, boot.ESP{Volume: m.volume}
	uki := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.two.file)), nil }
	for i, err := range []func() error{
		func() error { return e.Collect(m.one.uki) },
		func() error { return slots.Write(ctx, slot.B, m.two.slot) },
		func() error { return slots.Seal(ctx, slot.B, m.two.slot.RootHash) },
		func() error { return e.Arm(ctx, m.two.uki, 2, uki) },
		func() error { return m.volume.Count("edge_2+2-0.efi", "edge_2+1-1.efi") },
		func() error { return e.Commit(ctx, m.two.uki) },
		func() error { return e.Collect(m.one.uki, m.two.uki) },
		func() error { return e.MarkBad(m.two.uki) },
		func() error { return e.Commit(ctx, m.one.uki) },
	} {
		if err := err(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

// readPretended takes a pretended UKI apart.
func readPretended(content []byte) (sortKey, version string, ok bool) {
	lines := bytes.SplitN(content, []byte("\n"), 3)
	if len(lines) < 3 {
		return "", "", false
	}
	return string(lines[0]), string(lines[1]), true
}

// TestUpdatePowerCut rebuilds the disk of a whole update at every flush, and seeded torn and reordered writes between them.
// Each must come up on version 1 or 2, whole; on 1 when 2 crashes. The directory is padded so that names straddle sectors in
// different ways.
func TestUpdatePowerCut(t *testing.T) {
	seeds := 16
	if os.Getenv("ROOST_TEST_SOAK") != "" {
		seeds = 200
	}
	for _, padding := range []int{0, 9, 10, 11, 12, 13} {
		t.Run(fmt.Sprintf("padding %d", padding), func(t *testing.T) { cutUpdate(t, padding, seeds) })
	}
}

func cutUpdate(t *testing.T, padding, seeds int) {
	ctx := context.Background()
	m := newMachine(t, padding)
	m.update(t)
	j := &powercut.Judge{Options: 3, Read: readPretended,
		Rebuilder: &powercut.Rebuilder{Log: m.recorder.Log, Base: newMachine(t, padding).recorder, Size: m.recorder.Size()}}
	for _, v := range []version{m.one, m.two} {
		j.Versions = append(j.Versions, powercut.Version{Name: v.name, UKI: v.uki.Digest, RootHash: v.slot.RootHash})
	}
	if err := j.Open(); err != nil {
		t.Fatal(err)
	}
	states, versions := 0, map[string]int{}
	committed := false
	for s := range m.recorder.Log.States(seeds) {
		states++
		up, err := j.Judge(ctx, s, nil)
		if err != nil || up.Version == "" {
			t.Fatalf("%+v: nothing comes up from %q, %v", s, up.Offered, err)
		}
		versions[up.Version]++
		// A version that crashes while on trial must not keep the machine. Once committed it is known to be good.
		committed = committed || slices.Contains(up.Offered, "edge_2.efi")
		if committed {
			continue
		}
		back, err := j.Judge(ctx, s, func(version string) boot.Outcome {
			if version == "2" {
				return boot.Reset
			}
			return boot.Up
		})
		if err != nil || back.Version != "1" {
			t.Errorf("%+v: does not come back to version 1 from %q, %v", s, back.Offered, err)
		}
	}
	t.Logf("%d entries, %d states: %v", len(m.recorder.Log.Entries), states, versions)
	if versions["1"] == 0 || versions["2"] == 0 || states < 20*seeds {
		t.Errorf("%d states reached %v; want both versions and %d states", states, versions, 20*seeds)
	}
}
