package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"roost/images/disk"
)

// memory is a sparse disk in memory that remembers its writes, cut into sectors, with the flushes between them.
type memory struct {
	sectors map[int64][512]byte
	writes  []write
}

type write struct {
	sector int64
	data   [512]byte
	flush  bool
}

func blank() *memory { return &memory{sectors: map[int64][512]byte{}} }

func (m *memory) clone() *memory { return &memory{sectors: maps.Clone(m.sectors)} }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off%512 != 0 || len(p)%512 != 0 {
		return 0, errors.New("not whole sectors")
	}
	for i := 0; i < len(p); i += 512 {
		sector := m.sectors[(off+int64(i))/512]
		copy(p[i:], sector[:])
	}
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off%512 != 0 || len(p)%512 != 0 {
		return 0, errors.New("not whole sectors")
	}
	for i := 0; i < len(p); i += 512 {
		w := write{sector: (off + int64(i)) / 512, data: [512]byte(p[i:])}
		m.sectors[w.sector] = w.data
		m.writes = append(m.writes, w)
	}
	return len(p), nil
}

func (m *memory) Sync() error {
	m.writes = append(m.writes, write{flush: true})
	return nil
}

// flip changes one byte of the disk.
func (m *memory) flip(offset int64) {
	s := m.sectors[offset/512]
	s[offset%512] ^= 1
	m.sectors[offset/512] = s
}

const testSize = 64 << 20

func testTable(t *testing.T, size int64, sector int) *disk.Table {
	t.Helper()
	layout := disk.Layout{ESP: 2 << 20, Slot: 3 << 20, Verity: 1 << 20}
	if size < layout.MinSize() {
		size = layout.MinSize()
	}
	table, err := layout.Table(size, sector, []byte("seed"))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestWriteThenRead(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		size := disk.Layout{ESP: 2 << 20, Slot: 3 << 20, Verity: 1 << 20}.MinSize()
		want := testTable(t, size, sector)
		m := blank()
		if err := want.Write(m, size); err != nil {
			t.Fatal(err)
		}
		got, err := disk.Read(m, size)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("sector %d: read\n%+v\nwant\n%+v", sector, got, want)
		}
		delete(m.sectors, int64(sector/512)) // the primary header is gone
		got, err = disk.Read(m, size)
		if err != nil {
			t.Fatal(err)
		}
		if want.FromBackup = true; !reflect.DeepEqual(got, want) {
			t.Errorf("sector %d: read from backup\n%+v\nwant\n%+v", sector, got, want)
		}
	}
}

func TestBlankAndBroken(t *testing.T) {
	if _, err := disk.Read(blank(), testSize); !errors.Is(err, disk.ErrNoTable) {
		t.Errorf("blank disk: %v, want ErrNoTable", err)
	}
	m := blank()
	if err := testTable(t, testSize, 512).Write(m, testSize); err == nil {
		t.Error("a table that does not fit the disk was written")
	}
	size := int64(128 << 20)
	m = blank()
	if err := testTable(t, size, 512).Write(m, size); err != nil {
		t.Fatal(err)
	}
	m.flip(1024 + 5) // primary entries
	m.flip(size - 7) // after the backup header: not covered, harmless
	if got, err := disk.Read(m, size); err != nil || !got.FromBackup {
		t.Errorf("damaged primary: %v, want the backup", err)
	}
	m.flip(size - 512 + 30)
	if _, err := disk.Read(m, size); err == nil || errors.Is(err, disk.ErrNoTable) {
		t.Errorf("both copies damaged: %v, want an error that is not ErrNoTable", err)
	}
}

// TestOverlapRefused: checksums are no defence against a table that is wrong on purpose.
func TestOverlapRefused(t *testing.T) {
	size := int64(128 << 20)
	table := testTable(t, size, 512)
	table.Partitions[3].Offset = table.Partitions[2].Offset
	if err := table.Write(blank(), size); err == nil || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("overlapping table: %v, want a refusal", err)
	}
}

// TestCrash edits GUIDs and cuts the power everywhere: every set of completed sector writes that the flushes allow must
// read as the old or the new table, and doing the edit again from there must end in the new one.
func TestCrash(t *testing.T) {
	size := int64(128 << 20)
	m := blank()
	before := testTable(t, size, 512)
	if err := before.Write(m, size); err != nil {
		t.Fatal(err)
	}
	durable := m.clone()
	m.writes = nil
	root, verity, err := disk.SlotGUIDs(strings.Repeat("0123456789abcdef", 4))
	if err != nil {
		t.Fatal(err)
	}
	edit := map[string]disk.GUID{disk.RootB: root, disk.VerityB: verity}
	if err := disk.SetUUIDs(m, size, edit); err != nil {
		t.Fatal(err)
	}
	after, err := disk.Read(m, size)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := after.FindUUID(root); !ok || p.Name != disk.RootB {
		t.Fatalf("root GUID is on %+v", p)
	}

	var epochs [][]write
	epoch := []write{}
	for _, w := range m.writes {
		if w.flush {
			epochs, epoch = append(epochs, epoch), nil
			continue
		}
		epoch = append(epoch, w)
	}
	if len(epoch) > 0 {
		t.Fatal("writes after the last flush")
	}
	random := rand.New(rand.NewPCG(1, 2))
	states, olds, news := 0, 0, 0
	for _, epoch := range epochs {
		for trial := range len(epoch) + 400 {
			crashed := durable.clone()
			for i, w := range epoch {
				// the first trials are prefixes, the rest any subset, since a disk may reorder between flushes
				if trial < len(epoch) && i <= trial || trial >= len(epoch) && random.IntN(2) == 0 {
					crashed.sectors[w.sector] = w.data
				}
			}
			got, err := disk.Read(crashed, size)
			if err != nil {
				t.Fatalf("crashed disk unreadable: %v", err)
			}
			got.FromBackup = false
			switch {
			case reflect.DeepEqual(got, before):
				olds++
			case reflect.DeepEqual(got, after):
				news++
			default:
				t.Fatalf("crashed disk reads as a third table: %+v", got)
			}
			if trial%40 == 0 {
				if err := disk.SetUUIDs(crashed, size, edit); err != nil {
					t.Fatal(err)
				}
				if !maps.Equal(crashed.sectors, m.sectors) {
					t.Fatal("repeating the edit after a crash gives another disk")
				}
			}
			states++
		}
		for _, w := range epoch {
			durable.sectors[w.sector] = w.data
		}
	}
	if olds == 0 || news == 0 {
		t.Errorf("%d states: %d old, %d new; the test did not reach both", states, olds, news)
	}
}

