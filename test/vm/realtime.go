package vm

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"

	"roost/test/lab"
)

// realtimePhases install a machine whose processors and memory are shared out, on its own real-time kernel, and read what it
// says of itself on its console.
func (j *Journey) realtimePhases() []phase {
	return []phase{
		{"build a release with the real-time kernel", j.buildRealtime},
		{"make a site that shares its processors and memory out, and a lab", j.makeRealtimeSite},
		{"discover and install the controller, which measures itself", j.installController},
		{"read what it found", j.readLatency},
	}
}

func (j *Journey) buildRealtime(ctx context.Context) error {
	if err := j.prepareBuild(ctx); err != nil {
		return err
	}
	return j.releaseOf(ctx, j.path("recipes", "realtime.yaml"), "1")
}

func (j *Journey) makeRealtimeSite(ctx context.Context) (err error) {
	if err := j.makeLab(ctx); err != nil {
		return err
	}
	if j.controller, err = j.lab.Add(lab.Spec{Name: "rt", CPUs: 2, Memory: 3 << 30}); err != nil {
		return err
	}
	return j.initSite(ctx, "--platform-cpus", "0", "--huge-pages", "2Mi=64")
}

// readLatency demands the division in every place where the kernel keeps it, and a measurement that ran to its end. How late
// the task woke is for people: an emulated processor proves nothing.
func (j *Journey) readLatency(context.Context) error {
	b, err := os.ReadFile(j.controller.ConsoleLog())
	if err != nil {
		return err
	}
	console := strings.ReplaceAll(string(b), "\r", "")
	for _, fact := range []struct{ what, pattern string }{
		{"a real-time kernel", `SMP PREEMPT_RT `},
		{"a kernel that says so", `/sys/kernel/realtime:1$`},
		{"two processors", `/sys/devices/system/cpu/online:0-1$`},
		{"systemd on the platform's processor", `/sys/fs/cgroup/init.scope/cpuset.cpus.effective:0$`},
		{"its process, too", `/proc/1/status:Cpus_allowed_list:\s+0$`},
		{"services on the platform's processor", `/sys/fs/cgroup/system.slice/cpuset.cpus.effective:0$`},
		{"a workload that is not bound to it", `/proc/self/status:Cpus_allowed_list:\s+0-1$`},
		{"new interrupts on it", `/proc/irq/default_smp_affinity:0*1$`},
		{"the serial line's interrupt on it", `/proc/irq/4/smp_affinity_list:0$`},
		{"the kernel's work on it", `/sys/devices/virtual/workqueue/cpumask:0*1$`},
		{"huge pages", `/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages:64$`},
		{"huge pages in the sum", `HugePages_Total:\s+64$`},
		{"vfio", `/sys/bus/pci/drivers/vfio-pci$`},
		{"2000 wake-ups on the workload's processor", `T: 0 .*I:10000 C:\s+2000 Min:`},
	} {
		line := regexp.MustCompile(`(?m)^.*` + fact.pattern + `.*$`).FindString(console)
		if line == "" {
			return fmt.Errorf("the console does not tell of %s: want %s", fact.what, fact.pattern)
		}
		fmt.Fprintf(j.Out, "      %s\n", line)
	}
	report := regexp.MustCompile(`Min:\s*(\d+) Act:\s*\d+ Avg:\s*(\d+) Max:\s*(\d+)`).FindStringSubmatch(console)
	if report == nil {
		return fmt.Errorf("cyclictest reported no latency")
	}
	j.note("  cyclictest on the workload's processor: least, average, worst wake-up latency", strings.Join(report[1:], ", ")+" µs")
	bound := len(regexp.MustCompile(`(?m)/proc/irq/\d+/smp_affinity_list:0$`).FindAllString(console, -1))
	all := len(regexp.MustCompile(`(?m)/proc/irq/\d+/smp_affinity_list:`).FindAllString(console, -1))
	j.note("  interrupts bound to the platform's processor", fmt.Sprintf("%d of %d", bound, all))
	return nil
}
