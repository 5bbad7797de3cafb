package powercut_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/images/disk"
	"roost/images/disk/esp"
	"roost/test/lab"
	"roost/test/powercut"
	"roost/updater/boot"
)

// program is a pretended UKI for the real loader.
type program struct {
	file    string
	version string
	outcome boot.Outcome
	damage  func([]byte) []byte
	port    uint16 // where it says its token; 0 means debugPort
}

const (
	debugPort = 0x403
	com1      = 0x3f8 // the console of a machine of the lab
)

// TestModelIsTheLoader starts real firmware and the real systemd-boot on partitions of all kinds, and wants from them what
// the model says: which programs are started, in which order, through resets and refusals, and how the files are then named.
// The boot options are those that the installer writes.
func TestModelIsTheLoader(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") != "1" {
		t.Skip("boots virtual machines: set ROOST_TEST_VM=1")
	}
	loader, err := os.ReadFile(loaderPath())
	if err != nil {
		t.Fatalf("%v: install systemd-boot-efi or set ROOST_LOADER", err)
	}
	empty := func([]byte) []byte { return nil }
	half := func(b []byte) []byte { return b[:100] }
	for name, programs := range map[string][]program{
		"newest":               {{file: "edge_9.efi", version: "9"}, {file: "edge_10.efi", version: "10"}},
		"candidate":            {{file: "edge_2~rc1.efi", version: "2~rc1"}, {file: "edge_2.efi", version: "2"}},
		"trial works":          {{file: "edge_1.efi", version: "1"}, {file: "edge_2+2-0.efi", version: "2"}},
		"trial panics":         {{file: "edge_1.efi", version: "1"}, {file: "edge_2+2-0.efi", version: "2", outcome: boot.Reset}},
		"trial is refused":     {{file: "edge_1.efi", version: "1"}, {file: "edge_2+2-0.efi", version: "2", outcome: boot.Refused}},
		"older demoted":        {{file: "edge_1+0-0.efi", version: "1"}, {file: "edge_0.9+1-0.efi", version: "0.9", outcome: boot.Reset}},
		"rebuilt panics":       {{file: "edge_2.efi", version: "2"}, {file: "edge_2_r12ab34cd+1-0.efi", version: "2", outcome: boot.Reset}},
		"truncated":            {{file: "edge_1.efi", version: "1"}, {file: "edge_2.efi", version: "2", damage: empty}, {file: "edge_3.efi", version: "3", damage: half}},
		"twins":                {{file: "edge_1.efi", version: "1"}, {file: "edge_2+2-0.efi", version: "2"}, {file: "edge_2+1-1.efi", version: "2"}},
		"good before counted":  {{file: "edge_2.efi", version: "2"}, {file: "edge_2+1-1.efi", version: "2"}},
		"counted before good":  {{file: "edge_2+1-1.efi", version: "2"}, {file: "edge_2.efi", version: "2"}},
		"bad is all there is":  {{file: "edge_2+0-2.efi", version: "2"}},
		"temporary is ignored": {{file: "edge_1.efi", version: "1"}, {file: "edge_2.new", version: "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "good before counted" && bytes.Contains(loader, []byte("LoaderInfo: systemd-boot 252")) {
				// Debian 12's compares names with their counters, and takes the counted one wherever it stands. The power cut
				// tests judge both.
				return
			}
			model := boot.Model{Options: 3}
			for _, p := range programs {
				model.Images = append(model.Images, boot.Image{File: p.file, SortKey: "roost-edge", Version: p.version, Listed: p.damage == nil})
			}
			want := ""
			_, after, ok := model.PowerOn(10, func(i boot.Image) boot.Outcome {
				n := slices.IndexFunc(programs, func(p program) bool { return sameFile(p.file, i.File) })
				if programs[n].outcome != boot.Refused {
					want += token(n)
				}
				return programs[n].outcome
			})
			if !ok {
				t.Fatal("the model does not come up; give the case an end")
			}
			var files []string
			for _, i := range after.Images {
				files = append(files, i.File)
			}
			slices.Sort(files)
			got, names := runLoader(t, loader, programs, len(want))
			if got != want || !slices.Equal(names, files) {
				t.Errorf("started %s and left %q; the model says %s and %q", got, names, want, files)
			}
		})
	}
}

