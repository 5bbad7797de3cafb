package appliance

import (
	"context"
	"sync"

	"roost/appliance/api"
	"roost/appliance/linux"
)

// vitals reads what this boot costs.
type vitals struct {
	machine linux.Machine
	boot    *linux.Boot

	mu    sync.Mutex // guards the fields below
	peak  int64
	times linux.BootTimes // kept once the boot has finished
}

// read returns what can be known now. What cannot is left out: nothing depends on it.
func (v *vitals) read(ctx context.Context) *api.Vitals {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := &api.Vitals{}
	out.Daemon, _ = v.machine.Resident()
	out.Used, _ = v.machine.MemoryUsed()
	v.peak = max(v.peak, out.Used)
	out.Peak = v.peak
	if v.times.Finish == 0 {
		if times, err := v.machine.BootTimes(ctx); err == nil {
			v.times = times
		}
	}
	phases(out, v.boot, v.times)
	return out
}

// phases fills in how long each phase of the boot took.
func phases(out *api.Vitals, boot *linux.Boot, t linux.BootTimes) {
	out.Firmware, out.Loader = max(t.Firmware-t.Loader, 0), t.Loader
	out.Kernel, out.Initrd = boot.Began, max(boot.Ended-boot.Began, 0)
	if t.Finish > 0 {
		out.Userspace = max(t.Finish-t.Userspace, 0)
	}
}
