package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"roost/images"
	"roost/images/depot"
	"roost/images/uki"
	"roost/test/lab"
)

// activeTarget is a figure of an idle computer; it is reported, not demanded.
const activeTarget = "target 180 s"

// cloudPhases bring all of OpenStack up on one host, and judge it with the stock client and a virtual machine that says what
// it got. That is the release's own kernel with an init of ours.
func (j *Journey) cloudPhases() []phase {
	return []phase{
		{"build a release with OpenStack's control plane and its virtual machines", j.buildTest("cloud")},
		{"make a site that wants OpenStack, and a lab of one container", j.makeSingle(lab.Spec{}, "--openstack", "--personality", "all-in-one")},
		{"discover and install the controller", j.bringUp(openstackPatient, cloudComponents()...)},
		{"measure it", j.measureCloud},
		{"a virtual machine starts", j.startGuest("first")},
		{"it has an address and its name, and is reached", j.reachGuest("first", 1)},
		{"its screen is seen", j.seeScreen},
		{"all is back after its power went, the virtual machine too", j.restartCloud("first")},
	}
}

// cloudVolumePhases do the same with a virtual machine whose disk is a volume in Ceph on the same host.
func (j *Journey) cloudVolumePhases() []phase {
	const disk = 10 << 30 // sparse
	return []phase{
		{"build a release with all of OpenStack and Ceph", j.buildTest("cloud-ceph")},
		{"make a site that wants both, and a lab of one container with three disks",
			j.makeSingle(lab.Spec{Disks: []int64{disk, disk, disk}}, "--openstack", "--personality", "all-in-one", "--ceph", j.disk(1), "--ceph", j.disk(2), "--ceph", j.disk(3))},
		{"discover and install the controller", j.bringUp(openstackPatient, append(cloudComponents(), "ceph")...)},
		{"measure it", j.measureCloud},
		{"a virtual machine starts from a volume", j.startGuest("stored", "--boot-from-volume", "1")},
		{"it has an address and its name, and is reached", j.reachGuest("stored", 1)},
		{"its volume is in Ceph", j.seeVolume},
		{"all is back after its power went, the virtual machine too", j.restartCloud("stored")},
	}
}

func cloudComponents() []string { return []string{"openstack-controller", "openstack-compute"} }

// buildTest builds a recipe of the tests to be release 1.
func (j *Journey) buildTest(recipe string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := j.prepareBuild(ctx); err != nil {
			return err
		}
		return j.releaseOf(ctx, j.path("recipes", recipe+".yaml"), "1")
	}
}

// makeGuest makes kernel and initrd of the virtual machine: those of the release, with an init that is ours.
func (j *Journey) makeGuest(ctx context.Context) (kernel, initrd []byte, err error) {
	d, err := depot.Open(ctx, j.path("depot"), depot.Options{})
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	r, err := d.Get(ctx, j.releases["1"])
	if err != nil {
		return nil, nil, err
	}
	content, _, err := r.Content(ctx, images.KindUKI)
	if err != nil {
		return nil, nil, err
	}
	defer content.Close()
	file, err := io.ReadAll(content)
	if err != nil {
		return nil, nil, err
	}
	image, err := uki.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, nil, err
	}
	if kernel, err = io.ReadAll(image.Kernel()); err != nil {
		return nil, nil, err
	}
	if initrd, err = io.ReadAll(image.Initrd()); err != nil {
		return nil, nil, err
	}
	program := j.path("guest")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "roost/test/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("cannot build the guest: %w: %s", err, out)
	}
	init, err := os.ReadFile(filepath.Clean(program))
	if err != nil {
		return nil, nil, err
	}
	return kernel, appendInit(initrd, init), nil
}

