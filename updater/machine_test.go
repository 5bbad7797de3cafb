package updater_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"roost/images"
	"roost/images/durable"
	"roost/images/durable/durabletest"
	"roost/images/imagestest"
	"roost/updater"
	"roost/updater/boot"
	"roost/updater/boot/boottest"
	"roost/updater/kept"
	"roost/updater/kept/kepttest"
	"roost/updater/slot"
)

// behaviour is what a version does when it is started.
type behaviour struct {
	outcome boot.Outcome
	failing []string // gates that do not hold
}

func (b behaviour) works() bool { return b.outcome == boot.Up && len(b.failing) == 0 }

// machine is a pretended computer: journal, slots, EFI system partition and firmware, which lose power together.
type machine struct {
	disk       *durabletest.Disk
	esp        *boottest.Partition
	slots      *slots
	tree       *kepttest.Tree // the state of a component
	behaviours map[string]behaviour
	documents  map[string]images.Release
	missing    []string // references whose signature is wrong

	boots     int
	spoilt    string // what a version found in the component's state that it cannot work with
	file      string // that the loader started
	version   string // that runs; empty when the machine is off or stuck
	rebooting bool
	uptime    time.Duration
	updater   *updater.Updater
}

const gateSeconds = 5

// newMachine returns a machine that runs version 1 of edge in slot a.
func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{disk: durabletest.New(), esp: &boottest.Partition{}, behaviours: map[string]behaviour{}}
	m.documents = maps.Clone(documents())
	one := m.documents["1"]
	m.slots = &slots{machine: m, held: [2]string{one.RootHash, "random"}, holds: [2]string{one.RootHash, ""}}
	m.tree = kepttest.New(m.disk, map[string]string{database: "1"})
	_, data := boottest.UKI("edge", "1")
	m.esp.Put("edge_1.efi", data)
	dir, err := m.disk.Dir("state")
	if err != nil {
		t.Fatal(err)
	}
	installed := slot.Installed{Manifest: manifest("1"), Name: "edge", Version: "1", RootHash: one.RootHash, UKI: one.UKI, File: "edge_1"}
	if err := (slot.Records{Dir: dir}).Put(installed, func(slot.Installed) bool { return true }); err != nil {
		t.Fatal(err)
	}
	m.wire()
	return m
}

// documents are the releases that every machine can get, by reference.
var documents = sync.OnceValue(func() map[string]images.Release {
	documents := map[string]images.Release{}
	for _, version := range []string{"0.9", "1", "1.1", "2", "3"} {
		r := imagestest.Release("edge", images.Version(version))
		uki, _ := boottest.UKI("edge", version)
		r.UKI = images.Part{Digest: uki.Digest, Size: uki.Size}
		r.Update = images.Update{Tries: 2, GateSeconds: gateSeconds}
		documents[version] = *r
	}
	kernel := documents["1.1"]
	kernel.RootHash = documents["1"].RootHash
	documents["1.1"] = kernel
	return documents
})

func manifest(version string) images.Digest { return images.DigestOf([]byte("manifest of " + version)) }

// wire connects the parts' power.
func (m *machine) wire() {
	m.esp.Tick = m.disk.Tick
	m.slots.machine = m
}

// restart is the power coming back: what survived is up to seed. Names that share clusters are told apart, as at mount.
func (m *machine) restart(seed uint64) {
	m.disk = m.disk.Restart(seed)
	m.tree = m.tree.Restart(m.disk, seed)
	m.esp = m.esp.Restart(seed)
	m.esp.Backward = seed%2 == 1
	m.wire()
}

