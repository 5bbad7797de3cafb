package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roost/builder/deb"
	"roost/builder/lock"
	"roost/builder/recipe"
)

const perfdhcpSays = `Running: perfdhcp -4 -l eth0 -r 3000
Rate: 2987.25 4-way exchanges/second, expected rate: 3000

***Statistics for: DISCOVER-OFFER***
sent packets: 24000
received packets: 23990
drops: 10
ratio: 0.99

min delay: 0.059 ms
avg delay: 0.412 ms

***Statistics for: REQUEST-ACK***
sent packets: 23990
received packets: 23960
drops: 30
`

func TestPerfdhcp(t *testing.T) {
	x, err := parsePerfdhcp(perfdhcpSays)
	if err != nil || x.Rate != 2987.25 || x.Drops < 0.083 || x.Drops > 0.084 {
		t.Errorf("%+v, %v; want 2987.25 exchanges/s and 40 of 47990 packets lost", x, err)
	}
	for _, text := range []string{"", "Error: Operation not permitted", strings.Replace(perfdhcpSays, "Rate: 2987.25", "Rate: ", 1), strings.Split(perfdhcpSays, "***Statistics for: REQUEST")[0]} {
		if x, err := parsePerfdhcp(text); err == nil {
			t.Errorf("%q gives %+v and no error", text, x)
		}
	}
}

func FuzzPerfdhcp(f *testing.F) {
	f.Add(perfdhcpSays)
	f.Fuzz(func(t *testing.T, text string) {
		if x, err := parsePerfdhcp(text); err == nil && (x.Rate < 0 || x.Drops < 0 || x.Drops > 100) {
			t.Errorf("%+v", x)
		}
	})
}

func TestStages(t *testing.T) {
	got := parseStages("fetch         0.0 s  135 packages\ncompile       7.2 s  2 programs\nroost: some warning\nassemble     30.8 s  edge 0.1.0\n")
	if want := "fetch 0.0 s, compile 7.2 s, assemble 30.8 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFootprint(t *testing.T) {
	held := parseFootprint("=== RUN\n    footprint_test.go:97: controller: 96 MB resident\n    footprint_test.go:97: worker: 41 MB resident\n")
	if len(held) != 2 || int(held["controller"]) != 100 || int(held["worker"]) != 42 {
		t.Errorf("%v", held)
	}
	if held := parseFootprint("FAIL"); len(held) != 0 {
		t.Errorf("%v", held)
	}
}

func console(texts ...string) (lines []consoleLine) {
	for i, text := range texts {
		lines = append(lines, consoleLine{time.Unix(int64(i), 0), text})
	}
	return lines
}

func TestPhases(t *testing.T) {
	const enters = `BdsDxe: starting Boot0002 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x4,0x0)`
	for _, c := range []struct {
		name          string
		lines         []consoleLine
		initrd, whole time.Duration
		fails         bool
	}{
		{"ours", console("BdsDxe: loading Boot0002", enters, "EFI stub", "[ 3.3] roost: Roost boots", "[ 4.0] roost: starting the system", "[ 5.0] systemd[1]: x", "roost: this disk holds no identity; boot"), 3 * time.Second, 5 * time.Second, false},
		{"Debian's", console(enters, "[ 3.3] Run /init", "Begin: Loading essential drivers", "[ 9.0] roost: starting the system", "x", "roost: this disk holds no identity; boot"), 3 * time.Second, 5 * time.Second, false},
		{"silent initrd", console(enters, "roost: this disk holds no identity"), 0, time.Second, false},
		{"an option failed before", console(enters, "[ 4.0] roost: starting the system", enters, "[ 4.0] roost: starting the system", "roost: this disk holds no identity"), time.Second, 2 * time.Second, false},
		{"no hand-over", console("[ 4.0] roost: starting the system", "roost: this disk holds no identity"), 0, 0, true},
		{"no roostd", console(enters, "[ 4.0] roost: starting the system"), 0, 0, true},
		{"nothing", nil, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := findPhases(c.lines)
			if (err != nil) != c.fails || !c.fails && (p.initrd != c.initrd || p.whole != c.whole) {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

// TestConsole writes a console while it is watched, with a line in two pieces.
func TestConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(s string) {
		if _, err := f.WriteString(s); err != nil {
			t.Error(err)
		}
	}
	write("first\r\nsec")
	go write("ond\r\nthe mark is here\r\nlater\r\n")
	lines, err := watchConsole(t.Context(), path, "mark")
	if err != nil || len(lines) != 3 || lines[1].text != "second" || lines[2].text != "the mark is here" {
		t.Errorf("%+v, %v", lines, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if lines, err := watchConsole(ctx, path, "never"); err == nil || len(lines) != 4 {
		t.Errorf("%d lines, %v; want all lines and an error", len(lines), err)
	}
}

func TestDescribeTree(t *testing.T) {
	l := &lock.Lock{Groups: []lock.Group{{Packages: []lock.Package{{Name: "bash", Version: deb.Version("5.2")}, {Name: "less", Version: deb.Version("668-1")}}}}}
	for text, want := range map[string]string{
		"100\n3\n7\nbash 5.2\nless 668-1\nroost-no-initramfs 1\n": "its tree: the same packages, 100 paths as ours, 3 only there, 7 only in ours",
		"100\n3\n7\nbash 5.1\nvim 9\n":                            "its tree: 2 packages more and 2 fewer than the lock, 100 paths as ours, 3 only there, 7 only in ours",
		"":                                                        "its tree could not be compared with ours",
	} {
		if got := describeTree(text, l); got != want {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
}

func TestRemovals(t *testing.T) {
	rules := []recipe.Rule{{Pattern: "/usr/share/doc/**"}, {Pattern: "/usr/share/doc/*/copyright", Keep: true}, {Pattern: "/usr/share/man/**"}}
	options := strings.Join(pathOptions(rules), " ")
	if want := "--dpkgopt=path-exclude=/usr/share/doc/* --dpkgopt=path-include=/usr/share/doc/*/copyright --dpkgopt=path-exclude=/usr/share/man/*"; options != want {
		t.Errorf("%q, want %q", options, want)
	}
	script := finishScript(rules)
	for _, want := range []string{"find ./usr/share/doc -type f ! -name copyright -delete", "rm -rf ./usr/share/man\n"} {
		if !strings.Contains(script, want) {
			t.Errorf("script has no %q:\n%s", want, script)
		}
	}
	if strings.Contains(script, "rm -rf ./usr/share/doc") {
		t.Error("script removes what a rule keeps")
	}
}

func TestChoose(t *testing.T) {
	b := &bench{}
	for only, want := range map[string]int{"": len(b.parts()), "tftp": 1, "build,dhcp": 2} {
		if got, err := b.choose(only); err != nil || len(got) != want {
			t.Errorf("%q chooses %d parts, %v; want %d", only, len(got), err, want)
		}
	}
	if _, err := b.choose("tftp,speed"); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("an unknown part gives %v", err)
	}
}