// appendInit adds an archive with /init behind those of an initrd; what comes last counts (kernel:
// Documentation/driver-api/early-userspace/buffer-format.rst).
func appendInit(initrd, program []byte) []byte {
	out := bytes.NewBuffer(bytes.Clone(initrd))
	pad := func() { out.Write(make([]byte, -out.Len()&3)) }
	entry := func(name string, mode int, content []byte) {
		pad()
		fmt.Fprintf(out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", 0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		pad()
		out.Write(content)
	}
	entry("init", 0o100755, program)
	entry("TRAILER!!!", 0, nil)
	pad()
	return out.Bytes()
}

func (j *Journey) measureCloud(ctx context.Context) error {
	for _, name := range cloudComponents() {
		took, err := j.sinceStart(ctx, name)
		if err != nil {
			return err
		}
		j.note("  roostd start to "+name+" ready, from nothing", took.String())
	}
	used, err := j.hostMemory(ctx)
	if err != nil {
		return err
	}
	j.note("  memory of the host, proportional, before any virtual machine", fmt.Sprintf("%d MiB", used))
	return nil
}

// prepareGuest gives the cloud what a virtual machine needs.
func (j *Journey) prepareGuest(ctx context.Context) error {
	kernel, initrd, err := j.makeGuest(ctx)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"kernel": kernel, "initrd": initrd, "disk": make([]byte, 1<<20)} {
		if err := j.giveJudge(ctx, name, string(content)); err != nil {
			return err
		}
	}
	var parts [2]struct{ ID string }
	for i, kind := range [][2]string{{"kernel", "aki"}, {"initrd", "ari"}} {
		if err := j.openstack(ctx, &parts[i], "image", "create", kind[0], "--disk-format", kind[1], "--container-format", kind[1], "--file", judge+"/"+kind[0]); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"image", "create", "guest", "--disk-format", "raw", "--container-format", "bare", "--file", judge + "/disk",
			"--property", "kernel_id=" + parts[0].ID, "--property", "ramdisk_id=" + parts[1].ID, "--property", "os_command_line=console=ttyS0 panic=-1"},
		{"network", "create", "inner"},
		{"subnet", "create", "inner", "--network", "inner", "--subnet-range", "192.168.7.0/24"},
		{"security", "group", "create", "web"},
		{"security", "group", "rule", "create", "web", "--protocol", "tcp", "--dst-port", "80"},
	} {
		if err := j.openstack(ctx, nil, args...); err != nil {
			return err
		}
	}
	return nil
}

// startGuest starts the site's first virtual machine.
func (j *Journey) startGuest(name string, more ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := j.prepareGuest(ctx); err != nil {
			return err
		}
		args := append([]string{"server", "create", name, "--flavor", "tiny", "--image", "guest", "--network", "inner", "--security-group", "web", "--wait"}, more...)
		if err := j.openstack(ctx, nil, args...); err != nil {
			return err
		}
		return j.noteActive(ctx, name)
	}
}

// noteActive demands a virtual machine that runs, and tells since when.
func (j *Journey) noteActive(ctx context.Context, name string) error {
	var server struct {
		Status   string `json:"status"`
		Launched string `json:"OS-SRV-USG:launched_at"` // UTC
	}
	if err := j.openstack(ctx, &server, "server", "show", name); err != nil {
		return err
	}
	if server.Status != "ACTIVE" {
		return fmt.Errorf("the virtual machine is %s", server.Status)
	}
	launched, err := time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(server.Launched, ".000000"))
	if err != nil {
		return err
	}
	begin, err := j.number(ctx, `date +%s -d "$(systemctl show --value -p ExecMainStartTimestamp roostd.service)"`)
	if err != nil {
		return err
	}
	j.note("  roostd start on an empty site to the first virtual machine active ("+activeTarget+")", launched.Sub(time.Unix(int64(begin), 0)).String())
	return nil
}

