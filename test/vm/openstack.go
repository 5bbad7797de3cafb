package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"roost/test/lab"
)

// Figures that a host with OpenStack's control plane must reach at native speed on an idle computer. They are reported, not
// demanded: the computer is rarely idle.
const (
	apisBackTarget   = "target 25 s"
	openstackTarget  = "target 1536 MiB"
	openstackPatient = 15 * time.Minute
)

// openstackPhases bring the control plane of OpenStack up on one host, from its site document alone, and judge it with the
// stock client.
func (j *Journey) openstackPhases() []phase {
	return []phase{
		{"build the release openstack-controller", j.buildShipped("openstack-controller")},
		{"make a site that wants OpenStack, and a lab of one container", j.makeSingle(lab.Spec{}, "--openstack")},
		{"discover and install the controller", j.bringUp(openstackPatient, "openstack-controller")},
		{"measure it", j.measureOpenStack},
		{"the operator makes a project, a flavor, a network and an image", j.useOpenStack},
		{"the operator makes a network in a browser", j.openDashboard},
		{"what the site document wants is in the cloud, and changes with it", j.wishCloud},
		{"a volume has nowhere to be, and cinder says so", j.refuseVolume},
		{"all is back after its power went", j.restartOpenStack},
	}
}

func (j *Journey) measureOpenStack(ctx context.Context) error {
	took, err := j.sinceStart(ctx, "openstack-controller")
	if err != nil {
		return err
	}
	j.note("  roostd start to the whole control plane, from nothing", took.String())
	used, err := j.hostMemory(ctx)
	if err != nil {
		return err
	}
	j.note("  memory of the host with OpenStack, proportional ("+openstackTarget+" without the host)", fmt.Sprintf("%d MiB", used))
	return nil
}

// openstack runs the stock client of the image, with access that the operator got through roost, and reads what it answers
// into to, which may be nil.
func (j *Journey) openstack(ctx context.Context, to any, args ...string) error {
	if to != nil {
		args = append(args, "-f", "json")
	}
	out, err := j.openstackText(ctx, args...)
	if err == nil && to != nil {
		err = json.Unmarshal([]byte(out), to)
	}
	return err
}

// openstackText is the same for what is no record.
func (j *Journey) openstackText(ctx context.Context, args ...string) (string, error) {
	if _, err := os.Stat(j.path("cloud")); err != nil {
		if err := j.roost(ctx, "openstack", "credentials", j.path("cloud")); err != nil {
			return "", err
		}
		for _, name := range []string{"clouds.yaml", "ca.crt"} {
			b, err := os.ReadFile(j.path("cloud", name))
			if err != nil {
				return "", err
			}
			text := strings.ReplaceAll(string(b), j.path("cloud", "ca.crt"), judge+"/ca.crt")
			if err := j.giveJudge(ctx, name, text); err != nil {
				return "", err
			}
		}
	}
	cmd, err := j.controller.Command(ctx, "sh", "-ec", "cd "+judge+`; OS_CLOUD=journey exec openstack "$@"`, "openstack")
	if err != nil {
		return "", err
	}
	cmd.Args = append(cmd.Args, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("openstack %s: %w: %s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), nil
}

func (j *Journey) useOpenStack(ctx context.Context) error {
	var services []struct{ Name, Type string }
	if err := j.openstack(ctx, &services, "service", "list"); err != nil {
		return err
	}
	kinds := map[string]bool{}
	for _, s := range services {
		kinds[s.Type] = true
	}
	for _, kind := range []string{"identity", "placement", "image", "compute", "network"} {
		if !kinds[kind] {
			return fmt.Errorf("the catalogue has no %s: %v", kind, services)
		}
	}
	if _, err := j.inside(ctx, j.controller, "head -c 5000000 /dev/urandom >/run/judge/image"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"project", "create", "judge"},
		{"flavor", "create", "judge", "--ram", "256", "--disk", "1", "--vcpus", "1"},
		{"network", "create", "judge"},
		{"subnet", "create", "judge", "--network", "judge", "--subnet-range", "192.168.7.0/24"},
		{"image", "create", "judge", "--disk-format", "raw", "--container-format", "bare", "--file", "/run/judge/image"},
	} {
		if err := j.openstack(ctx, nil, args...); err != nil {
			return err
		}
	}
	return j.checkOpenStack(ctx)
}

// checkOpenStack demands what the operator made.
func (j *Journey) checkOpenStack(ctx context.Context) error {
	var image struct {
		Status   string `json:"status"`
		Size     int    `json:"size"`
		Checksum string `json:"checksum"`
	}
	if err := j.openstack(ctx, &image, "image", "show", "judge"); err != nil {
		return err
	}
	if image.Status != "active" || image.Size != 5000000 {
		return fmt.Errorf("the image is %+v", image)
	}
	for _, noun := range []string{"project", "flavor", "network", "subnet"} {
		if err := j.openstack(ctx, nil, noun, "show", "judge"); err != nil {
			return err
		}
	}
	return nil
}

// restartOpenStack pulls the plug and demands all back.
func (j *Journey) restartOpenStack(ctx context.Context) error {
	if err := j.controller.PowerOff(); err != nil {
		return err
	}
	start, err := j.comeBack(ctx, openstackPatient, "openstack-controller")
	if err != nil {
		return err
	}
	j.note("  power on to the whole control plane ready again ("+apisBackTarget+")", since(start))
	if err := j.forgetCloud(); err != nil {
		return err
	}
	return j.checkOpenStack(ctx)
}

// forgetCloud has the stock client be given access again: what the container had of it went with its power.
func (j *Journey) forgetCloud() error { return os.RemoveAll(j.path("cloud")) }
