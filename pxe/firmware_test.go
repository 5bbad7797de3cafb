package pxe_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"

	"roost/images/uki"
	"roost/pxe"
)

// pinAlone is pin/tftp as most Go boot servers use it: one file for every name, on port 69.
func pinAlone(content []byte) error {
	server := pin.NewServer(func(_ string, to io.ReaderFrom) error {
		if transfer, ok := to.(pin.OutgoingTransfer); ok {
			transfer.SetSize(int64(len(content)))
		}
		begun := time.Now()
		n, err := to.ReadFrom(bytes.NewReader(content))
		fmt.Fprintln(os.Stderr, "pin sent", n, "in", time.Since(begun).Seconds())
		return err
	}, nil)
	return server.ListenAndServe(":69")
}

// firmware is OVMF in a virtual machine without disk on the hub of a wire.
type firmware struct {
	serial string
}

// power starts the machine; it runs until the test ends. bios takes QEMU's BIOS with its iPXE ROM instead of OVMF, rom leaves that ROM
// in the network card of OVMF's machine, which puts iPXE in the place of OVMF's own PXE.
func (w *wire) power(httpOnly, bios, rom bool) *firmware {
	w.t.Helper()
	hub, dir := w.name+"-hub", w.t.TempDir()
	run(w.t, "ip", "-n", hub, "tuntap", "add", "machine", "mode", "tap")
	run(w.t, "ip", "-n", hub, "link", "set", "machine", "master", "bridge", "up")
	f := &firmware{serial: filepath.Join(dir, "serial")}
	card := "virtio-net-pci,netdev=net,mac=52:54:00:00:00:42"
	if !bios && !rom {
		card += ",romfile="
	}
	arguments := []string{"qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", "tcg,thread=multi", "-m", "512", "-display", "none", "-serial", "file:" + f.serial,
		"-netdev", "tap,id=net,ifname=machine,script=no,downscript=no", "-device", card}
	if !bios {
		variables, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/vars", variables, 0o600); err != nil {
			w.t.Fatal(err)
		}
		arguments = append(arguments, "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,format=raw,file="+dir+"/vars", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	if httpOnly {
		arguments = append(arguments, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	}
	w.background("hub", arguments...)
	return f
}

// shows waits for a text on the machine's serial console.
func (f *firmware) shows(t testing.TB, text string, within time.Duration) {
	t.Helper()
	var screen []byte
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		screen, _ = os.ReadFile(f.serial)
		if bytes.Contains(screen, []byte(text)) {
			return
		}
	}
	t.Fatalf("console does not show %q:\n%q", text, screen[max(0, len(screen)-2000):])
}

// bigUKI makes a UKI of 32 MiB whose kernel is noise: firmware loads and starts the stub in it, and the stub says what it thinks of
// the kernel.
func bigUKI(t testing.TB) string {
	t.Helper()
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		t.Fatal(err)
	}
	image, err := uki.Assemble(uki.Parts{Stub: stub, OSRelease: "ID=roost\n", CommandLine: "roothash=" + strings.Repeat("ab", 32), Uname: "6.12",
		SBAT: "roost,1,Roost,edge,1,https://example.org\n", Kernel: random(1, 16<<20), Initrd: random(2, 15<<20+800_000)})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "uki.efi")
	if err := os.WriteFile(path, image, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// stubSpeaks is on the console once the UKI runs.
const stubSpeaks = "Bad kernel image"

// course is one boot of firmware through a server.
type course struct {
	name     string
	errand   errand
	dnsmasq  bool          // has the addresses
	http     bool          // firmware is told to try HTTP boot only
	answered pxe.EventKind // the last word of DHCP
}

// boot powers a machine on, waits until the UKI runs, and returns how long its transfer took.
func (c course) boot(t *testing.T, image string) time.Duration {
	t.Helper()
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	w := newHub(t)
	if c.dnsmasq {
		w.dnsmasq("other")
	}
	c.errand.UKI = image
	p := w.serve(c.errand)
	on := time.Now()
	machine := w.power(c.http, false, false)
	first := p.event(t, pxe.Discovered, time.Minute)
	p.event(t, c.answered, time.Minute)
	answered := time.Now()
	var took time.Duration
	switch {
	case c.errand.Pin:
		p.logged(t, fmt.Sprintf("pin sent %d in ", info.Size()), 3*time.Minute)
		_, rest, _ := strings.Cut(p.log.String(), fmt.Sprintf("pin sent %d in ", info.Size()))
		var seconds float64
		if _, err := fmt.Sscan(rest, &seconds); err != nil {
			t.Fatal(err)
		}
		took = time.Duration(seconds * float64(time.Second))
	case c.http:
		took = p.event(t, pxe.HTTPDone, 3*time.Minute).Took
	default:
		done := p.event(t, pxe.TFTPDone, 3*time.Minute)
		if took = done.Took; done.Bytes != info.Size() {
			t.Errorf("sent %d bytes of %d", done.Bytes, info.Size())
		}
	}
	machine.shows(t, stubSpeaks, time.Minute)
	if _, rest, ok := strings.Cut(p.log.String(), "repeats="); ok {
		t.Logf("windows sent again: %s", strings.Fields(rest)[0])
	}
	t.Logf("%s: first DISCOVER %v after power on, answered %v later, UKI of %d bytes in %v (%.1f MB/s), it runs at %v", c.name,
		first.Time.Sub(on).Round(time.Millisecond), answered.Sub(first.Time).Round(time.Millisecond), info.Size(), took.Round(time.Millisecond),
		float64(info.Size())/took.Seconds()/1e6, time.Since(on).Round(time.Millisecond))
	return took
}

func needsVM(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" {
		t.Skip("boots virtual machines; set ROOST_TEST_VM=1")
	}
}

