package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"roost/test/lab"
)

// Figures that a host with Kubernetes must reach at native speed on an idle computer. The test takes twice the time: it may
// share the computer with other tests.
const (
	firstPodLimit = 20 * time.Second
	idleMemory    = 1144 // MiB, 1.2 GB, of everything on the host
)

// kubernetesPhases bring Kubernetes up on one host, from its site document alone, and judge it with kubectl.
func (j *Journey) kubernetesPhases() []phase {
	return []phase{
		{"build the release kubernetes", j.buildShipped("kubernetes")},
		{"make a site that wants Kubernetes, and a lab of one container", j.makeSingle(lab.Spec{}, "--kubernetes")},
		{"discover and install the controller", j.bringUp(3*time.Minute, "kubernetes")},
		{"measure it", j.measureKubernetes},
		{"a service answers by its name", j.callService},
		{"a network policy lets one client in", j.callPoliced},
		{"the control plane comes back after its power went", j.restartKubernetes},
	}
}

// measureKubernetes tells how long the bring-up took, first roostd start to first pod ready, and what memory it all takes.
func (j *Journey) measureKubernetes(ctx context.Context) error {
	took, err := j.sinceStart(ctx, "kubernetes")
	if err != nil {
		return err
	}
	j.note("  roostd start to the cluster's name server ready", took.String())
	if took > 2*firstPodLimit {
		return fmt.Errorf("cannot be content: Kubernetes was ready after %s, want at most %s on an idle computer", took, firstPodLimit)
	}
	used, err := j.hostMemory(ctx)
	if err != nil {
		return err
	}
	j.note("  memory of the host with Kubernetes, proportional", fmt.Sprintf("%d MiB", used))
	if used > idleMemory {
		return fmt.Errorf("the host uses %d MiB, more than %d MiB", used, idleMemory)
	}
	return nil
}

// kubeconfig returns the file with the access that the operator gets through roost.
func (j *Journey) kubeconfig(ctx context.Context) (string, error) {
	file := j.path("kubeconfig")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	return file, j.roost(ctx, "kubernetes", "kubeconfig", "--file", file)
}

// kubectl runs kubectl of the image, with access that the operator got through roost, and an object on its standard input.
func (j *Journey) kubectl(ctx context.Context, input string, args ...string) (string, error) {
	if j.machine {
		return j.remote(ctx, input, args...)
	}
	config, err := j.kubeconfig(ctx)
	if err != nil {
		return "", err
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
	limit := fmt.Sprint(j.patience(5 * time.Second).Seconds())
	out, err := j.kubectl(ctx, "", "exec", client, "--", "/usr/bin/timeout", limit, "/usr/bin/bash", "-c", script)
	return out[strings.LastIndex(out, "\n")+1:], err
}

func (j *Journey) callService(ctx context.Context) error {
	if err := j.apply(ctx, "workload.yaml"); err != nil {
		return err
	}
	limit := "--timeout=" + j.patience(90*time.Second).String()
	if _, err := j.kubectl(ctx, "", "wait", "--for=condition=Available", "deployment/web", limit); err != nil {
		return err
	}
	if _, err := j.kubectl(ctx, "", "wait", "--for=condition=Ready", "pods", "--all", limit); err != nil {
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
	start, err := j.comeBack(ctx, 3*time.Minute, "kubernetes")
	if err != nil {
		return err
	}
	j.note("  power on to Kubernetes ready again", since(start))
	return j.callAgain(ctx)
}

// callAgain demands the workload and its policy back after the host went down.
func (j *Journey) callAgain(ctx context.Context) (err error) {
	limit := time.Now().Add(j.patience(3 * time.Minute))
	for out := ""; out != "OK"; { // the record of pods is of before, so they are called until they answer
		if out, err = j.call(ctx, "friend", "web"); time.Now().After(limit) {
			return fmt.Errorf("the friend gets %q: %w", out, err)
		}
	}
	if out, err := j.call(ctx, "stranger", "web"); err == nil || !strings.Contains(err.Error(), "exit code 124") {
		return fmt.Errorf("the stranger gets %q: %w", out, err)
	}
	return nil
}
