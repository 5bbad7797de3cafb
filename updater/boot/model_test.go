package boot_test

import (
	"testing"

	"roost/updater/boot"
)

func offer(file, version string) boot.Image {
	return boot.Image{File: file, SortKey: "roost-edge", Version: version, Listed: true}
}

// TestOrder holds what systemd-boot 257 does with names and versions, case by case.
func TestOrder(t *testing.T) {
	for _, test := range []struct {
		name   string
		images []boot.Image
		want   string // chosen file
	}{
		{"newest", []boot.Image{offer("edge_1.efi", "1"), offer("edge_2.efi", "2")}, "edge_2.efi"},
		{"newest by number", []boot.Image{offer("edge_9.efi", "9"), offer("edge_10.efi", "10")}, "edge_10.efi"},
		{"release before its candidate", []boot.Image{offer("edge_2~rc1.efi", "2~rc1"), offer("edge_2.efi", "2")}, "edge_2.efi"},
		{"trial", []boot.Image{offer("edge_1.efi", "1"), offer("edge_2+2-0.efi", "2")}, "edge_2+2-0.efi"},
		{"older on trial loses", []boot.Image{offer("edge_2.efi", "2"), offer("edge_1+2-0.efi", "1")}, "edge_2.efi"},
		{"older on trial beats demoted", []boot.Image{offer("edge_2+0-0.efi", "2"), offer("edge_1+2-0.efi", "1")}, "edge_1+2-0.efi"},
		{"bad is last", []boot.Image{offer("edge_1.efi", "1"), offer("edge_2+0-2.efi", "2")}, "edge_1.efi"},
		{"bad is better than nothing", []boot.Image{offer("edge_2+0-2.efi", "2")}, "edge_2+0-2.efi"},
		{"among bad the newest", []boot.Image{offer("edge_1+0-2.efi", "1"), offer("edge_2+0-0.efi", "2")}, "edge_2+0-0.efi"},
		{"of good and counted the first", []boot.Image{offer("edge_2.efi", "2"), offer("edge_2+1-1.efi", "2")}, "edge_2.efi"},
		{"of counted and good the first", []boot.Image{offer("edge_2+1-1.efi", "2"), offer("edge_2.efi", "2")}, "edge_2+1-1.efi"},
		{"more tries left first", []boot.Image{offer("edge_2+1-1.efi", "2"), offer("edge_2+2-0.efi", "2")}, "edge_2+2-0.efi"},
		{"another build of one version", []boot.Image{offer("edge_2.efi", "2"), offer("edge_2_rab12cd34+2-0.efi", "2")}, "edge_2_rab12cd34+2-0.efi"},
		{"bad build of one version", []boot.Image{offer("edge_2+0-0.efi", "2"), offer("edge_2_r12ab34cd+0-2.efi", "2")}, "edge_2_r12ab34cd+0-2.efi"},
		{"empty file is not offered", []boot.Image{offer("edge_1.efi", "1"), {File: "edge_2.efi"}}, "edge_1.efi"},
		{"other files", []boot.Image{offer("edge_1.efi", "1"), offer("edge_2.new", "2"), offer(".edge_3.efi", "3")}, "edge_1.efi"},
		{"sort key before version", []boot.Image{offer("edge_9.efi", "9"), {File: "a.efi", SortKey: "roost-a", Version: "1", Listed: true}}, "a.efi"},
	} {
		t.Run(test.name, func(t *testing.T) {
			order := boot.Model{Images: test.images}.Order()
			if order[0].File != test.want {
				t.Errorf("chose %s, want %s", order[0].File, test.want)
			}
		})
	}
}

func TestAttemptCounts(t *testing.T) {
	m := boot.Model{Images: []boot.Image{offer("edge_1.efi", "1"), offer("edge_2+2-0.efi", "2")}}
	for _, want := range []string{"edge_2+1-1.efi", "edge_2+0-2.efi", "edge_1.efi", "edge_1.efi"} {
		var chosen boot.Image
		var ok bool
		if chosen, m, ok = m.Attempt(); !ok || chosen.File != want {
			t.Fatalf("chose %q, want %q", chosen.File, want)
		}
	}
}

// TestAttemptBlocked: a file of the next name is in the way, so the loader's rename fails and no try is spent.
func TestAttemptBlocked(t *testing.T) {
	m := boot.Model{Images: []boot.Image{offer("edge_2+2-0.efi", "2"), offer("EDGE_2+1-1.efi", "2")}}
	chosen, after, _ := m.Attempt()
	if chosen.File != "edge_2+2-0.efi" || after.Images[0].File != "edge_2+2-0.efi" {
		t.Errorf("chose %s, left %s", chosen.File, after.Images[0].File)
	}
}

func TestPowerOn(t *testing.T) {
	machine := []boot.Image{offer("edge_1.efi", "1"), offer("edge_2+2-0.efi", "2")}
	for _, test := range []struct {
		name    string
		second  boot.Outcome
		options int
		want    string
	}{
		{"good", boot.Up, 1, "edge_2+1-1.efi"},
		{"panics", boot.Reset, 1, "edge_1.efi"},
		{"refused, options enough", boot.Refused, 3, "edge_1.efi"},
		{"refused, firmware gives up", boot.Refused, 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			up, _, ok := boot.Model{Images: machine, Options: test.options}.PowerOn(10, func(i boot.Image) boot.Outcome {
				if i.Version == "2" {
					return test.second
				}
				return boot.Up
			})
			if up.File != test.want || ok != (test.want != "") {
				t.Errorf("came up on %q, %t; want %q", up.File, ok, test.want)
			}
		})
	}
}