func loaderPath() string {
	if path := os.Getenv("ROOST_LOADER"); path != "" {
		return path
	}
	return "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
}

func token(n int) string { return fmt.Sprintf("<%d>", n) }

// sameFile tells whether a file is another under a later count.
func sameFile(before, after string) bool {
	b, _ := boot.ParseName(before)
	a, _ := boot.ParseName(after)
	return b.Base == a.Base && b.Counted == a.Counted && a.Left+a.Done >= b.Left+b.Done && a.Left <= b.Left && (b.Left-a.Left == a.Done-b.Done || b.Left == 0)
}

// runLoader boots the disk until so many bytes of tokens came, and returns them and the names on the partition.
func runLoader(t *testing.T, loader []byte, programs []program, length int) (string, []string) {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "disk")
	partition := makeDisk(t, image, loader, programs)
	listener, err := net.Listen("unix", filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-net", "none",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
		"-drive", "if=pflash,format=raw,unit=1,file="+variableStore(t, dir, partition),
		"-drive", "if=none,id=disk,format=raw,file="+image, "-device", "virtio-blk-pci,drive=disk",
		"-chardev", "socket,id=out,path="+filepath.Join(dir, "out"), "-device", "isa-debugcon,iobase="+fmt.Sprint(debugPort)+",chardev=out")
	var errors bytes.Buffer
	cmd.Stderr = &errors
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { // ends the wait when QEMU ends by itself, or at the limit
		exited <- cmd.Wait()
		listener.Close()
	}()
	got, n := make([]byte, length), 0
	connection, err := listener.Accept()
	if err == nil {
		n, err = io.ReadFull(connection, got)
		connection.Close()
	}
	cmd.Process.Kill() // it may have ended already
	<-exited
	if err != nil {
		t.Logf("%v; QEMU says: %s", err, errors.String())
	}
	return string(got[:n]), namesOn(t, image, partition)
}

