package ceph

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// newLabel writes a label as BlueStore does.
func newLabel(uuid string, meta map[string]string) []byte {
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil {
		panic(err)
	}
	text := func(b []byte, s string) []byte {
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	body := binary.LittleEndian.AppendUint64(raw, 10<<30)
	body = text(append(body, make([]byte, 8)...), "main")
	body = binary.LittleEndian.AppendUint32(body, uint32(len(meta)))
	for _, key := range sorted(meta) {
		body = text(text(body, key), meta[key])
	}
	b := append([]byte("bluestore block device\n"+uuid+"\n"), 2, 1)
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(body))), body...)
}

func finished(uuid, fsid, id string) []byte {
	return newLabel(uuid, map[string]string{"ceph_fsid": fsid, "whoami": id, "mkfs_done": "yes", "ready": "ready"})
}

// TestLabel reads the label of a disk on which ceph-osd 18.2.7 made an OSD.
func TestLabel(t *testing.T) {
	b, err := os.ReadFile("testdata/label")
	if err != nil {
		t.Fatal(err)
	}
	l, err := parseLabel(b)
	if err != nil || l == nil {
		t.Fatalf("got %v, %v", l, err)
	}
	if !l.finished() || l.size != 10<<30 || l.meta["whoami"] != "0" || l.meta["ceph_fsid"] != "cd20f73d-331b-4689-8028-73ffd4d20461" {
		t.Errorf("got %+v", l)
	}
	if want := string(b[23:59]); l.uuid != want {
		t.Errorf("got OSD %s, want %s", l.uuid, want)
	}
	for n := range 0x245 {
		l, err := parseLabel(b[:n])
		if n >= 23 && err == nil || n < 23 && (l != nil || err != nil) {
			t.Fatalf("cut to %d bytes: got %v, %v", n, l, err)
		}
	}
}

func FuzzLabel(f *testing.F) {
	b, err := os.ReadFile("testdata/label")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(newLabel("00000000-0000-0000-0000-000000000000", nil))
	f.Add([]byte("LUKS\xba\xbe\x00\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLabel(b)
		if l != nil && (err != nil || len(l.uuid) != 36 || !bytes.HasPrefix(b, []byte("bluestore"))) {
			t.Errorf("got %+v, %v", l, err)
		}
		if uuid := luksUUID(b); len(uuid) > 40 {
			t.Errorf("LUKS %q", uuid)
		}
	})
}

// TestLook names what disks hold.
func TestLook(t *testing.T) {
	const uuid = "01234567-89ab-cdef-0123-456789abcdef"
	luks := append([]byte("LUKS\xba\xbe\x00\x02"), make([]byte, 160)...)
	luks = append(append(luks, uuid...), 0, 0, 0, 0)
	for name, test := range map[string]struct {
		head, tail []byte
		size       int
		want       string
		names      []string
		err        error
	}{
		"blank":                 {size: 10 << 20, want: "nothing"},
		"small and blank":       {size: 1 << 20, want: "nothing"},
		"an OSD":                {head: finished(uuid, "f", "7"), size: 10 << 20, want: "OSD 7 of the Ceph cluster f"},
		"a begun OSD":           {head: newLabel(uuid, nil), size: 10 << 20, want: "an unfinished OSD"},
		"a label that says 999": {head: append(newLabel(uuid, nil)[:62], 0xff, 0xff, 0xff, 0x7f), size: 10 << 20, want: "a damaged BlueStore label"},
		"encrypted":             {head: luks, size: 10 << 20, want: "LUKS"},
		"known to others":       {head: []byte("XFSB"), size: 10 << 20, names: []string{"XFS", "swap"}, want: "XFS; swap"},
		"something at the end":  {tail: []byte{1}, size: 10 << 20, want: "data of an unknown kind"},
		"something at 3 MiB":    {head: append(make([]byte, 3<<20), 1), size: 10 << 20, want: "data of an unknown kind"},
		"unreadable":            {size: 10 << 20, err: errors.New("medium error")},
	} {
		content := make([]byte, test.size)
		copy(content, test.head)
		copy(content[test.size-len(test.tail):], test.tail)
		got, err := look(bytes.NewReader(content), int64(test.size), func(io.ReaderAt, int64) ([]string, error) { return test.names, test.err })
		if !errors.Is(err, test.err) || err == nil && got.String() != test.want {
			t.Errorf("%s: got %s, %v", name, &got, err)
		}
		if name == "encrypted" && got.luks != uuid {
			t.Errorf("got %q", got.luks)
		}
	}
}
