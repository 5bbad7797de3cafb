package linux

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
)

func tree(t *testing.T, files map[string]string) Machine {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Root: root}
}

func TestBoot(t *testing.T) {
	m := tree(t, map[string]string{
		"run/roost/boot.json":            `{"origin":"network","rootHash":"ab","mac":"52:54:00:00:00:01","bootServer":"http://10.77.0.1:8069","site":{"name":"lab","controller":"https://10.77.0.1:7443","caFingerprint":"sha256:aa"}}`,
		"proc/sys/kernel/random/boot_id": "0a1b2c3d-0000-4000-8000-00000000abcd\n",
		"proc/uptime":                    "12.50 20.00\n",
	})
	boot, err := m.Boot()
	if err != nil || boot.Origin != "network" || boot.Site.CAFingerprint != "sha256:aa" {
		t.Errorf("boot %+v, %v", boot, err)
	}
	if id, err := m.BootID(); err != nil || id != "0a1b2c3d000040008000"+"00000000abcd" {
		t.Errorf("boot id %q, %v", id, err)
	}
	if up, err := m.Uptime(); err != nil || up != 12500*time.Millisecond {
		t.Errorf("uptime %v, %v", up, err)
	}
	if _, err := tree(t, nil).Boot(); err == nil {
		t.Error("a missing record is no error")
	}
	if _, err := parseBoot([]byte(`{"origin":"moon"}`)); err == nil {
		t.Error("an unknown origin is accepted")
	}
}

// TestDescribe replaces the hardware of a container, and of nothing else.
func TestDescribe(t *testing.T) {
	const record = `{"origin":"ORIGIN","hardware":{"system":{"uuid":"u"},"firmware":{"kind":"container"},"disks":[{"path":"/var"}],"nics":[{"name":"eth0","mac":"m"}]}}`
	for origin, want := range map[string]string{"container": "u container /var m", "network": "host uefi /dev/sda h"} {
		boot, err := parseBoot([]byte(strings.Replace(record, "ORIGIN", origin, 1)))
		if err != nil {
			t.Fatal(err)
		}
		i := &api.Inventory{Memory: 7, BMC: "/dev/ipmi0", Disks: []api.Disk{{Path: "/dev/sda"}}, NICs: []api.NIC{{MAC: "h"}}, PCI: []api.Device{{}}}
		i.System.UUID, i.Firmware.Kind = "host", "uefi"
		boot.Describe(i)
		if got := strings.Join([]string{i.System.UUID, i.Firmware.Kind, i.Disks[0].Path, i.NICs[0].MAC}, " "); got != want || i.Memory != 7 {
			t.Errorf("%s: got %s, want %s", origin, got, want)
		}
		if contained := origin == "container"; boot.Contained() != contained || (i.BMC == "") != contained || (i.PCI == nil) != contained {
			t.Errorf("%s: contained %v, %+v", origin, boot.Contained(), i)
		}
	}
}

func TestImage(t *testing.T) {
	m := tree(t, map[string]string{"usr/lib/roost/release.json": `{"lock":"sha256:aa","name":"edge","version":"2.0.0"}`})
	if image, err := m.Image(); err != nil || image.String() != "edge 2.0.0" {
		t.Errorf("image %+v, %v", image, err)
	}
	if image, err := tree(t, nil).Image(); err == nil {
		t.Errorf("an image without a stamp is %+v", image)
	}
}

func TestSecureBoot(t *testing.T) {
	const dir, guid = "sys/firmware/efi/efivars/", "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	for _, test := range []struct {
		files map[string]string
		want  string
	}{
		{nil, "unsupported"},
		{map[string]string{dir + "SecureBoot" + guid: "\x06\x00\x00\x00\x01", dir + "SetupMode" + guid: "\x06\x00\x00\x00\x00"}, "enabled"},
		{map[string]string{dir + "SecureBoot" + guid: "\x06\x00\x00\x00\x00", dir + "SetupMode" + guid: "\x06\x00\x00\x00\x00"}, "disabled"},
		{map[string]string{dir + "SecureBoot" + guid: "\x06\x00\x00\x00\x00", dir + "SetupMode" + guid: "\x06\x00\x00\x00\x01"}, "setup"},
		{map[string]string{dir + "SecureBoot" + guid: "\x06"}, "unsupported"},
	} {
		if got := tree(t, test.files).SecureBoot(); got != test.want {
			t.Errorf("%v: got %s, want %s", test.files, got, test.want)
		}
	}
}

func TestPstore(t *testing.T) {
	m := tree(t, map[string]string{
		"var/lib/systemd/pstore/1700000000/dmesg.txt": "old panic",
		"sys/fs/pstore/dmesg-efi-1":                   "new panic",
		"sys/fs/pstore/dmesg-efi-2":                   " \n",
		"sys/fs/pstore/console-ramoops":               "no",
	})
	got, err := m.Pstore()
	want := map[string]string{"/var/lib/systemd/pstore/1700000000/dmesg.txt": "old panic", "/sys/fs/pstore/dmesg-efi-1": "new panic"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestParseJournal(t *testing.T) {
	lines, id, err := parseJournal(strings.NewReader(`{"MESSAGE":"one","SYSLOG_IDENTIFIER":"kernel"}
{"MESSAGE":[104,105,255],"_COMM":"x"}

{"MESSAGE":null,"SYSLOG_IDENTIFIER":"y","_BOOT_ID":"b1"}
`))
	if want := []string{"kernel: one", "x: hi\uFFFD", "y: "}; err != nil || id != "b1" || !reflect.DeepEqual(lines, want) {
		t.Errorf("got %q of %s, %v", lines, id, err)
	}
}

func FuzzParseJournal(f *testing.F) {
	f.Add([]byte(`{"MESSAGE":"one","SYSLOG_IDENTIFIER":"kernel"}`))
	f.Add([]byte(`{"MESSAGE":[1,2,300,-1]}`))
	f.Fuzz(func(t *testing.T, b []byte) { parseJournal(strings.NewReader(string(b))) })
}

func FuzzParseBoot(f *testing.F) {
	f.Add([]byte(`{"origin":"disk","rootHash":"ab"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if boot, err := parseBoot(b); err == nil && boot.Origin == "" {
			t.Error("accepted without an origin")
		}
	})
}

func TestTail(t *testing.T) {
	if got := tail("one\ntwo\nthree", 8); got != "three" {
		t.Errorf("got %q", got)
	}
}
