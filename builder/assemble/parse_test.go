package assemble

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"roost/builder/tree"
)

func TestParseIDs(t *testing.T) {
	got, err := ParseIDs([]byte("users:\n  - {name: a, uid: 200}\n  - {name: b, uid: 201, gid: 65534, group: nogroup, home: /b, shell: /bin/sh}\ngroups:\n  - {name: g, gid: 300}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := got.Users[0].passwdLine() + got.Users[1].passwdLine() + groupLine(got.Groups[0].Name, got.Groups[0].GID); lines !=
		"a:*:200:200::/nonexistent:/usr/sbin/nologin\nb:*:201:65534::/b:/bin/sh\ng:*:300:\n" {
		t.Errorf("accounts\n%s", lines)
	}
	for text, want := range map[string]string{
		"users: [{name: a, uid: 200}, {name: b, uid: 200}]":                     "number 200 is also that of a",
		"users: [{name: a, uid: 200}, {name: a, uid: 201}]":                     "twice",
		"users: [{name: a, uid: 999}]":                                          "outside",
		"users: [{name: a, uid: 42}]":                                           "outside",
		"users: [{name: 'a b', uid: 200}]":                                      "not a name",
		"users: [{name: a, uid: 200, colour: red}]":                             "colour",
		"users: [{name: a, uid: 200, group: g}]":                                "gid of its group g is missing",
		"groups: [{name: g, gid: 300}]\nusers: [{name: a, uid: 200, gid: 300}]": "number 300 is also that of g",
	} {
		if _, err := ParseIDs([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

// TestShippedIDs: the table that comes with the recipes is sound.
func TestShippedIDs(t *testing.T) {
	text, err := os.ReadFile("../../recipes/ids.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIDs(text)
	if err != nil || len(ids.Users) < 10 {
		t.Errorf("%d users, %v", len(ids.Users), err)
	}
}

func TestParseInstall(t *testing.T) {
	in := parseInstall([]byte("[Unit]\nWantedBy=no.target\n[Install]\n# WantedBy=no.target\nWantedBy=a.target \\\n b.target\nRequiredBy=c.target\nUpheldBy=d.target\nAlias=x@%i.service\nAlso=y.socket\nDefaultInstance=tty1\n"), "seven")
	got := strings.Join(slices.Concat(in.links, in.aliases, in.also, []string{in.defaultInstance}), " ")
	if want := "a.target.wants b.target.wants c.target.requires d.target.upholds x@seven.service y.socket tty1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestModuleNames(t *testing.T) {
	for p, want := range map[string]string{
		"/usr/lib/modules/6/kernel/drivers/net/virtio-net.ko.xz": "virtio_net",
		"/usr/lib/modules/6/kernel/a.ko":                         "a",
		"/usr/lib/modules/6/kernel/a.ko.zst":                     "a",
		"/usr/lib/modules/6/modules.dep":                         "",
		"/usr/lib/modules/6/kernel/a.ko.bz2":                     "",
		"/srv/a.ko":                                              "",
	} {
		got := ""
		if isModule(p) {
			got = moduleName(p)
		}
		if got != want {
			t.Errorf("%s is module %q, want %q", p, got, want)
		}
	}
}

// modinfo is an ELF file with nothing but a .modinfo section.
func modinfo(info string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...)
	le.PutUint16(b[16:], 1)  // ET_REL
	le.PutUint16(b[18:], 62) // x86-64
	le.PutUint32(b[20:], 1)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], 3)
	le.PutUint16(b[62:], 2)
	at := len(b)
	b = append(b, info...)
	b = append(b, names...)
	le.PutUint64(b[40:], uint64(len(b)))
	section := func(name, kind uint32, offset, size int) {
		h := make([]byte, 64)
		le.PutUint32(h, name)
		le.PutUint32(h[4:], kind)
		le.PutUint64(h[24:], uint64(offset))
		le.PutUint64(h[32:], uint64(size))
		b = append(b, h...)
	}
	section(0, 0, 0, 0)
	section(1, 1, at, len(info))
	section(10, 3, at+len(info), len(names))
	return b
}

func TestModuleDepends(t *testing.T) {
	for info, want := range map[string]string{
		"license=GPL\x00depends=virtio,virtio-ring\x00name=x\x00": "virtio virtio_ring",
		"depends=\x00":    "",
		"license=GPL\x00": "",
	} {
		got, err := moduleDepends(modinfo(info))
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q depends on %v, %v; want %s", info, got, err, want)
		}
	}
	if _, err := moduleDepends([]byte("not a module")); err == nil {
		t.Error("text was taken for a module")
	}
}

// FuzzModuleDepends: no module file panics.
func FuzzModuleDepends(f *testing.F) {
	f.Add(modinfo("depends=a,b\x00"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = moduleDepends(b)
	})
}

// FuzzUnit: what enable makes of any unit file stays below /etc/systemd/system.
func FuzzUnit(f *testing.F) {
	f.Add("[Install]\nWantedBy=a.target\nAlias=b.service\n")
	f.Add("[Install]\nAlso=x.service\nDefaultInstance=1\n")
	f.Add("[Install]\nWantedBy=../../../../usr/bin/x\nAlias=/etc/passwd ..\n")
	store, err := tree.OpenStore(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	a := &assembly{Config: Config{Store: store}}
	f.Fuzz(func(t *testing.T, unit string) {
		d := tree.NewDraft()
		if err := a.write(d, vendorUnits+"/x.service", 0o644, []byte(unit)); err != nil {
			t.Fatal(err)
		}
		_ = a.enable(d, "x.service", map[string]bool{})
		made, err := d.Tree()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range made.Entries() {
			if e.Type == tree.Symlink && !strings.HasPrefix(e.Path, localUnits+"/") {
				t.Errorf("%q made %s", unit, e.Path)
			}
		}
	})
}

func TestInterests(t *testing.T) {
	got := interests([]byte("# comment\ninterest-noawait /usr/a\ninterest ldconfig # here\nactivate-noawait x\nbroken\n"))
	if want := []interest{{"/usr/a", "/noawait"}, {"ldconfig", ""}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLastLines(t *testing.T) {
	w := &lastLines{}
	for range keptLines + 5 {
		w.Write([]byte("a\nb"))
	}
	w.flush()
	if len(w.lines) != keptLines || w.lines[keptLines-1] != "b" || !bytes.Equal([]byte(w.lines[0]), []byte("ba")) {
		t.Errorf("kept %d lines, from %q to %q", len(w.lines), w.lines[0], w.lines[len(w.lines)-1])
	}
}
