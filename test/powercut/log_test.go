package powercut_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"roost/test/powercut"
)

// record builds a log as blklogwrites does.
type record struct {
	bytes.Buffer
	entries uint64
}

func newRecord() *record {
	r := &record{}
	r.Write(make([]byte, 512))
	return r
}

func (r *record) entry(sector, sectors, flags, length uint64, data []byte) {
	head := make([]byte, 512)
	for i, v := range []uint64{sector, sectors, flags, length} {
		binary.LittleEndian.PutUint64(head[8*i:], v)
	}
	r.Write(head)
	r.Write(data)
	r.entries++
}

func (r *record) finish() []byte {
	b := bytes.Clone(r.Bytes())
	binary.LittleEndian.PutUint64(b[0:], 0x6a736677736872)
	binary.LittleEndian.PutUint64(b[8:], 1)
	binary.LittleEndian.PutUint64(b[16:], r.entries)
	binary.LittleEndian.PutUint32(b[24:], 512)
	return b
}

func sample() []byte {
	r := newRecord()
	r.entry(2, 2, 0, 0, bytes.Repeat([]byte{'a'}, 1024))
	r.entry(0, 0, 1, 0, nil) // flush
	r.entry(3, 1, 2, 0, bytes.Repeat([]byte{'b'}, 512))
	r.entry(0, 0, 8, 5, append([]byte("mark!"), make([]byte, 507)...))
	r.entry(2, 1, 4, 0, nil) // discard
	return r.finish()
}

func TestOpen(t *testing.T) {
	data := sample()
	log, err := powercut.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if len(log.Entries) != 4 || !log.Entries[1].Flush || !log.Entries[2].FUA || !log.Entries[3].Discard {
		t.Fatalf("entries %+v", log.Entries)
	}
	r := &powercut.Rebuilder{Log: log, Base: strings.NewReader(strings.Repeat(".", 4096)), Size: 4096}
	for _, test := range []struct {
		state powercut.State
		want  string // one letter for each sector
	}{
		{powercut.State{Cut: 0}, "........"},
		{powercut.State{Cut: 1}, "..aa...."},
		{powercut.State{Cut: 2}, "..aa...."},
		{powercut.State{Cut: 3}, "..ab...."},
		{powercut.State{Cut: 4}, "..\x00b...."},
		{powercut.State{Cut: 3, Mode: powercut.Torn512, Seed: 1}, "..ab...."}, // FUA: it is there
	} {
		got := make([]byte, 4096)
		if _, err := r.Image(test.state).ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		letters := ""
		for i := 0; i < 4096; i += 512 {
			letters += string(got[i])
		}
		if letters != test.want {
			t.Errorf("%+v: %q, want %q", test.state, letters, test.want)
		}
	}
}

// TestTorn: over many seeds every sector of an unflushed write is seen there and missing, alone.
func TestTorn(t *testing.T) {
	log := newRecord()
	log.entry(0, 16, 0, 0, bytes.Repeat([]byte{'x'}, 16*512))
	data := log.finish()
	l, err := powercut.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	r := &powercut.Rebuilder{Log: l, Base: bytes.NewReader(nil), Size: 16 * 512}
	for mode, block := range map[powercut.Mode]int{powercut.Subset: 16, powercut.Torn4K: 8, powercut.Torn512: 1} {
		seen := map[string]bool{}
		for seed := range uint64(200) {
			got := make([]byte, 16*512)
			if _, err := r.Image(powercut.State{Cut: 1, Mode: mode, Seed: seed}).ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			pattern := ""
			for i := 0; i < 16; i++ {
				pattern += string('0' + rune(got[i*512]/'x'))
			}
			for i := 0; i < 16; i += block {
				if part := pattern[i : i+block]; strings.Trim(part, part[:1]) != "" {
					t.Fatalf("mode %d tore inside a block: %s", mode, pattern)
				}
			}
			seen[pattern] = true
		}
		if want := min(1<<(16/block), 150); len(seen) < want {
			t.Errorf("mode %d: %d patterns, want %d", mode, len(seen), want)
		}
	}
}

func TestStatesCoverEveryFlush(t *testing.T) {
	data := sample()
	log, err := powercut.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	cuts := map[int]bool{}
	n := 0
	for s := range log.States(10) {
		cuts[s.Cut] = true
		n++
	}
	for _, want := range []int{1, 2, 3, 4} {
		if !cuts[want] {
			t.Errorf("no state is cut at %d", want)
		}
	}
	if n < 20 {
		t.Errorf("%d states", n)
	}
}

// TestQEMU records with QEMU's own driver and reads it back.
func TestQEMU(t *testing.T) {
	dir := t.TempDir()
	image, logfile := filepath.Join(dir, "disk"), filepath.Join(dir, "log")
	for _, path := range []string{image, logfile} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 16<<20); err != nil {
			t.Fatal(err)
		}
	}
	options := "driver=blklogwrites,file.driver=file,file.filename=" + image + ",log.driver=file,log.filename=" + logfile
	out, err := exec.Command("qemu-io", "--image-opts", options, "-c", "write -P 65 4k 8k", "-c", "flush", "-c", "write -P 66 8k 4k",
		"-c", "write -z 4k 4k", "-c", "flush").CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	f, err := os.Open(logfile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log, err := powercut.Open(f, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	r := &powercut.Rebuilder{Log: log, Base: bytes.NewReader(nil), Size: 16 << 20}
	flush := 0
	for i, e := range log.Entries {
		if e.Flush && flush == 0 && i > 0 {
			flush = i
		}
	}
	for cut, want := range map[int]string{flush: "AA", len(log.Entries): "\x00B"} {
		got := make([]byte, 8192)
		if _, err := r.Image(powercut.State{Cut: cut}).ReadAt(got, 4096); err != nil {
			t.Fatal(err)
		}
		if string(got[0])+string(got[4096]) != want {
			t.Errorf("cut at %d of %+v: %q, want %q", cut, log.Entries, string(got[0])+string(got[4096]), want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(sample())
	f.Add(newRecord().finish())
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := powercut.Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		r := &powercut.Rebuilder{Log: log, Base: bytes.NewReader(nil), Size: 1 << 20}
		for i, e := range log.Entries {
			if e.Offset < 0 || e.Length < 0 {
				t.Fatalf("entry %d: %+v", i, e)
			}
			if e.Length > 1<<20 {
				return // rebuilding discards of terabytes sector by sector is not what is tested
			}
		}
		if _, err := r.Image(powercut.State{Cut: len(log.Entries)}).ReadAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzReadFAT(f *testing.F) {
	path := filepath.Join(f.TempDir(), "fat")
	if out, err := exec.Command("mkfs.vfat", "-C", "-F", "32", "-s", "1", path, "34000").CombinedOutput(); err != nil {
		f.Fatalf("mkfs.vfat: %v\n%s", err, out)
	}
	volume, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0x2c), []byte{9})
	f.Add(uint16(13), []byte{0})
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		image := bytes.Clone(volume[:1<<20])
		copy(image[at:], patch)
		files, err := powercut.ReadFAT(bytes.NewReader(image), 0, int64(len(image)))
		if err != nil {
			return
		}
		for _, file := range files {
			file.Content()
		}
	})
}
