package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"roost/appliance/api"
)

// addCephServices asks for a file system and a gateway as an operator does, of a cluster that has neither.
func (j *Journey) addCephServices(ctx context.Context) error {
	start := time.Now()
	if err := j.changeCeph(ctx, func(c *api.Ceph) { c.Files, c.Objects = true, true }); err != nil {
		return err
	}
	if _, err := j.awaitHost(ctx, 5*time.Minute, "controller-0", ready(start, "ceph")); err != nil {
		return err
	}
	j.note("  a file system and a gateway from nothing to HEALTH_OK", since(start))
	used, err := j.hostMemory(ctx)
	if err != nil {
		return err
	}
	j.note("  memory of the host with Ceph, its file system and its gateway, proportional", fmt.Sprintf("%d MiB", used))
	state, err := j.inside(ctx, j.controller, "ceph fs status cephfs | grep -c active")
	if err != nil || state != "1" {
		return fmt.Errorf("ceph sees %s active servers of the file system: %w", state, err)
	}
	return errors.Join(j.readFigures(ctx), j.healthyCeph(ctx))
}

// readFigures asks the manager, as Prometheus does, whether Ceph is healthy.
func (j *Journey) readFigures(ctx context.Context) error {
	address, _, _ := strings.Cut(controllerAddress, "/")
	figures, err := j.client(ctx, "curl --silent --fail http://"+address+":9283/metrics")
	if err == nil && !strings.Contains(figures, "\nceph_health_status 0.0\n") {
		err = fmt.Errorf("the figures of Ceph do not say that it is healthy: %.2000s", figures)
	}
	return err
}

// client runs a shell script on this computer, in the lab's network: the stock clients are here. What it prints is returned.
func (j *Journey) client(ctx context.Context, script string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	cmd.Dir = j.path("access")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := j.lab.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", script, err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// useFiles mounts the file system through libcephfs as the user of files, who may do that and nothing else, and writes there.
func (j *Journey) useFiles(ctx context.Context) error {
	if err := j.roost(ctx, "ceph", "access", "--dir", j.path("access")); err != nil {
		return err
	}
	keyring, err := j.inside(ctx, j.controller, "ceph auth get client.files 2>/dev/null")
	if err == nil {
		err = os.WriteFile(j.path("access", "ceph.client.files.keyring"), []byte(keyring+"\n"), 0o600)
	}
	if err != nil {
		return err
	}
	const write = `
		head -c 8000000 /dev/urandom >file
		cp file mounted/file
		mkdir mounted/directory
		mv mounted/file mounted/directory/file
		sync --file-system mounted`
	return errors.Join(j.mounted(ctx, write), j.checkFiles(ctx))
}

// checkFiles mounts the file system anew and demands what was written.
func (j *Journey) checkFiles(ctx context.Context) error {
	return j.mounted(ctx, "cmp file mounted/directory/file")
}

func (j *Journey) mounted(ctx context.Context, script string) error {
	const mount = `
		mkdir -p mounted
		ceph-fuse --conf ceph.conf --keyring ceph.client.files.keyring --id files --client_mountpoint / mounted >/dev/null
		trap 'umount mounted' EXIT
		`
	_, err := j.client(ctx, mount+script)
	return err
}

// s3 is s3cmd with what the site gave the operator, certificate of the gateway checked.
const s3 = `
	. ./s3.env
	s3() { s3cmd --config /dev/null --quiet --host "${AWS_ENDPOINT_URL#https://}" --host-bucket "${AWS_ENDPOINT_URL#https://}" --ca-certs "$AWS_CA_BUNDLE" "$@"; }
	`

// useObjects puts and gets objects, small and in parts, and demands that strangers are refused.
func (j *Journey) useObjects(ctx context.Context) error {
	const put = s3 + `
		head -c 20000000 /dev/urandom >object
		s3 mb s3://judge
		s3 put object s3://judge/whole --disable-multipart
		s3 put object s3://judge/parts --multipart-chunk-size-mb 5`
	if _, err := j.client(ctx, put); err != nil {
		return err
	}
	if err := j.checkObjects(ctx); err != nil {
		return err
	}
	for what, script := range map[string]string{
		"another key":         s3 + "export AWS_SECRET_ACCESS_KEY=x; s3 ls s3://judge",
		"another certificate": s3 + "export AWS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt; s3 ls s3://judge",
		"no key":              s3 + `curl --silent --fail --cacert "$AWS_CA_BUNDLE" "$AWS_ENDPOINT_URL/judge/whole"`,
		"no TLS":              s3 + `curl --silent --fail "http://${AWS_ENDPOINT_URL#https://}/"`,
	} {
		if out, err := j.client(ctx, script); err == nil {
			return fmt.Errorf("the gateway serves who has %s: %s", what, out)
		}
	}
	return nil
}

// checkObjects gets what was put.
func (j *Journey) checkObjects(ctx context.Context) error {
	_, err := j.client(ctx, s3+`
		for name in whole parts; do
			s3 get --force s3://judge/$name got
			cmp object got
		done`)
	return err
}
