package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The OCI runtime of a release's container engine, and where it lies while the lab's own stands in its place.
const (
	runtimePath = "usr/sbin/runc"
	runtimeReal = "run/roost/lab/runc"
)

// coverRuntime puts this program in the place of runc, where the release has one. A container of the lab has no controllers
// of processor, memory and processes where the computer uses them in older hierarchies, and may not raise its own limits;
// runc fails where it is asked for one of them, and who asks (the kubelet) cannot be told not to. So the pods of a container
// run without those limits. Everything else is as asked.
func (g *guest) coverRuntime() error {
	if !exists(g.in(runtimePath)) {
		return nil
	}
	self, err := os.Executable()
	if err == nil {
		err = os.MkdirAll(filepath.Dir(g.in(runtimeReal)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(g.in(runtimeReal), nil, 0o755)
	}
	if err == nil {
		err = unix.Mount(g.in(runtimePath), g.in(runtimeReal), "", unix.MS_BIND, "")
	}
	if err == nil {
		err = unix.Mount(self, g.in(runtimePath), "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("cannot stand in for runc: %v", err)
	}
	return nil
}

// isRuntime reports whether this process was called as the container's runc.
func isRuntime(args []string) bool {
	return filepath.Base(args[0]) == "runc" && exists("/"+runtimeReal)
}

// runRuntime becomes the real runc, after it took from the bundle of a new container what cannot be had.
func runRuntime(args []string) error {
	if bundle := bundleOf(args); bundle != "" {
		if err := relieve(filepath.Join(bundle, "config.json")); err != nil {
			return err
		}
	}
	err := unix.Exec("/"+runtimeReal, append([]string{"runc"}, args[1:]...), os.Environ())
	return fmt.Errorf("cannot start runc: %v", err)
}

// bundleOf finds the bundle of "runc … create|run --bundle DIR …"; empty for other commands.
func bundleOf(args []string) string {
	if !slices.Contains(args, "create") && !slices.Contains(args, "run") {
		return ""
	}
	for i, arg := range args {
		if (arg == "--bundle" || arg == "-b") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return "."
}

// relieve rewrites a container's configuration.
func relieve(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read container: %v", err)
	}
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("cannot see controllers: %v", err)
	}
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return fmt.Errorf("cannot see the score: %v", err)
	}
	least, err := strconv.Atoi(strings.TrimSpace(string(score)))
	if err != nil {
		return fmt.Errorf("cannot see the score: %v", err)
	}
	if b, err = without(b, strings.Fields(string(controllers)), least); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// without returns a configuration (OCI runtime specification, config.json) without the limits of controllers that are not
// among those given, without limits on resources, and with a score by which the kernel kills that is not below least.
func without(config []byte, controllers []string, least int) ([]byte, error) {
	spec := map[string]any{}
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, errors.Join(errors.New("cannot read container"), err)
	}
	linux, _ := spec["linux"].(map[string]any)
	resources, _ := linux["resources"].(map[string]any)
	for resource, controller := range map[string]string{"cpu": "cpu", "memory": "memory", "pids": "pids", "blockIO": "io", "hugepageLimits": "hugetlb"} {
		if !slices.Contains(controllers, controller) {
			delete(resources, resource)
		}
	}
	delete(resources, "unified")
	if process, ok := spec["process"].(map[string]any); ok {
		delete(process, "rlimits")
		if wanted, ok := process["oomScoreAdj"].(float64); ok && int(wanted) < least {
			process["oomScoreAdj"] = least
		}
	}
	return json.Marshal(spec)
}
