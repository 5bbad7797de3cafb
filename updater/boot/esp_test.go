package boot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"roost/images"
	"roost/updater/boot"
	"roost/updater/boot/boottest"
)

const (
	options  = 3 // boot options the installer makes
	attempts = 12
	seeds    = 40 // outcomes of one power cut
)

func source(data []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// machine is a partition with version 1 good, and version 2 as the step under test expects it.
func machine(names ...string) *boottest.Partition {
	p := &boottest.Partition{}
	for _, file := range names {
		name, _ := boot.ParseName(file)
		_, data := boottest.UKI("edge", name.Base[len("edge_"):])
		p.Put(file, data)
	}
	return p
}

// step is one operation under test.
type step struct {
	name  string
	start []string // files before
	do    func(boot.ESP) error
	want  []string // files after
	// up is every version the machine may come up on when the power is cut in the step and version 2 works (else version 1).
	up []string
}

func steps() []step {
	one, _ := boottest.UKI("edge", "1")
	two, data := boottest.UKI("edge", "2")
	ctx := context.Background()
	arm := func(e boot.ESP) error { return e.Arm(ctx, two, 2, source(data)) }
	return []step{
		{"arm", []string{"edge_1.efi"}, arm, []string{"edge_1.efi", "edge_2+2-0.efi"}, []string{"1", "2"}},
		{"arm with a third", []string{"edge_0.efi", "edge_1.efi"}, arm, []string{"edge_0.efi", "edge_1.efi", "edge_2+2-0.efi"}, []string{"1", "2"}},
		{"arm armed", []string{"edge_1.efi", "edge_2+1-1.efi"}, arm, []string{"edge_1.efi", "edge_2+1-1.efi"}, []string{"2"}},
		{"arm once bad", []string{"edge_1.efi", "edge_2+0-2.efi"}, arm, []string{"edge_1.efi", "edge_2+2-0.efi"}, []string{"1", "2"}},
		{"commit", []string{"edge_1.efi", "edge_2+1-1.efi"}, func(e boot.ESP) error { return e.Commit(ctx, two) },
			[]string{"edge_1.efi", "edge_2.efi"}, []string{"2"}},
		{"commit twice", []string{"edge_1.efi", "edge_2.efi"}, func(e boot.ESP) error { return e.Commit(ctx, two) },
			[]string{"edge_1.efi", "edge_2.efi"}, []string{"2"}},
		{"mark trial bad", []string{"edge_1.efi", "edge_2+1-1.efi"}, func(e boot.ESP) error { return e.MarkBad(two) },
			[]string{"edge_1.efi", "edge_2+0-1.efi"}, []string{"1", "2"}},
		{"mark good bad", []string{"edge_1.efi", "edge_2.efi"}, func(e boot.ESP) error { return e.MarkBad(two) },
			[]string{"edge_1.efi", "edge_2+0-1.efi"}, []string{"1", "2"}},
		{"mark twins bad", []string{"edge_1.efi", "edge_2.efi", "edge_2+1-1.efi"}, func(e boot.ESP) error { return e.MarkBad(two) },
			[]string{"edge_1.efi", "edge_2+0-1.efi"}, []string{"1", "2"}},
		{"mark bad twice", []string{"edge_1.efi", "edge_2+0-2.efi"}, func(e boot.ESP) error { return e.MarkBad(two) },
			[]string{"edge_1.efi", "edge_2+0-2.efi"}, []string{"1"}},
		{"demote", []string{"edge_1.efi", "edge_2.efi"}, func(e boot.ESP) error { return e.Demote(ctx, two) },
			[]string{"edge_1.efi", "edge_2+0-0.efi"}, []string{"1", "2"}},
		{"collect", []string{"edge_0.efi", "edge_1.efi", "edge_0+0-2.efi"}, func(e boot.ESP) error { return e.Collect(one) },
			[]string{"edge_1.efi"}, []string{"1"}},
	}
}

// TestESPPowerCut cuts the power at each operation of each step, lets FAT keep what it may at worst, and looks whether the
// machine comes up on a good version: with version 2 working, panicking and refused. Then it checks the file system, repeats
// the step as recovery does, and wants the same end.
func TestESPPowerCut(t *testing.T) {
	states := 0
	for _, step := range steps() {
		t.Run(step.name, func(t *testing.T) {
			whole := machine(step.start...)
			operations := 0
			whole.Tick = func() error { operations++; return nil }
			if err := step.do(boot.ESP{Volume: whole}); err != nil {
				t.Fatal(err)
			}
			wantFiles(t, whole, step.want, "without a cut")
			for cut := 1; cut <= operations+1; cut++ {
				for seed := range uint64(seeds) {
					states++
					cutStep(t, step, cut, seed)
				}
			}
		})
	}
	t.Logf("%d states", states)
}

func cutStep(t *testing.T, s step, cut int, seed uint64) {
	t.Helper()
	p := machine(s.start...)
	left := cut
	p.Tick = func() error {
		if left--; left == 0 {
			return boottest.ErrPowerCut
		}
		return nil
	}
	err := s.do(boot.ESP{Volume: p})
	if left <= 0 && !errors.Is(err, boottest.ErrPowerCut) {
		t.Fatalf("cut %d: %v, want a power cut", cut, err)
	}
	where := fmt.Sprintf("cut %d seed %d", cut, seed)
	for name, outcome := range map[string]boot.Outcome{"works": boot.Up, "panics": boot.Reset, "is refused": boot.Refused} {
		for _, backward := range []bool{false, true} {
			comesUp(t, s, p.Restart(seed), backward, outcome, where+", version 2 "+name)
		}
	}
	for _, reverse := range []bool{false, true} {
		after := p.Restart(seed)
		after.Check(reverse)
		err := s.do(boot.ESP{Volume: after})
		if errors.Is(err, boot.ErrNotFound) && slices.Contains(s.up, "1") {
			continue // version 2 was lost while it was being put behind version 1
		}
		if err != nil {
			t.Fatalf("%s: repeated: %v", where, err)
		}
		for _, file := range names(after) {
			name, ok := boot.ParseName(file)
			if ok && !name.Bad() && !slices.Contains(s.want, file) {
				t.Fatalf("%s: repeated: %q, want %q", where, names(after), s.want)
			}
		}
		_, version, ok := after.Restart(0).PowerOn(options, attempts, func(string) boot.Outcome { return boot.Up })
		_, whole, _ := machine(s.want...).PowerOn(options, attempts, func(string) boot.Outcome { return boot.Up })
		if !ok || version != whole {
			t.Fatalf("%s: repeated, came up on %q (%t), want %q", where, version, ok, whole)
		}
	}
}

// comesUp powers a machine on after a cut.
func comesUp(t *testing.T, s step, after *boottest.Partition, backward bool, outcome boot.Outcome, where string) {
	t.Helper()
	if outcome != boot.Up && slices.Contains(s.start, "edge_2.efi") {
		return // it was good before
	}
	after.Backward = backward
	_, version, ok := after.PowerOn(options, attempts, func(version string) boot.Outcome {
		if version == "2" && slices.Contains(s.up, "1") {
			return outcome
		}
		return boot.Up
	})
	if !ok || outcome == boot.Up && !slices.Contains(s.up, version) {
		t.Fatalf("%s: came up on %q (%t) from %q", where, version, ok, names(after))
	}
}

func names(p *boottest.Partition) []string {
	names, _ := p.Names()
	return names
}

func wantFiles(t *testing.T, p *boottest.Partition, want []string, when string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := names(p); !slices.Equal(got, want) {
		t.Fatalf("%s: %q, want %q", when, got, want)
	}
}

// TestAlias: a cut rename left a UKI under the short name that FAT gives it, without counters.
func TestAlias(t *testing.T) {
	one, data := boottest.UKI("edge", "1")
	two, second := boottest.UKI("edge", "2")
	for name, test := range map[string]struct {
		do   func(boot.ESP) error
		want []string
	}{
		"commit":   {func(e boot.ESP) error { return e.Commit(context.Background(), two) }, []string{"edge_1.efi", "edge_2.efi"}},
		"mark bad": {func(e boot.ESP) error { return e.MarkBad(two) }, []string{"edge_1.efi", "edge_2+0-1.efi"}},
		"keep":     {func(e boot.ESP) error { return e.Collect(one, two) }, []string{"EDGE_2~1.EFI", "edge_1.efi"}},
		"collect":  {func(e boot.ESP) error { return e.Collect(one) }, []string{"edge_1.efi"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &boottest.Partition{}
			p.Put("edge_1.efi", data)
			p.Put("EDGE_2~1.EFI", second)
			if err := test.do(boot.ESP{Volume: p}); err != nil {
				t.Fatal(err)
			}
			wantFiles(t, p, test.want, "afterwards")
		})
	}
}

// TestArmRefuses: what is not the UKI that was asked for gets no name that the loader looks at.
func TestArmRefuses(t *testing.T) {
	two, data := boottest.UKI("edge", "2")
	flipped := bytes.Clone(data)
	flipped[100] ^= 1
	full := machine("edge_1.efi")
	full.Capacity = int64(len(data)) * 3 / 2
	for name, test := range map[string]struct {
		p    *boottest.Partition
		data []byte
	}{
		"flipped":   {machine("edge_1.efi"), flipped},
		"truncated": {machine("edge_1.efi"), data[:len(data)-1]},
		"too long":  {machine("edge_1.efi"), append(bytes.Clone(data), 0)},
		"empty":     {machine("edge_1.efi"), nil},
		"disk full": {full, data},
	} {
		t.Run(name, func(t *testing.T) {
			if err := (boot.ESP{Volume: test.p}).Arm(context.Background(), two, 2, source(test.data)); err == nil {
				t.Error("armed")
			}
			for _, file := range names(test.p) {
				if _, ok := boot.ParseName(file); ok && file != "edge_1.efi" {
					t.Errorf("the loader sees %q", names(test.p))
				}
			}
		})
	}
}

// TestCollectKeepsWhatBoots: where a UKI that should be kept is damaged, nothing at all is removed.
func TestCollectKeepsWhatBoots(t *testing.T) {
	one, data := boottest.UKI("edge", "1")
	p := machine("edge_0.efi", "edge_1.efi", "edge_2+0-2.efi")
	data[7] ^= 1
	p.Put("edge_1.efi", data)
	p.Put("edge_3.new", data)
	p.Put("notes.txt", data)
	before := names(p)
	if err := (boot.ESP{Volume: p}).Collect(one); !errors.Is(err, boot.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	wantFiles(t, p, before, "with a damaged UKI")
	data[7] ^= 1
	p.Put("edge_1.efi", data)
	if err := (boot.ESP{Volume: p}).Collect(one); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, p, []string{"edge_1.efi", "notes.txt"}, "once it is whole")
}

// TestDirectory runs the life of a UKI on a real directory.
func TestDirectory(t *testing.T) {
	ctx := context.Background()
	volume, err := boot.OpenVolume(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e := boot.ESP{Volume: volume}
	one, first := boottest.UKI("edge", "1")
	two, second := boottest.UKI("edge", "2")
	for _, step := range []struct {
		do   func() error
		want []string
	}{
		{func() error { return errors.Join(e.Arm(ctx, one, 1, source(first)), e.Commit(ctx, one)) }, []string{"edge_1.efi"}},
		{func() error { return e.Arm(ctx, two, 3, source(second)) }, []string{"edge_1.efi", "edge_2+3-0.efi"}},
		{func() error { return e.Demote(ctx, one) }, []string{"edge_1+0-0.efi", "edge_2+3-0.efi"}},
		{func() error { return e.Commit(ctx, one) }, []string{"edge_1.efi", "edge_2+3-0.efi"}},
		{func() error { return e.MarkBad(two) }, []string{"edge_1.efi", "edge_2+0-1.efi"}},
		{func() error { return e.Collect(one) }, []string{"edge_1.efi"}},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		got, err := volume.Names()
		if slices.Sort(got); err != nil || !slices.Equal(got, step.want) {
			t.Fatalf("%q, %v; want %q", got, err, step.want)
		}
	}
	room, err := e.Room()
	_, free, _ := volume.Space()
	if err != nil || room < free {
		t.Errorf("room %d, %v; %d are free already", room, err, free)
	}
	adopted, err := e.Adopt("EDGE_1")
	if err != nil || adopted != one {
		t.Errorf("adopted %+v, %v; want %+v", adopted, err, one)
	}
}

// TestFullPartition runs a real file system out of space while a UKI is written: what boots stays, what was begun goes, and
// with room again the same works.
func TestFullPartition(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=1M"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	ctx := context.Background()
	volume, err := boot.OpenVolume(mount)
	if err != nil {
		t.Fatal(err)
	}
	e := boot.ESP{Volume: volume}
	one, first := boottest.UKI("edge", "1")
	if err := errors.Join(e.Arm(ctx, one, 1, source(first)), e.Commit(ctx, one)); err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("large"), 100<<10)
	two := boot.UKI{Base: "edge_2", Digest: images.DigestOf(large), Size: int64(len(large))}
	filler := filepath.Join(mount, "filler")
	if err := os.WriteFile(filler, make([]byte, 700<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	err = e.Arm(ctx, two, 2, source(large))
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "cannot arm edge_2") {
		t.Errorf("got %v", err)
	}
	if names, err := volume.Names(); err != nil || !slices.Equal(names, []string{"edge_1.efi"}) || e.Intact(one) != nil {
		t.Errorf("after it there is %v, %v", names, err)
	}
	if err := errors.Join(os.Remove(filler), e.Arm(ctx, two, 2, source(large))); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
