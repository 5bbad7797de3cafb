package linux

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Containers returns the names of the images that the container runtime has for Kubernetes. containerd has no small client in
// Go, so its own program is asked.
func (m Machine) Containers(ctx context.Context) ([]string, error) {
	out, err := m.runtime(ctx, "images", "ls", "-q")
	if err != nil {
		return nil, err
	}
	return strings.Fields(out), nil
}

// ImportContainer gives the container runtime the images of an OCI archive.
func (m Machine) ImportContainer(ctx context.Context, archive string) error {
	_, err := m.runtime(ctx, "images", "import", archive)
	return err
}

func (m Machine) runtime(ctx context.Context, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "ctr", append([]string{"--namespace", "k8s.io"}, args...)...)
	var errs bytes.Buffer
	command.Stderr = &errs
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask the container runtime: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	return string(out), nil
}