// on powers the machine on and starts the daemon. It reports false when nothing comes up.
func (m *machine) on(t testing.TB, seed uint64) bool {
	t.Helper()
	file, version, ok := m.esp.PowerOn(3, 20, func(version string) boot.Outcome {
		if !slices.Contains(m.slots.bootable(), m.documents[version].RootHash) {
			return boot.Reset // the initrd finds no root
		}
		return m.behaviours[version].outcome
	})
	m.file, m.version, m.rebooting, m.uptime = file, version, false, 0
	m.boots++
	if !ok {
		return false
	}
	m.esp.Check(seed%2 == 1)
	dir, err := m.disk.Dir("state")
	if errors.Is(err, durabletest.ErrPowerCut) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	store, ok := m.component(t, dir)
	if !ok {
		return true
	}
	m.updater = &updater.Updater{Journal: dir, Kept: store, Fetcher: m, Slots: m.slots, Boot: m.esp, Gates: m, Host: m,
		Log: slog.New(slog.DiscardHandler), Pause: 1, Now: func() time.Time { return time.Unix(1_800_000_000, 0) }}
	if err := m.updater.Start(context.Background()); err != nil && !errors.Is(err, durabletest.ErrPowerCut) {
		t.Fatal(err)
	}
	return true
}

// database is where the machine's component keeps its state. Its versions 2 and 3 bring the state to a format of their own
// when they start, which no version before can read.
const database = "/var/lib/database"

// component is what happens before the daemon starts: the state is kept or put back, and the component starts. It reports
// false on a power cut.
func (m *machine) component(t testing.TB, dir *durable.Dir) (*kept.Store, bool) {
	t.Helper()
	store := &kept.Store{Journal: dir, Tree: m.tree, Area: "/var/lib/roost/kept", Declared: []images.StateDir{{Path: database, Rollback: "restore"}},
		Now: func() time.Time { return time.Unix(1_800_000_000, 0) }, Log: slog.New(slog.DiscardHandler)}
	_, err := store.Boot(m.documents[m.version].RootHash)
	if err == nil {
		format := map[string]string{"2": "2", "3": "3"}[m.version]
		if format == "" {
			format = "1"
		}
		if found := m.tree.Dirs[database]; found != "1" && found != format && format != "3" || found == kepttest.Torn {
			m.spoilt = fmt.Sprintf("%s finds format %q", m.version, found)
		}
		err = m.tree.Write(database, format)
	}
	if err != nil && !errors.Is(err, durabletest.ErrPowerCut) {
		t.Fatal(err)
	}
	return store, err == nil
}

// work lets the daemon work, through reboots, until there is nothing to do. It returns false on a power cut.
func (m *machine) work(t testing.TB) bool {
	t.Helper()
	for range 200 {
		more, err := m.updater.Advance(context.Background())
		switch {
		case m.disk.Tick() != nil:
			return false
		case err != nil:
			t.Fatalf("%v in\n%s", err, m.describe())
		case m.rebooting:
			if !m.on(t, 0) {
				t.Fatalf("nothing comes up:\n%s", m.describe())
			}
		case !more:
			return true
		}
	}
	t.Fatalf("no end:\n%s", m.describe())
	return false
}

func (m *machine) describe() string {
	s := m.updater.Status()
	text := fmt.Sprintf("boot %d runs %s by %s; phase %s", m.boots, m.version, m.file, s.Phase)
	if s.Target != nil {
		text += fmt.Sprintf(", target %s", s.Target.Version)
	}
	if s.Slot != "" {
		text += fmt.Sprintf(" in slot %s", s.Slot)
	}
	if s.Reason != "" {
		text += "\nreason: " + s.Reason
	}
	if l := s.Left; l != nil {
		text += fmt.Sprintf("\nleft: %s, %s, tries %d", l.Cause, l.Detail, l.Tries)
		for _, g := range l.Gates {
			text += fmt.Sprintf("\n  gate %s: %s", g.Name, g.Output)
		}
		for _, line := range append(slices.Clone(l.Log), l.Pstore...) {
			text += "\n  " + line
		}
	}
	for _, r := range s.Refused {
		text += fmt.Sprintf("\nrefused: %s, %s", r.Version, r.Cause)
	}
	if s.Floor != "" {
		text += fmt.Sprintf("\nfloor: %s", s.Floor)
	}
	text += fmt.Sprintf("\nslots:%s", m.slots.describe())
	text += fmt.Sprintf("\nesp: %v", slices.Sorted(maps.Keys(m.esp.Files())))
	return text + "\n"
}

