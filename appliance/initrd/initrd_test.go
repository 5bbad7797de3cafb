package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf16"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/klauspost/compress/zstd"
	"github.com/vishvananda/netlink"
)

func TestParseCmdline(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for _, test := range []struct{ in, want, err string }{
		{"roothash=" + hash + " quiet\n", hash, ""},
		{"panic=10 console=ttyS0 roothash=" + hash, hash, ""},
		{"panic=10", "", "holds no roothash="},
		{"roothash=" + hash + " roothash=" + hash, "", "two root hashes"},
		{"roothash=" + strings.ToUpper(hash), "", "64 lower-case"},
		{"roothash=0a", "", "64 lower-case"},
		{"roothash=", "", "64 lower-case"},
	} {
		got, err := parseCmdline(test.in)
		if got.rootHash != test.want || !errorHas(err, test.err) {
			t.Errorf("parseCmdline(%q) = %q, %v; want %q, error with %q", test.in, got.rootHash, err, test.want, test.err)
		}
	}
}

func errorHas(err error, want string) bool {
	if want == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), want)
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("roothash=" + strings.Repeat("0a", 32))
	f.Add("a roothash=b roothash=c")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCmdline(s)
		if err == nil && (len(c.rootHash) != 64 || strings.Count(s, "roothash="+c.rootHash) < 1) {
			t.Errorf("accepted %q from %q", c.rootHash, s)
		}
	})
}

func variableBytes(s string) []byte {
	b := []byte{7, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func TestReadLoaderVariable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "LoaderDevicePartUUID-"+loaderVendor)
	if err := os.WriteFile(path, variableBytes("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readLoaderVariable(dir, "LoaderDevicePartUUID")
	if err != nil || got != "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := readLoaderVariable(dir, "StubDevicePartUUID"); !os.IsNotExist(err) {
		t.Errorf("an absent variable gave %v", err)
	}
}

func FuzzDecodeVariable(f *testing.F) {
	f.Add(variableBytes("x"))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeVariable(b); err == nil && strings.Contains(s, "\x00") {
			t.Errorf("a NUL survived in %q", s)
		}
	})
}

const (
	testDep = `kernel/a/low.ko:
kernel/a/mid.ko: kernel/a/low.ko
kernel/b/top-dev.ko: kernel/a/mid.ko kernel/a/low.ko
kernel/b/early.ko:
`
	testAlias   = "# Aliases\nalias pci:v00001AF4d00001041sv*sd*bc*sc*i* top_dev\nalias virtio:d00000001v* top_dev\nalias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* mid\n"
	testSoftdep = "softdep top_dev pre: early post: mid\n"
)