func makeDisk(t *testing.T, image string, loader []byte, programs []program) disk.Partition {
	t.Helper()
	const size = 48 * mib
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	p := disk.Partition{Number: 1, Name: disk.ESPA, Type: disk.Types()[disk.ESPA], UUID: disk.GUID{1, 2, 3}, Offset: mib, Size: 40 * mib}
	table := disk.Table{Disk: disk.GUID{9}, SectorSize: 512, Partitions: []disk.Partition{p}}
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	open := func() io.Reader { return bytes.NewReader(loader) }
	files := esp.Files(open, "x", strings.NewReader(""))[:3]
	for n, program := range programs {
		content := pe(n, program)
		if program.damage != nil {
			content = program.damage(content)
		}
		files = append(files, esp.File{Path: path.Join(esp.UKIDirectory, program.file), Content: bytes.NewReader(content)})
	}
	if err := esp.Format(f, p.Offset, p.Size, esp.Volume{Label: "ESP-A", Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, files); err != nil {
		t.Fatal(err)
	}
	return p
}

// variableStore puts the installer's boot options into the firmware.
func variableStore(t *testing.T, dir string, p disk.Partition) string {
	t.Helper()
	vars := filepath.Join(dir, "efivars")
	if err := os.Mkdir(vars, 0o755); err != nil {
		t.Fatal(err)
	}
	options := boot.BootOptions(boot.Option{Number: uint32(p.Number), Start: uint64(p.Offset) / 512, Size: uint64(p.Size) / 512, Partition: p.UUID.String()})
	if err := (boot.Variables{Dir: vars}).SetFirst(options); err != nil {
		t.Fatal(err)
	}
	template, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		t.Fatal(err)
	}
	store, err := lab.VariableStore(template, os.DirFS(vars))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "vars")
	if err := os.WriteFile(path, store, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func namesOn(t *testing.T, image string, p disk.Partition) []string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, err := powercut.ReadFAT(f, p.Offset, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if name, ok := strings.CutPrefix(file.Path, esp.UKIDirectory+"/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// pe returns an EFI program with an os-release section that writes its token to a port, and then stays, or resets the
// machine. One that firmware must refuse is of a subsystem that it does not start.
func pe(n int, p program) []byte {
	code := []byte{0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea rsi, [rip+text]
		0x66, 0xba, 0, 0, // mov dx, port
		0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8} // lodsb; test al, al; jz +3; out dx, al; jmp -8
	binary.LittleEndian.PutUint16(code[9:], cmp.Or(p.port, debugPort))
	if p.outcome == boot.Reset {
		code = append(code, 0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee) // mov dx, 0xcf9; mov al, 6; out dx, al
	}
	code = append(code, 0xf4, 0xeb, 0xfd) // hlt; jmp -3
	binary.LittleEndian.PutUint32(code[3:], uint32(len(code)-7))
	code = append(code, token(n)+"\x00"...)
	osrelease := fmt.Sprintf("ID=roost\nNAME=Roost\nPRETTY_NAME=\"Roost %s\"\nIMAGE_ID=roost-edge\nIMAGE_VERSION=%s\nVERSION_ID=%s\n", p.version, p.version, p.version)
	cmdline := "roothash=" + strings.Repeat("0", 64)

	const headers, align = 0x400, 0x1000
	type section struct {
		name  string
		data  []byte
		flags uint32
	}
	sections := []section{{".text", code, 0x60000020}, {".osrel", []byte(osrelease), 0x40000040}, {".cmdline", []byte(cmdline), 0x40000040}}
	le := binary.LittleEndian
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	le.PutUint16(b[0x84:], 0x8664)                // x86-64
	le.PutUint16(b[0x86:], uint16(len(sections))) // sections
	le.PutUint16(b[0x94:], 0xf0)                  // size of the optional header
	le.PutUint16(b[0x96:], 0x0206)                // executable, line numbers and debug stripped
	opt := b[0x98:]
	le.PutUint16(opt[0:], 0x20b)  // PE32+
	le.PutUint32(opt[4:], align)  // size of code
	le.PutUint32(opt[16:], align) // entry point
	le.PutUint32(opt[20:], align) // base of code
	le.PutUint32(opt[32:], align) // section alignment
	le.PutUint32(opt[36:], 0x200) // file alignment
	le.PutUint32(opt[56:], uint32(align*(len(sections)+1)))
	le.PutUint32(opt[60:], headers)
	subsystem := uint16(10) // EFI application
	if p.outcome == boot.Refused {
		subsystem = 1 // native
	}
	le.PutUint16(opt[68:], subsystem)
	le.PutUint16(opt[70:], 0x100) // NX compatible
	le.PutUint32(opt[108:], 16)   // data directories
	for i, s := range sections {
		h := b[0x98+0xf0+40*i:]
		copy(h, s.name)
		le.PutUint32(h[8:], uint32(len(s.data)))
		le.PutUint32(h[12:], uint32(align*(i+1)))
		le.PutUint32(h[16:], uint32((len(s.data)+0x1ff)&^0x1ff))
		le.PutUint32(h[20:], uint32(headers+0x200*i))
		le.PutUint32(h[36:], s.flags)
	}
	for i, s := range sections {
		if len(s.data) > 0x200 {
			panic("a section of the test program is too long")
		}
		b = append(b, make([]byte, headers+0x200*(i+1)-len(b))...)
		copy(b[headers+0x200*i:], s.data)
	}
	return b
}
