package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/images/depot"
	"roost/test/lab"
)

// Figures that a host with Kubernetes must reach at native speed on an idle computer. The test takes twice the time: it may
// share the computer with other tests.
const (
	firstPodLimit = 20 * time.Second
	idleMemory    = 1200 // MB, of everything on the host
)

// kubernetesPhases bring Kubernetes up on one host, from its site document alone, and judge it with kubectl.
func (j *Journey) kubernetesPhases() []phase {
	return []phase{
		{"build the release kubernetes", j.buildKubernetes},
		{"make a site that wants Kubernetes, and a lab of one container", j.makeKubernetesSite},
		{"discover and install the controller", j.installKubernetes},
		{"measure it", j.measureKubernetes},
		{"a service answers by its name", j.callService},
		{"a network policy lets one client in", j.callPoliced},
		{"the control plane comes back after its power went", j.restartKubernetes},
	}
}

func (j *Journey) buildKubernetes(ctx context.Context) error {
	if err := j.prepareBuild(ctx); err != nil {
		return err
	}
	var built struct {
		Digest string `json:"digest"`
	}
	// As it is shipped, with its lock.
	if err := j.query(ctx, &built, "build", "roost:kubernetes.yaml", "--keys", j.path("keys"), "--depot", j.path("depot")); err != nil {
		return err
	}
	j.releases["1"], j.releases["k"] = built.Digest, built.Digest
	return nil
}

func (j *Journey) makeKubernetesSite(ctx context.Context) error {
	l, err := lab.Up(ctx, lab.Config{Name: j.Lab, Dir: j.path("lab")})
	if err != nil {
		return err
	}
	j.lab = l
	d, err := depot.Open(ctx, j.path("depot"), depot.Options{})
	if err != nil {
		return err
	}
	defer d.Close()
	r, err := d.Get(ctx, j.releases["k"])
	if err != nil {
		return err
	}
	root, err := l.Unpack(ctx, r)
	if err != nil {
		return err
	}
	if j.controller, err = l.Add(lab.Spec{Name: "c1", Kind: lab.Container, Root: root}); err != nil {
		return err
	}
	return j.roost(ctx, "site", "init", j.path("site"), "--name", "journey", "--address", controllerAddress, "--mac", j.controller.MAC(),
		"--pxe", "dhcp", "--range", addressRange, "--kubernetes")
}

func (j *Journey) installKubernetes(ctx context.Context) error {
	if err := j.startSeed(ctx); err != nil {
		return err
	}
	defer j.stopSeed()
	if err := j.controller.PowerOn(ctx); err != nil {
		return err
	}
	_, err := j.awaitHost(ctx, 3*time.Minute, "controller-0", hasKubernetes)
	return err
}

// hasKubernetes demands a host that serves with all of Kubernetes ready.
func hasKubernetes(h *api.Host) error {
	c := h.Component("kubernetes")
	if c == nil {
		return errors.New("it says nothing of Kubernetes")
	}
	if c.State != api.Ready {
		return fmt.Errorf("its Kubernetes is %s, step %d of %d, %s: %s", c.State, c.Done+1, c.Steps, c.Step, c.Reason)
	}
	return serving(h)
}

// measureKubernetes tells how long the bring-up took, first roostd start to first pod ready, and what memory it all takes.
func (j *Journey) measureKubernetes(ctx context.Context) error {
	const began = `date +%s%3N -d "$(systemctl show --value -p ExecMainStartTimestamp roostd.service)"`
	begin, err := j.number(ctx, began)
	if err != nil {
		return err
	}
	h, err := j.awaitHost(ctx, time.Minute, "controller-0", hasKubernetes)
	if err != nil {
		return err
	}
	took := h.Component("kubernetes").Since.Sub(time.UnixMilli(int64(begin)))
	j.note("  roostd start to the cluster's name server ready", took.Round(100*time.Millisecond).String())
	if took > 2*firstPodLimit {
		return fmt.Errorf("cannot be content: Kubernetes was ready after %s, want at most %s on an idle computer", took, firstPodLimit)
	}
	const memory = `for p in /proc/[0-9]*; do sed -n 's/^Pss: *\([0-9]*\).*/\1/p' $p/smaps_rollup 2>/dev/null || true; done | awk '{t += $1} END {print int(t/1000)}'`
	used, err := j.number(ctx, memory)
	if err != nil {
		return err
	}
	j.note("  memory of the host with Kubernetes, proportional", fmt.Sprintf("%d MB", used))
	if used > idleMemory {
		return fmt.Errorf("the host uses %d MB, more than %d MB", used, idleMemory)
	}
	return nil
}

