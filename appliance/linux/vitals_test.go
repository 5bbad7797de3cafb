package linux

import "testing"

func TestVitals(t *testing.T) {
	m := tree(t, map[string]string{
		"proc/self/status": "Name:\troostd\nVmHWM:\t   90000 kB\nVmRSS:\t   42000 kB\n",
		"proc/meminfo":     "MemTotal:        2000000 kB\nMemFree:          100000 kB\nMemAvailable:    1500000 kB\nHugePages_Total:       0\n",
	})
	if n, err := m.Resident(); n != 42000<<10 || err != nil {
		t.Errorf("resident %d, %v", n, err)
	}
	if n, err := m.MemoryUsed(); n != 500000<<10 || err != nil {
		t.Errorf("used %d, %v", n, err)
	}
	if _, err := tree(t, map[string]string{"proc/meminfo": "MemTotal: x kB\n"}).MemoryUsed(); err == nil {
		t.Error("nonsense is taken for a number")
	}
	if _, err := tree(t, map[string]string{"proc/self/status": "Name: x\n"}).Resident(); err == nil {
		t.Error("what is not told is taken for a number")
	}
	for value, want := range map[string]int64{"@t 14751468872": 14751468872, "7": 7} {
		if n, err := microseconds(value); n != want || err != nil {
			t.Errorf("%q is %d, %v", value, n, err)
		}
	}
}
