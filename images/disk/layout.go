package disk

import (
	"crypto/sha256"
	"fmt"
)

// Names of the partitions of a Roost disk, in their order.
const (
	ESPA    = "esp-a"
	ESPB    = "esp-b"
	RootA   = "root-a"
	VerityA = "verity-a"
	RootB   = "root-b"
	VerityB = "verity-b"
	State   = "state"
)

// Sizes of the shipped recipes, in bytes.
const (
	DefaultESP    int64 = 512 << 20
	DefaultSlot   int64 = 8 << 30
	DefaultVerity int64 = 96 << 20
)

// FreshMark stands at the start of a state partition that was never formatted. Only where it stands does the first boot
// make a file system.
const FreshMark = "roost-fresh-v1\n"

const (
	align    = 1 << 20 // partitions start at whole MiB
	minState = 64 << 20
)

// Types returns the type GUID of each partition of a Roost disk on x86-64 (UEFI 2.10 table 5.7, UAPI.2; state is the
// type "variable data").
func Types() map[string]GUID {
	esp := mustGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	root := mustGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
	verity := mustGUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
	return map[string]GUID{
		ESPA: esp, ESPB: esp, RootA: root, RootB: root, VerityA: verity, VerityB: verity,
		State: mustGUID("4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
	}
}

func mustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err) // a constant of this file is wrong
	}
	return g
}

// Layout gives the sizes of a Roost disk in bytes; zero means the default. They are multiples of 1 MiB.
type Layout struct {
	ESP    int64 // each of the two EFI system partitions
	Slot   int64 // each root partition
	Verity int64 // each verity partition
}

func (l Layout) withDefaults() Layout {
	if l.ESP == 0 {
		l.ESP = DefaultESP
	}
	if l.Slot == 0 {
		l.Slot = DefaultSlot
	}
	if l.Verity == 0 {
		l.Verity = DefaultVerity
	}
	return l
}

// MinSize returns the bytes of the smallest disk that takes the layout.
func (l Layout) MinSize() int64 {
	l = l.withDefaults()
	return 2*align + 2*(l.ESP+l.Slot+l.Verity) + minState
}

// Table lays a disk of size bytes with the given sector size (512 or 4096) out; state takes what the others leave. The
// GUIDs of the disk and its partitions are derived from seed: the same seed gives the same disk image, and an installer
// passes random bytes. Slots get their real GUIDs by SetUUIDs once their content is proven.
func (l Layout) Table(size int64, sector int, seed []byte) (*Table, error) {
	l = l.withDefaults()
	for _, n := range []int64{l.ESP, l.Slot, l.Verity} {
		if n < 0 || n%align != 0 {
			return nil, fmt.Errorf("cannot lay out disk: %d bytes is not a multiple of 1 MiB", n)
		}
	}
	if size < l.MinSize() {
		return nil, fmt.Errorf("cannot lay out disk: it has %d bytes, the layout needs %d", size, l.MinSize())
	}
	types := Types()
	t := &Table{Disk: deriveGUID(seed, "disk"), SectorSize: sector}
	offset := int64(align)
	add := func(name string, n int64) {
		t.Partitions = append(t.Partitions, Partition{
			Number: len(t.Partitions) + 1, Name: name, Type: types[name], UUID: deriveGUID(seed, name), Offset: offset, Size: n,
		})
		offset += n
	}
	add(ESPA, l.ESP)
	add(ESPB, l.ESP)
	add(RootA, l.Slot)
	add(VerityA, l.Verity)
	add(RootB, l.Slot)
	add(VerityB, l.Verity)
	add(State, (size-align)/align*align-offset) // the last MiB holds the backup table
	return t, nil
}

// StateTail is how many bytes at the end of the state partition its file system leaves free, for a LUKS2 header.
const StateTail = 32 << 20

// ExtendState makes the state partition, where it is the last of the disk, as long as a disk of size bytes allows, and
// reports whether the table changed. It never makes it shorter.
func (t *Table) ExtendState(size int64) bool {
	state := -1
	for i, p := range t.Partitions {
		if p.Name == State {
			state = i
		}
	}
	for _, p := range t.Partitions {
		if state < 0 || p.Offset > t.Partitions[state].Offset {
			return false
		}
	}
	if state < 0 {
		return false
	}
	want := (size-align)/align*align - t.Partitions[state].Offset
	if want <= t.Partitions[state].Size {
		return false
	}
	t.Partitions[state].Size = want
	return true
}

// deriveGUID returns a GUID (version 8, RFC 9562) that depends on seed and purpose only.
func deriveGUID(seed []byte, purpose string) GUID {
	h := sha256.New()
	fmt.Fprintf(h, "roost disk %d ", len(seed))
	h.Write(seed)
	h.Write([]byte(purpose))
	b := [16]byte(h.Sum(nil))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return swap(b)
}