func testIndex(t testing.TB) *moduleIndex {
	t.Helper()
	x, err := readModuleIndex(fstest.MapFS{
		"modules.dep":     {Data: []byte(testDep)},
		"modules.alias":   {Data: []byte(testAlias)},
		"modules.softdep": {Data: []byte(testSoftdep)},
	}, "/lib/modules/x")
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestModuleOrder(t *testing.T) {
	got := []string{}
	x := testIndex(t)
	insert := func(path string) error { got = append(got, filepath.Base(path)); return nil }
	if err := x.loadWith("top-dev", insert); err != nil {
		t.Fatal(err)
	}
	want := []string{"early.ko", "low.ko", "mid.ko", "top-dev.ko"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("loaded %v, want %v", got, want)
	}
	if err := x.loadWith("top_dev", insert); err != nil || len(got) != len(want) {
		t.Errorf("loaded twice: %v, %v", got, err)
	}
	if err := x.loadWith("builtin", insert); err != nil {
		t.Errorf("an unknown module is no error, got %v", err)
	}
}

func TestModuleMatch(t *testing.T) {
	x := testIndex(t)
	for alias, want := range map[string][]string{
		"pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00": {"top_dev"},
		"virtio:d00000001v00001AF4":                             {"top_dev"},
		"usb:v0781p5581d0100dc00dsc00dp00ic08isc06ip50in00":     {"mid"},
		"pci:v00008086d0000":                                    nil,
	} {
		if got := x.match(alias); !reflect.DeepEqual(got, want) {
			t.Errorf("match(%s) = %v, want %v", alias, got, want)
		}
	}
}

func FuzzModuleIndex(f *testing.F) {
	f.Add(testDep, testAlias, testSoftdep, "pci:v00001AF4")
	f.Add("a:a\n", "alias [ x", "softdep a pre: a", "[")
	f.Fuzz(func(t *testing.T, dep, alias, soft, modalias string) {
		x, err := readModuleIndex(fstest.MapFS{
			"modules.dep": {Data: []byte(dep)}, "modules.alias": {Data: []byte(alias)}, "modules.softdep": {Data: []byte(soft)},
		}, "/")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append(x.match(modalias), "a") {
			if err := x.loadWith(name, func(string) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestReleaseTime(t *testing.T) {
	for in, want := range map[string]int64{
		"ID=roost\nROOST_CREATED=1760000000\n": 1760000000,
		"ROOST_CREATED=\"1760000000\"":         1760000000,
		"ROOST_CREATED=-5":                     0,
		"ROOST_CREATED=soon":                   0,
		"":                                     0,
	} {
		got, ok := releaseTime(in)
		if ok != (want != 0) || ok && got.Unix() != want {
			t.Errorf("releaseTime(%q) = %v, %v", in, got, ok)
		}
	}
}

func TestParseBase(t *testing.T) {
	for in, want := range map[string]string{
		"http://10.77.0.1:8069/": "http://10.77.0.1:8069", "http://10.77.0.1:8069\x00": "http://10.77.0.1:8069",
		"https://10.77.0.1": "", "http://": "", "file:///etc": "", "http://a@b": "", "http://a/?b": "", "": "",
	} {
		got, err := parseBase(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("parseBase(%q) = %q, %v", in, got, err)
		}
	}
}

func TestBootServerNeedsOurClass(t *testing.T) {
	file := dhcpv4.WithOption(dhcpv4.OptBootFileName("http://10.77.0.1:8069"))
	ours, err := dhcpv4.New(file, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("Roost")))
	if err != nil {
		t.Fatal(err)
	}
	other, err := dhcpv4.New(file, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")))
	if err != nil {
		t.Fatal(err)
	}
	if got := bootServer(ours); got != "http://10.77.0.1:8069" {
		t.Errorf("our boot server gave %q", got)
	}
	if got := bootServer(other); got != "" {
		t.Errorf("another server's answer gave %q", got)
	}
}

// breakingServer serves content but ends each answer after a few bytes, as a bad cable does.
func breakingServer(t *testing.T, content []byte, piece int, ranges bool) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := 0
		if h := r.Header.Get("Range"); h != "" && ranges {
			if _, err := fmt.Sscanf(h, "bytes=%d-", &from); err != nil {
				t.Errorf("range %q: %v", h, err)
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		}
		w.Write(content[from:min(from+piece, len(content))])
	}))
	t.Cleanup(s.Close)
	return s
}

func TestImageResumes(t *testing.T) {
	want := bytes.Repeat([]byte("block of the root image. "), 40000)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(want, nil)
	s := breakingServer(t, packed, len(packed)/2+1, true)
	f := &fetcher{client: s.Client(), con: &console{out: devNull(t), last: time.Now()}, pause: func(time.Duration) {}}
	path, err := f.image(s.URL+"/root/x.erofs.zst", filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func TestImageGivesUp(t *testing.T) {
	pause := func(time.Duration) {}
	dir := t.TempDir()
	dead := breakingServer(t, bytes.Repeat([]byte{1}, 1000), 0, false)
	f := &fetcher{client: dead.Client(), con: &console{out: devNull(t), last: time.Now()}, pause: pause}
	if _, err := f.image(dead.URL, filepath.Join(dir, "a")); err == nil {
		t.Error("a server that never delivers gave no error")
	}
	absent := httptest.NewServer(http.NotFoundHandler())
	defer absent.Close()
	if _, err := f.image(absent.URL, filepath.Join(dir, "b")); !errorHas(err, "refuses") {
		t.Errorf("an absent image gave %v", err)
	}
}

func devNull(t *testing.T) *os.File {
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestResumeFromWrongAnswer(t *testing.T) {
	// A server that ignores Range would splice the start of the file into its middle.
	content := bytes.Repeat([]byte{7}, 100)
	s := breakingServer(t, content, 60, false)
	f := &fetcher{client: s.Client(), con: &console{out: devNull(t), last: time.Now()}, pause: func(time.Duration) {}}
	r := &resumingReader{fetcher: f, address: s.URL}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err == nil {
		t.Errorf("read %d bytes from a server that cannot resume, no error", len(got))
	}
}

func TestWriteIdentity(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"etc", "var/lib/roost/identity"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeIdentity(root); err != nil {
		t.Errorf("a machine without identity: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/roost/identity/machine-id"), []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeIdentity(root); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); err != nil || string(b) != "abc\n" {
		t.Errorf("machine-id is %q, %v", b, err)
	}
}

func TestPartitionNode(t *testing.T) {
	for in, want := range map[string]string{"/dev/vda": "/dev/vda3", "/dev/nvme0n1": "/dev/nvme0n1p3", "/dev/mmcblk0": "/dev/mmcblk0p3", "/dev/sdb": "/dev/sdb3"} {
		if got := partitionNode(in, 3); got != want {
			t.Errorf("partitionNode(%s, 3) = %s, want %s", in, got, want)
		}
	}
}

// FuzzAnswer takes DHCP answers from anyone on the wire: no answer may stop the initrd, and a boot server is an http URL of a host.
func FuzzAnswer(f *testing.F) {
	for _, options := range [][]dhcpv4.Modifier{
		nil,
		{dhcpv4.WithOption(dhcpv4.OptBootFileName("http://10.77.0.1:8069")), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("Roost"))},
		{dhcpv4.WithYourIP(net.IPv4(10, 77, 0, 9)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 77, 0, 1))},
	} {
		p, err := dhcpv4.New(append(options, dhcpv4.WithReply(&dhcpv4.DHCPv4{}))...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.ToBytes())
	}
	link := &netlink.LinkAttrs{Name: "eth0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	f.Fuzz(func(t *testing.T, packet []byte) {
		p, err := dhcpv4.FromBytes(packet)
		if err != nil {
			return
		}
		base := bootServer(p)
		if u, err := url.Parse(base); base != "" && (err != nil || u.Scheme != "http" || u.Host == "") {
			t.Errorf("boot server %q", base)
		}
		if p.YourIPAddr == nil || p.YourIPAddr.IsUnspecified() {
			return
		}
		if l, err := newLease(link, p, base); err == nil && len(l.address.Mask) != 4 {
			t.Errorf("lease of %v with mask %v", l.address.IP, l.address.Mask)
		}
		_, _ = dhcpv4.NewRequestFromOffer(p)
	})
}
