package appliance

import (
	"testing"

	"roost/appliance/api"
	"roost/appliance/linux"
)

func TestPhases(t *testing.T) {
	boot := &linux.Boot{Began: 2300, Ended: 5100}
	for name, test := range map[string]struct {
		times linux.BootTimes
		want  api.Vitals
	}{
		"all known":            {linux.BootTimes{Firmware: 9000, Loader: 2000, Userspace: 5200, Finish: 25200}, api.Vitals{Firmware: 7000, Loader: 2000, Kernel: 2300, Initrd: 2800, Userspace: 20000}},
		"still starting":       {linux.BootTimes{Firmware: 9000, Loader: 2000, Userspace: 5200}, api.Vitals{Firmware: 7000, Loader: 2000, Kernel: 2300, Initrd: 2800}},
		"firmware says less":   {linux.BootTimes{Loader: 2000, Userspace: 5200, Finish: 5300}, api.Vitals{Loader: 2000, Kernel: 2300, Initrd: 2800, Userspace: 100}},
		"systemd says nothing": {linux.BootTimes{}, api.Vitals{Kernel: 2300, Initrd: 2800}},
	} {
		got := api.Vitals{}
		if phases(&got, boot, test.times); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}