// Open is the machine's Fetcher.
func (m *machine) Open(_ context.Context, reference string) (*updater.Source, error) {
	r, ok := m.documents[reference]
	if !ok {
		return nil, errors.New("no such release")
	}
	if slices.Contains(m.missing, reference) {
		return nil, errors.New("no signature by a trusted key")
	}
	_, uki := boottest.UKI("edge", string(r.Version))
	return &updater.Source{Manifest: manifest(reference), Release: r, Open: func(_ context.Context, kind images.Kind) (io.ReadCloser, error) {
		if kind != images.KindUKI {
			return nil, errors.New("the fake slots read nothing")
		}
		return io.NopCloser(bytes.NewReader(uki)), nil
	}}, nil
}

// Check is the machine's Gates.
func (m *machine) Check(_ context.Context, gates []images.Gate) []updater.Result {
	var results []updater.Result
	for _, gate := range gates {
		held := !slices.Contains(m.behaviours[m.version].failing, gate.Name)
		output := ""
		if !held {
			output = gate.Name + " is broken"
		}
		results = append(results, updater.Result{Name: gate.Name, Held: held, Output: output})
	}
	m.uptime += time.Second
	return results
}

func (m *machine) Facts(context.Context) (updater.Facts, error) {
	name, _ := boot.ParseName(m.file)
	option := 0
	if m.behaviours["2"].outcome == boot.Refused && m.version != "2" {
		option = 2
	}
	return updater.Facts{Boot: fmt.Sprintf("boot-%d", m.boots), Uptime: m.uptime, Architecture: "amd64",
		RootHash: m.documents[m.version].RootHash, Started: boot.Started{Entry: name, Trial: name.Counted, Option: option}}, nil
}

func (m *machine) Evidence(_ context.Context, id string) (updater.Found, error) {
	found := updater.Found{Log: []string{"last words of " + id}}
	if m.behaviours["2"].outcome == boot.Reset {
		found.Pstore = []string{"Kernel panic - not syncing"}
	}
	return found, nil
}

func (m *machine) Reboot(context.Context) error {
	m.rebooting = true
	return nil
}

// slots is the machine's Slots: what the partition table says, and what is really there.
type slots struct {
	machine *machine
	held    [2]string // root hashes by GUID
	holds   [2]string // root hashes of the bytes
	broken  error     // of the next write
	written int
}

func (s *slots) bootable() []string {
	var hashes []string
	for i := range s.held {
		if s.held[i] == s.holds[i] {
			hashes = append(hashes, s.held[i])
		}
	}
	return hashes
}

func (s *slots) describe() string {
	text := ""
	for i, id := range []string{"a", "b"} {
		version := "-"
		for _, v := range slices.Backward(slices.Sorted(maps.Keys(s.machine.documents))) {
			if s.machine.documents[v].RootHash == s.held[i] && s.held[i] == s.holds[i] {
				version = v
			}
		}
		text += fmt.Sprintf(" %s=%s", id, version)
	}
	return text
}

func at(id slot.ID) int { return map[slot.ID]int{slot.A: 0, slot.B: 1}[id] }

func (s *slots) Slots() ([]slot.Slot, error) {
	return []slot.Slot{{ID: slot.A, RootHash: s.held[0], Root: 1 << 20, Verity: 1 << 20},
		{ID: slot.B, RootHash: s.held[1], Root: 1 << 20, Verity: 1 << 20}}, nil
}

func (s *slots) Write(_ context.Context, id slot.ID, c slot.Content) error {
	if s.machine.documents[s.machine.version].RootHash == s.holds[at(id)] {
		panic("the running slot is written")
	}
	for _, step := range []func(){
		func() { s.held[at(id)] = "random" },
		func() { s.holds[at(id)] = "torn" },
		func() { s.holds[at(id)] = c.RootHash },
	} {
		if err := s.machine.disk.Tick(); err != nil {
			return err
		}
		if s.broken != nil {
			return s.broken
		}
		step()
	}
	s.written++
	return nil
}

func (s *slots) Check(_ context.Context, id slot.ID, hash string) error {
	if s.holds[at(id)] != hash {
		return errors.New("verity block 3 is corrupt")
	}
	return nil
}

func (s *slots) Seal(ctx context.Context, id slot.ID, hash string) error {
	if err := s.Check(ctx, id, hash); err != nil {
		return err
	}
	if err := s.machine.disk.Tick(); err != nil {
		return err
	}
	s.held[at(id)] = hash
	return nil
}
