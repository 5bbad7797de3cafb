package api

import (
	"strings"
	"testing"
)

func TestCeph(t *testing.T) {
	disks := func(paths ...string) (list []CephDisk) {
		for _, path := range paths {
			list = append(list, CephDisk{Path: path})
		}
		return list
	}
	three := disks("/dev/disk/by-id/ata-X_1", "/dev/disk/by-id/nvme-eui.2", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1")
	for name, test := range map[string]struct {
		wish Ceph
		says string // empty: it is good
	}{
		"three disks":                 {Ceph{Disks: three}, ""},
		"one disk":                    {Ceph{Disks: disks("/dev/sdb")}, "cannot keep 3 copies in Ceph on 1 disks: name more disks, or say copies: 1"},
		"one disk, one copy":          {Ceph{Disks: disks("/dev/sdb"), Copies: 1}, ""},
		"no disk":                     {Ceph{}, "on 0 disks"},
		"two disks and one gone":      {Ceph{Disks: append(disks("/dev/sdb", "/dev/sdc"), CephDisk{Path: "/dev/sdd", Gone: true})}, "on 2 disks"},
		"twelve copies":               {Ceph{Disks: three, Copies: 12}, "12 copies"},
		"less than none":              {Ceph{Disks: three, Copies: -1}, "-1 copies"},
		"networks":                    {Ceph{Disks: three, Network: "10.77.0.0/24", Cluster: "fd00::/64"}, ""},
		"an address":                  {Ceph{Disks: three, Network: "10.77.0.1/24"}, "network"},
		"a word":                      {Ceph{Disks: three, Cluster: "storage"}, "network"},
		"twice":                       {Ceph{Disks: disks("/dev/sdb", "/dev/sdc", "/dev/sdb")}, "named twice"},
		"twice, once for one host":    {Ceph{Disks: append(disks("/dev/sdb", "/dev/sdc"), CephDisk{Path: "/dev/sdb", Host: "a"})}, "named twice"},
		"the same on three hosts":     {Ceph{Disks: []CephDisk{{Path: "/dev/sdb", Host: "a"}, {Path: "/dev/sdb", Host: "b"}, {Path: "/dev/sdb", Host: "c"}}}, ""},
		"no name of a host":           {Ceph{Disks: []CephDisk{{Path: "/dev/sdb", Host: "A B"}}, Copies: 1}, "not the name of a host"},
		"a file":                      {Ceph{Disks: disks("/etc/passwd"), Copies: 1}, "path of a device"},
		"a way around":                {Ceph{Disks: disks("/dev/../etc/passwd"), Copies: 1}, "path of a device"},
		"a second line":               {Ceph{Disks: disks("/dev/sdb\nExecStart=/bin/sh"), Copies: 1}, "path of a device"},
		"a second word":               {Ceph{Disks: disks("/dev/sdb x"), Copies: 1}, "path of a device"},
		"a specifier of systemd":      {Ceph{Disks: disks("/dev/%H"), Copies: 1}, "path of a device"},
		"gone and to be wiped":        {Ceph{Disks: []CephDisk{{Path: "/dev/sdb", Gone: true, Wipe: true}}, Copies: 1}, "gone, and to be wiped"},
		"pools":                       {Ceph{Disks: three, Pools: []string{"volumes", "vms-2", "images_3"}}, ""},
		"a pool twice":                {Ceph{Disks: three, Pools: []string{"a", "a"}}, "named twice"},
		"a pool that is an option":    {Ceph{Disks: three, Pools: []string{"--force"}}, "pool"},
		"a pool with other rights":    {Ceph{Disks: three, Pools: []string{"a, allow *"}}, "pool"},
		"a pool without a name":       {Ceph{Disks: three, Pools: []string{""}}, "pool"},
		"a pool with a name too long": {Ceph{Disks: three, Pools: []string{strings.Repeat("a", 64)}}, "pool"},
	} {
		err := test.wish.Validate()
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says) || !Invalid.In(err)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := (Ceph{Disks: []CephDisk{{Path: "/dev/a"}, {Path: "/dev/b", Host: "x"}, {Path: "/dev/c", Host: "y"}}}).On("x"); len(got) != 2 || got[1].Path != "/dev/b" {
		t.Errorf("on x: %v", got)
	}
}
