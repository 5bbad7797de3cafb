package uki_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"roost/images/uki"
)

const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

var root = strings.Repeat("0123456789abcdef", 4)

func parts(t testing.TB) uki.Parts {
	t.Helper()
	stub, err := os.ReadFile(stubPath)
	if err != nil {
		t.Fatal(err)
	}
	kernel, initrd := make([]byte, 100_003), make([]byte, 777)
	rand.NewChaCha8([32]byte{1}).Read(kernel)
	rand.NewChaCha8([32]byte{2}).Read(initrd)
	return uki.Parts{
		Stub: stub, OSRelease: "ID=roost\nIMAGE_VERSION=1\n", CommandLine: "roothash=" + root + " panic=10",
		Uname: "6.12.1-amd64", SBAT: "roost,1,Roost,edge,1,https://example.org\n", Kernel: kernel, Initrd: initrd,
	}
}

func assemble(t testing.TB, p uki.Parts) []byte {
	t.Helper()
	b, err := uki.Assemble(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAssemble reads the result with the standard library's PE parser, which knows nothing of ours.
func TestAssemble(t *testing.T) {
	p := parts(t)
	b := assemble(t, p)
	if !bytes.Equal(b, assemble(t, p)) {
		t.Error("equal parts give different bytes")
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	stub, err := pe.NewFile(bytes.NewReader(p.Stub))
	if err != nil {
		t.Fatal(err)
	}
	optional := f.OptionalHeader.(*pe.OptionalHeader64)
	if optional.AddressOfEntryPoint != stub.OptionalHeader.(*pe.OptionalHeader64).AddressOfEntryPoint {
		t.Error("entry point moved")
	}
	want := map[string]string{".osrel": p.OSRelease, ".cmdline": p.CommandLine, ".initrd": string(p.Initrd), ".uname": p.Uname, ".linux": string(p.Kernel)}
	var names []string
	memory, file := uint32(0), uint32(0)
	for _, s := range f.Sections {
		if s.VirtualAddress < memory || s.Offset < file {
			t.Errorf("section %s overlaps the one before", s.Name)
		}
		memory, file = s.VirtualAddress+s.VirtualSize, s.Offset+s.Size
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if w, ok := want[s.Name]; ok && (string(data[:s.VirtualSize]) != w || s.VirtualAddress%4096 != 0) {
			t.Errorf("section %s has other content than was put in, or is at %#x", s.Name, s.VirtualAddress)
		}
		if s.Name == ".sbat" {
			text := string(data[:s.VirtualSize])
			if !strings.HasPrefix(text, "sbat,1,") || !strings.Contains(text, "\nsystemd,1,") && !strings.Contains(text, "\nsystemd-stub,1,") || !strings.HasSuffix(text, p.SBAT) {
				t.Errorf("SBAT is %q", text)
			}
		}
		if original := stub.Section(s.Name); original != nil && s.Name != ".sbat" {
			was, _ := original.Data()
			if !bytes.Equal(was, data) || original.VirtualAddress != s.VirtualAddress || original.Characteristics != s.Characteristics {
				t.Errorf("section %s of the stub changed", s.Name)
			}
		}
		if strings.Contains(" .osrel .cmdline .initrd .uname .sbat .linux ", " "+s.Name+" ") {
			names = append(names, s.Name)
		}
	}
	if got := strings.Join(names, " "); got != ".osrel .cmdline .initrd .uname .sbat .linux" {
		t.Errorf("order of sections is %s", got)
	}
	if optional.SizeOfImage < memory || optional.SizeOfImage%4096 != 0 || int(file) != len(b) {
		t.Errorf("SizeOfImage %#x, sections end at %#x in memory and %d of %d in the file", optional.SizeOfImage, memory, file, len(b))
	}
	sum := optional.CheckSum
	places, err := uki.Layout(b)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b[places.Checksum:], 0)
	if uki.Checksum(b) != sum || sum == 0 {
		t.Errorf("checksum %#x, want %#x", sum, uki.Checksum(b))
	}
}

func TestAssembleRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*uki.Parts)
		want   string
	}{
		{"no root hash", func(p *uki.Parts) { p.CommandLine = "quiet" }, "exactly one roothash"},
		{"two root hashes", func(p *uki.Parts) { p.CommandLine += " " + p.CommandLine }, "exactly one roothash"},
		{"two lines", func(p *uki.Parts) { p.CommandLine += "\nquiet" }, "more than one line"},
		{"empty stub", func(p *uki.Parts) { p.Stub = nil }, "stub"},
		{"kernel as stub", func(p *uki.Parts) { p.Stub = p.Kernel }, "no MZ header"},
		{"UKI as stub", func(p *uki.Parts) { p.Stub = assemble(t, *p) }, "already"},
		{"cut stub", func(p *uki.Parts) { p.Stub = p.Stub[:2000] }, "section"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := parts(t)
			tt.change(&p)
			if _, err := uki.Assemble(p); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Assemble returned %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	p := parts(t)
	b := assemble(t, p)
	i, err := uki.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	line, err := i.CommandLine()
	if err != nil || line != p.CommandLine {
		t.Errorf("command line %q, %v", line, err)
	}
	if text, err := i.OSRelease(); err != nil || text != strings.TrimRight(p.OSRelease, "\n") {
		t.Errorf("os-release %q, %v", text, err)
	}
	if text, err := i.Uname(); err != nil || text != p.Uname {
		t.Errorf("uname %q, %v", text, err)
	}
	for _, x := range []struct {
		got  io.Reader
		want []byte
	}{{i.Kernel(), p.Kernel}, {i.Initrd(), p.Initrd}} {
		if got, err := io.ReadAll(x.got); err != nil || !bytes.Equal(got, x.want) {
			t.Errorf("section of %d bytes reads as %d, %v", len(x.want), len(got), err)
		}
	}
	for n := range len(b) {
		if n%997 != 0 && n > 2048 {
			continue
		}
		if _, err := uki.Open(bytes.NewReader(b[:n]), int64(n)); err == nil {
			t.Fatalf("a UKI cut to %d bytes was opened", n)
		}
	}
	stub := p.Stub
	if _, err := uki.Open(bytes.NewReader(stub), int64(len(stub))); err == nil {
		t.Error("a bare stub was opened as UKI")
	}
}

func TestRootHash(t *testing.T) {
	tests := []struct {
		line string
		ok   bool
	}{
		{"roothash=" + root, true},
		{"quiet  roothash=" + root + "\tpanic=10", true},
		{"", false},
		{"roothash=", false},
		{"roothash=" + root[1:], false},
		{"roothash=" + root + "0", false},
		{"roothash=" + strings.ToUpper(root), false},
		{"roothash=" + root + " roothash=" + root, false},
		{"roothash=" + root + " usrhash=x roothash=" + strings.Repeat("f", 64), false},
		{"\"roothash=" + root + "\"", false},
		{"x.roothash=" + root, false},
		{"x=\"a roothash=" + root + "\"", false},
		{"roothash=" + root + " systemd.roothash=1", false},
	}
	for _, tt := range tests {
		got, err := uki.RootHash(tt.line)
		if tt.ok && (err != nil || got != root) || !tt.ok && !errors.Is(err, uki.ErrRootHash) {
			t.Errorf("RootHash(%q) = %q, %v", tt.line, got, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	p := parts(f)
	p.Kernel = p.Kernel[:100]
	b := assemble(f, p)
	f.Add(b[:4096], uint16(0), byte(0))
	f.Add(b[:1024], uint16(0x3c), byte(0xff))
	f.Fuzz(func(t *testing.T, head []byte, at uint16, value byte) {
		image := bytes.Clone(b)
		copy(image, head)
		image[int(at)%len(image)] = value
		_, _ = uki.Layout(image)
		i, err := uki.Open(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		line, err := i.CommandLine()
		if err != nil {
			t.Fatalf("opened, then no command line: %v", err)
		}
		if _, err := uki.RootHash(line); err != nil {
			t.Errorf("command line %q: %v", line, err)
		}
		for _, s := range []*io.SectionReader{i.Kernel(), i.Initrd()} {
			if n, err := io.Copy(io.Discard, s); err != nil || n != s.Size() {
				t.Errorf("section of %d bytes reads %d, %v", s.Size(), n, err)
			}
		}
	})
}
