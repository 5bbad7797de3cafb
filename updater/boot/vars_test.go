package boot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func setVar(t testing.TB, dir, name, guid string, value []byte) {
	t.Helper()
	data := append([]byte{6, 0, 0, 0}, value...)
	if err := os.WriteFile(filepath.Join(dir, name+"-"+guid), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestStarted(t *testing.T) {
	for _, test := range []struct {
		name string
		set  map[string]string
		boot []byte // BootCurrent, BootOrder
		want Started
	}{
		{"no variables", nil, nil, Started{Option: -1}},
		{"good", map[string]string{"LoaderEntrySelected": "edge_1.efi", "LoaderDevicePartUUID": "0AA4-B"}, []byte{3, 0, 3, 0, 1, 0},
			Started{Entry: Name{Base: "edge_1"}, Partition: "0aa4-b"}},
		{"trial", map[string]string{"LoaderEntrySelected": "edge_2+2-0.efi", "LoaderBootCountPath": `\EFI\Linux\edge_2+1-1.efi`}, []byte{3, 0, 3, 0},
			Started{Entry: Name{Base: "edge_2", Counted: true, Left: 1, Done: 1}, Trial: true}},
		{"second option", map[string]string{"LoaderEntrySelected": "edge_1.efi"}, []byte{1, 0, 3, 0, 1, 0}, Started{Entry: Name{Base: "edge_1"}, Option: 1}},
		{"option not in order", nil, []byte{7, 0, 3, 0}, Started{Option: -1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, value := range test.set {
				setVar(t, dir, name, loaderGUID, appendText(nil, value))
			}
			if test.boot != nil {
				setVar(t, dir, "BootCurrent", globalGUID, test.boot[:2])
				setVar(t, dir, "BootOrder", globalGUID, test.boot[2:])
				if test.want.Option < 0 {
					test.want.Option = -1
				}
			}
			got, err := Variables{Dir: dir}.Started()
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func TestStartedRefusesDamage(t *testing.T) {
	for name, data := range map[string][]byte{"LoaderEntrySelected-" + loaderGUID: {6, 0}, "LoaderBootCountPath-" + loaderGUID: {6, 0, 0, 0, 'x'},
		"BootOrder-" + globalGUID: {6, 0, 0, 0, 1}} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err := (Variables{Dir: dir}).Started(); err == nil {
			t.Errorf("%s of % x read as %+v", name, data, s)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add(appendText(nil, `\EFI\Linux\edge_2+1-1.efi`))
	f.Add([]byte{0x00, 0xd8, 0x41, 0x00})
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := parseText(data)
		if err != nil {
			return
		}
		again, err := parseText(appendText(nil, text))
		if err != nil || again != text {
			t.Errorf("% x reads as %q, written and read %q, %v", data, text, again, err)
		}
		_, _ = parseDescription(data)
	})
}

// TestEncodeOption compares with an option as OVMF stores it, field by field from the specification.
func TestEncodeOption(t *testing.T) {
	got, err := Option{Description: "R", Number: 1, Start: 2048, Size: 1048576,
		Partition: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", Path: `\a`}.encode()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := hex.DecodeString("01000000" + "3800" + "52000000" + // active, length of the path, "R"
		"04012a00" + "01000000" + "0008000000000000" + "0000100000000000" + "28732ac11ff8d211ba4b00a0c93ec93b" + "0202" +
		"04040a00" + "5c0061000000" + "7fff0400")
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%x, want\n%x", got, want)
	}
}

func TestSetFirst(t *testing.T) {
	dir := t.TempDir()
	v := Variables{Dir: dir}
	foreign, _ := Option{Description: "UEFI PXE", Partition: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"}.encode()
	setVar(t, dir, "Boot0000", globalGUID, foreign)
	setVar(t, dir, "BootOrder", globalGUID, []byte{0, 0})
	options := BootOptions(Option{Number: 1, Start: 2048, Size: 1 << 20, Partition: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"})
	for range 2 { // installing again takes the same numbers
		if err := v.SetFirst(options); err != nil {
			t.Fatal(err)
		}
		order, err := v.numbers("BootOrder")
		if err != nil || !slices.Equal(order, []uint16{1, 2, 3, 0}) {
			t.Fatalf("order %v, %v", order, err)
		}
	}
	second, err := v.read("Boot0002", globalGUID)
	if err != nil {
		t.Fatal(err)
	}
	if description, _ := parseDescription(second); description != "Roost second try" {
		t.Errorf("Boot0002 is %q", description)
	}
	if length := binary.LittleEndian.Uint16(second[4:]); int(length)+6+2*len("Roost second try")+2 != len(second) {
		t.Errorf("path of %d bytes in an option of %d", length, len(second))
	}
}