// TestFirmware boots OVMF through the server in each mode.
func TestFirmware(t *testing.T) {
	needsVM(t)
	image := bigUKI(t)
	for _, c := range []course{
		{"proxy", errand{Interfaces: proxy()}, true, false, pxe.Offered},
		{"http", errand{Interfaces: own(nil)}, false, true, pxe.Acknowledged},
		{"proxy http", errand{Interfaces: proxy()}, true, true, pxe.Offered},
	} {
		t.Run(c.name, func(t *testing.T) { c.boot(t, image) })
	}
}

// TestFirmwareLoadsTwiceAsFast compares the windows that OVMF asks for with pin/tftp's lockstep. Without KVM the guest's share of
// the processor decides, so the best of up to three boots each counts.
func TestFirmwareLoadsTwiceAsFast(t *testing.T) {
	needsVM(t)
	if os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("times real firmware, which only an idle computer can judge: set ROOST_TEST_SOAK=1")
	}
	image := bigUKI(t)
	ours, theirs := time.Hour, time.Hour
	for round := range 3 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			ours = min(ours, course{"own", errand{Interfaces: own(nil)}, false, false, pxe.Acknowledged}.boot(t, image))
		})
		t.Run(fmt.Sprint(round, " pin"), func(t *testing.T) {
			theirs = min(theirs, course{"pin/tftp", errand{Interfaces: own(nil), Pin: true}, false, false, pxe.Acknowledged}.boot(t, image))
		})
		if theirs >= 2*ours {
			break
		}
	}
	if ours == time.Hour || theirs == time.Hour {
		return // -run has chosen other parts, or a boot has failed
	}
	ratio := theirs.Seconds() / ours.Seconds()
	t.Logf("32 MiB by TFTP: ours %v, pin/tftp %v: %.1f times faster", ours.Round(time.Millisecond), theirs.Round(time.Millisecond), ratio)
	if ratio < 2 {
		t.Errorf("only %.1f times faster than pin/tftp", ratio)
	}
}

// TestIPXE boots QEMU's iPXE, as BIOS and as UEFI driver, into the script and into the UKI.
func TestIPXE(t *testing.T) {
	needsVM(t)
	image := bigUKI(t)
	for _, bios := range []bool{true, false} {
		t.Run(fmt.Sprintf("bios %t", bios), func(t *testing.T) {
			w := newHub(t)
			p := w.serve(errand{Interfaces: own(nil), UKI: image})
			machine := w.power(false, bios, !bios)
			if !bios {
				p.event(t, pxe.HTTPDone, 2*time.Minute)
				machine.shows(t, stubSpeaks, time.Minute)
				return
			}
			script := p.event(t, pxe.HTTPDone, 2*time.Minute)
			kernel := p.event(t, pxe.HTTPDone, 2*time.Minute)
			if !strings.HasPrefix(script.File, "/ipxe/") || !strings.HasSuffix(kernel.File, "/vmlinuz") || kernel.Bytes != 16<<20 {
				t.Errorf("loaded %s, then %d bytes of %s", script.File, kernel.Bytes, kernel.File)
			}
			machine.shows(t, "trying again in 10 s", time.Minute) // the kernel is noise
		})
	}
}