func TestSetUUIDsUnknownName(t *testing.T) {
	size := int64(128 << 20)
	m := blank()
	if err := testTable(t, size, 512).Write(m, size); err != nil {
		t.Fatal(err)
	}
	if err := disk.SetUUIDs(m, size, map[string]disk.GUID{"root-c": {1}}); err == nil {
		t.Error("a name that is not in the table was accepted")
	}
}

// TestSgdisk lets the field's own checker judge the table, and reads what it made.
func TestSgdisk(t *testing.T) {
	size := int64(256 << 20)
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	table := testTable(t, size, 512)
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v: %s", out)
	}
	out := run(t, "sgdisk", "-i", "3", path)
	for _, want := range []string{"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", strings.ToUpper(table.Partitions[2].UUID.String()), "'root-a'"} {
		if !strings.Contains(out, want) {
			t.Errorf("sgdisk -i 3 lacks %s:\n%s", want, out)
		}
	}
	run(t, "sgdisk", "-u", "7:01234567-89ab-cdef-0123-456789abcdef", path)
	got, err := disk.Read(f, size)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := got.Find(disk.State); p.UUID.String() != "01234567-89ab-cdef-0123-456789abcdef" {
		t.Errorf("state has GUID %s after sgdisk -u", p.UUID)
	}
}

func TestGUID(t *testing.T) {
	const text = "00112233-4455-6677-8899-aabbccddeeff"
	g, err := disk.ParseGUID(strings.ToUpper(text))
	if err != nil {
		t.Fatal(err)
	}
	if want := (disk.GUID{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}); g != want {
		t.Errorf("stored as %x, want %x", g[:], want[:])
	}
	if g.String() != text {
		t.Errorf("printed as %s", g)
	}
	for _, bad := range []string{"", text[1:], text + "0", strings.ReplaceAll(text, "-", ""), "0011223344-55-6677-8899-aabbccddeeff", strings.Replace(text, "0", "g", 1)} {
		if _, err := disk.ParseGUID(bad); err == nil {
			t.Errorf("ParseGUID accepted %q", bad)
		}
	}
	root, verity, err := disk.SlotGUIDs("00112233445566778899aabbccddeeff" + strings.Repeat("ab", 16))
	if err != nil || root != g || verity.String() != "abababab-abab-abab-abab-abababababab" {
		t.Errorf("SlotGUIDs gave %s %s %v", root, verity, err)
	}
}

func FuzzRead(f *testing.F) {
	const size = 64 << 10
	m := blank()
	table := &disk.Table{Disk: disk.GUID{1}, SectorSize: 512, Partitions: []disk.Partition{
		{Number: 1, Name: "esp-a", Type: disk.Types()[disk.ESPA], UUID: disk.GUID{2}, Offset: 34 * 512, Size: 10 * 512},
		{Number: 3, Name: "state", Type: disk.Types()[disk.State], UUID: disk.GUID{3}, Offset: 44 * 512, Size: 50 * 512},
	}}
	if err := table.Write(m, size); err != nil {
		f.Fatal(err)
	}
	head := make([]byte, 2048)
	if _, err := m.ReadAt(head, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(head, uint16(0))
	f.Add(make([]byte, 600), uint16(7))
	f.Fuzz(func(t *testing.T, head []byte, tail uint16) {
		// The fuzzer cannot guess checksums; put right ones in so that it reaches the entries.
		image := make([]byte, size+int(tail)%4096)
		copy(image, head[:min(len(head), len(image))])
		if n := int(binary.LittleEndian.Uint32(image[512+80:])); n > 0 && n <= 1024 {
			at := int(binary.LittleEndian.Uint64(image[512+72:])&0xfff) * 512
			if at+n*128 <= len(image) {
				binary.LittleEndian.PutUint32(image[512+88:], crc32.ChecksumIEEE(image[at:at+n*128]))
			}
		}
		if n := int(binary.LittleEndian.Uint32(image[512+12:])); n >= 92 && n <= 512 {
			clear(image[512+16 : 512+20])
			binary.LittleEndian.PutUint32(image[512+16:], crc32.ChecksumIEEE(image[512:512+n]))
		}
		got, err := disk.Read(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		for i, p := range got.Partitions {
			if p.Offset < 0 || p.Size <= 0 || p.Offset+p.Size > int64(len(image)) {
				t.Errorf("partition outside the disk: %+v", p)
			}
			for _, q := range got.Partitions[:i] {
				if p.Offset < q.Offset+q.Size && q.Offset < p.Offset+p.Size {
					t.Errorf("overlap: %+v %+v", p, q)
				}
			}
		}
	})
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