// reachGuest demands of the virtual machine that it says on its console who it is, and says the same over the network, from
// where the metadata service is in it: what a host without a physical network has in it itself.
func (j *Journey) reachGuest(name string, start int) func(context.Context) error {
	return func(ctx context.Context) error {
		begin := time.Now()
		says, err := j.heardGuest(ctx, name, start)
		if err != nil {
			return err
		}
		j.note(fmt.Sprintf("  until it speaks on its console, start %d", start), since(begin))
		var network struct{ ID string }
		if err := j.openstack(ctx, &network, "network", "show", "inner"); err != nil {
			return err
		}
		_, address, _ := strings.Cut(says, " at ")
		address, _, _ = strings.Cut(address, ",")
		const get = `import sys, urllib.request; print(urllib.request.urlopen("http://" + sys.argv[1] + "/", timeout=30).read().decode().strip())`
		out, err := j.inside(ctx, j.controller, fmt.Sprintf("ip netns exec ovnmeta-%s python3 -c '%s' %s", network.ID, get, address))
		if err == nil && out != says {
			err = fmt.Errorf("over the network it says %q, on its console %q", out, says)
		}
		return err
	}
}

// heardGuest waits until the virtual machine says on its console who it is.
func (j *Journey) heardGuest(ctx context.Context, name string, start int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		log, err := j.openstackText(ctx, "console", "log", "show", name)
		if err == nil {
			_, says, found := strings.Cut(log, "guest: I am ")
			says, _, _ = strings.Cut(says, "\n")
			says = strings.TrimSpace(says)
			if found && strings.HasPrefix(says, name+" at 192.168.7.") && strings.HasSuffix(says, fmt.Sprintf(", start %d", start)) {
				return says, nil
			}
			err = fmt.Errorf("it does not say who it is; the end of its console is %q", log[max(0, len(log)-2000):])
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), err)
		case <-time.After(time.Second):
		}
	}
}

// screenVisit opens a console by the address that nova gives for it, and reads what a screen says first (RFC 6143, section
// 7.1.1), over a WebSocket (RFC 6455).
const screenVisit = `
import base64, os, socket, ssl, sys, urllib.parse, urllib.request
page = urllib.parse.urlsplit(sys.argv[1])
trust = ssl.create_default_context(cafile="/run/judge/ca.crt")
assert b"noVNC" in urllib.request.urlopen(sys.argv[1], context=trust).read(), "no noVNC"
path = urllib.parse.unquote(urllib.parse.parse_qs(page.query)["path"][0])
s = trust.wrap_socket(socket.create_connection((page.hostname, page.port), 30), server_hostname=page.hostname)
s.sendall(("GET /%s HTTP/1.1\r\nHost: %s\r\nOrigin: https://%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\nSec-WebSocket-Key: %s\r\n\r\n"
    % (path.lstrip("/"), page.netloc, page.netloc, base64.b64encode(os.urandom(16)).decode())).encode())
said = b""
while b"RFB 003." not in said:
    more = s.recv(4096)
    assert more, said
    said += more
`

func (j *Journey) seeScreen(ctx context.Context) error {
	var console struct{ URL string }
	if err := j.openstack(ctx, &console, "console", "url", "show", "--novnc", "first"); err != nil {
		return err
	}
	cmd, err := j.controller.Command(ctx, "python3", "-c", screenVisit, console.URL)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("no screen at %s: %w: %s", console.URL, err, out)
	}
	return nil
}

// seeVolume demands that what the virtual machine wrote to its disk is at the head of an image in Ceph: how often it started.
func (j *Journey) seeVolume(ctx context.Context) error {
	out, err := j.inside(ctx, j.controller, `for v in $(rbd ls cinder); do rbd export --no-progress cinder/$v - | head -c 8 | od -An -tu8 --endian=big; done`)
	if err == nil && out != "1" {
		err = fmt.Errorf("volumes in Ceph begin with %q, want one with the first start", out)
	}
	return err
}

// restartCloud pulls the plug and demands all back: the virtual machine with its disk, which counts its starts.
func (j *Journey) restartCloud(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := j.controller.PowerOff(); err != nil {
			return err
		}
		start, err := j.comeBack(ctx, openstackPatient, cloudComponents()...)
		if err != nil {
			return err
		}
		j.note("  power on to control plane and virtual machines ready again ("+apisBackTarget+")", since(start))
		if err := os.RemoveAll(j.path("cloud")); err != nil { // what the container had of it is gone
			return err
		}
		return j.reachGuest(name, 2)(ctx)
	}
}