// number runs a shell command in the container and reads the number that it prints.
func (j *Journey) number(ctx context.Context, script string) (int, error) {
	out, err := j.inside(ctx, j.controller, script)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}

// kubectl runs kubectl of the image, with access that the operator got through roost, and an object on its standard input.
func (j *Journey) kubectl(ctx context.Context, input string, args ...string) (string, error) {
	config := j.path("kubeconfig")
	if _, err := os.Stat(config); err != nil {
		if err := j.roost(ctx, "kubernetes", "kubeconfig", "--file", config); err != nil {
			return "", err
		}
	}
	access, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	cmd, err := j.controller.Command(ctx, "sh", "-ec", `umask 077; read -r access; printf '%s' "$access" >/run/judge.kubeconfig; exec kubectl --kubeconfig /run/judge.kubeconfig "$@"`, "kubectl")
	if err != nil {
		return "", err
	}
	cmd.Args = append(cmd.Args, args...)
	cmd.Stdin = strings.NewReader(strings.Join(strings.Fields(string(access)), " ") + "\n" + input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// apply gives the cluster the objects of a file of testdata.
func (j *Journey) apply(ctx context.Context, name string) error {
	text, err := os.ReadFile(filepath.Join(j.Recipes, name))
	if err != nil {
		return err
	}
	_, err = j.kubectl(ctx, string(text), "apply", "-f", "-")
	return err
}

// call has a client pod fetch a page of the web server by a name, and returns the last line of the answer.
func (j *Journey) call(ctx context.Context, client, server string) (string, error) {
	script := `exec 3<>/dev/tcp/` + server + `/80 && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 && cat <&3`
	out, err := j.kubectl(ctx, "", "exec", client, "--", "/usr/bin/timeout", "5", "/usr/bin/bash", "-c", script)
	return out[strings.LastIndex(out, "\n")+1:], err
}

func (j *Journey) callService(ctx context.Context) error {
	if err := j.apply(ctx, "workload.yaml"); err != nil {
		return err
	}
	if _, err := j.kubectl(ctx, "", "wait", "--for=condition=Available", "deployment/web", "--timeout=90s"); err != nil {
		return err
	}
	if _, err := j.kubectl(ctx, "", "wait", "--for=condition=Ready", "pods", "--all", "--timeout=90s"); err != nil {
		return err
	}
	for _, client := range []string{"friend", "stranger"} {
		for _, server := range []string{"web", "web.default.svc.cluster.local"} {
			if out, err := j.call(ctx, client, server); err != nil || out != "OK" {
				return fmt.Errorf("%s gets %q from %s: %w", client, out, server, err)
			}
		}
	}
	return nil
}

func (j *Journey) callPoliced(ctx context.Context) error {
	if err := j.apply(ctx, "policy.yaml"); err != nil {
		return err
	}
	var err error
	for range 10 { // the policy is in force within a second of it, more on a busy computer
		if _, err = j.call(ctx, "stranger", "web"); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "exit code 124") {
		return fmt.Errorf("the stranger is not held off: %w", err)
	}
	if out, err := j.call(ctx, "friend", "web"); err != nil || out != "OK" {
		return fmt.Errorf("the friend gets %q: %w", out, err)
	}
	return nil
}

// restartKubernetes pulls the plug and demands the workload and its policy back.
func (j *Journey) restartKubernetes(ctx context.Context) error {
	if err := j.controller.PowerOff(); err != nil {
		return err
	}
	start := time.Now()
	if err := j.controller.PowerOn(ctx); err != nil {
		return err
	}
	_, err := j.awaitHost(ctx, 3*time.Minute, "controller-0", func(h *api.Host) error {
		if c := h.Component("kubernetes"); c == nil || c.Since.Before(start) {
			return errors.New("it is not back")
		}
		return hasKubernetes(h)
	})
	if err != nil {
		return err
	}
	j.note("  power on to Kubernetes ready again", since(start))
	for out := ""; out != "OK"; { // the record of pods is of before, so they are called until they answer
		if out, err = j.call(ctx, "friend", "web"); time.Since(start) > 3*time.Minute {
			return fmt.Errorf("the friend gets %q: %w", out, err)
		}
	}
	if out, err := j.call(ctx, "stranger", "web"); err == nil || !strings.Contains(err.Error(), "exit code 124") {
		return fmt.Errorf("the stranger gets %q: %w", out, err)
	}
	return nil
}
