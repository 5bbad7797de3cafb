package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"roost/test/lab"
)

func TestMain(m *testing.M) {
	if status, done := lab.Helper(os.Args); done {
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// testWriter shows the journey's progress in the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// walk has the real command walk a journey.
func walk(t *testing.T, j *Journey) {
	if os.Getenv("ROOST_TEST_VM") == "" {
		t.Skip("builds releases and boots machines: set ROOST_TEST_VM=1")
	}
	dir := t.TempDir()
	j.Roost, j.Recipes, j.Dir, j.Out = filepath.Join(dir, "roost"), "testdata", filepath.Join(dir, "journey"), testWriter{t}
	build := exec.Command("go", "build", "-o", j.Roost, "roost")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build roost: %v\n%s", err, out)
	}
	if err := os.Mkdir(j.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// soak is for walks that take long, or build what takes long the first time: Kubernetes is compiled in 20 minutes.
func soak(t *testing.T) {
	if os.Getenv("ROOST_TEST_SOAK") == "" {
		t.Skip("takes long: set ROOST_TEST_VM=1 and ROOST_TEST_SOAK=1")
	}
}

// TestJourney walks the main job with the real command, firmware, kernel and systemd.
func TestJourney(t *testing.T) {
	j := &Journey{Lab: "tjourney", Short: true, Cuts: 5}
	if os.Getenv("ROOST_TEST_SOAK") != "" {
		j.Short, j.Cuts = false, 200
	}
	walk(t, j)
}

// TestContained walks what containers can show of the main job, with the real command, root image and systemd at native
// speed.
func TestContained(t *testing.T) {
	j := &Journey{Lab: "tcontain"}
	j.walk = j.containedPhases
	walk(t, j)
}

// TestManyMachines boots as many blank machines at once from one boot server as fit in this computer's memory, with firmware
// that enforces Secure Boot, until the site knows each. ROOST_TEST_MACHINES says how many instead.
func TestManyMachines(t *testing.T) {
	soak(t)
	count, err := fleetThatFits()
	if text := os.Getenv("ROOST_TEST_MACHINES"); text != "" {
		count, err = strconv.Atoi(text)
	}
	if err != nil || count < 2 {
		t.Fatalf("cannot boot %d machines at once here: want memory for two: %v", count, err)
	}
	j := &Journey{Lab: "tfleet", blanks: count}
	j.walk = j.fleetPhases
	walk(t, j)
}

// TestRealtime installs a machine with the real-time kernel whose processors and memory the site file shares out, and has it
// measure its latency. The division is the kernel's own; the latency is that of an emulated machine where there is no KVM.
func TestRealtime(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "trt"}
	j.walk = j.realtimePhases
	walk(t, j)
}

// TestKubernetes brings Kubernetes up in a container of the lab: the shipped release, systemd, containerd and runc at native
// speed, kubectl as the judge. The kernel is the computer's, and pods have no limits of memory and processor there.
func TestKubernetes(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tkube"}
	j.walk = j.kubernetesPhases
	walk(t, j)
}

// TestCeph brings Ceph up in a container of the lab: the shipped release, systemd and Ceph at native speed on four loop
// devices, the stock clients as judges: rbd and rados in the container, ceph-fuse and s3cmd of this computer. The kernel is the computer's; encrypted disks are not shown, for it may lack dm-crypt.
func TestCeph(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tceph"}
	j.walk = j.cephPhases
	walk(t, j)
}

// TestClaims brings Kubernetes and Ceph up in a container of the lab and has claims answered with images in Ceph: the shipped
// release at native speed, csi-sanity, kubectl and rbd as judges. No pod uses a volume there: for that the kernel needs Ceph's block devices.
func TestClaims(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tclaim"}
	j.walk = j.volumesPhases
	walk(t, j)
}

// TestVolumes installs the release in a virtual machine, whose kernel is the release's own, and has a pod use a volume: it
// grows, and its data is there after the machine went down in order, and after its power went.
func TestVolumes(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tvolume", machine: true}
	j.walk = j.volumesPhases
	walk(t, j)
}

// TestKernels installs Kubernetes in a virtual machine and takes it to a release with another kernel of Debian's and back: a
// deployment, its service and its network policy answer on both, and state declared to be restored is.
func TestKernels(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tkernel", machine: true}
	j.walk = j.kernelsPhases
	walk(t, j)
}

// TestOpenStack brings OpenStack's control plane up in a container of the lab: the shipped release at native speed, the stock
// client and a browser as judges. No virtual machine starts: there is no compute host.
func TestOpenStack(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tstack"}
	j.walk = j.openstackPhases
	walk(t, j)
}

// TestOpenStackCeph brings OpenStack and Ceph up in one container of the lab: the shipped release at native speed on three loop
// devices. Images and volumes are in Ceph, as the stock clients of both say, and survive the power's going. No virtual machine
// uses a volume.
func TestOpenStackCeph(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tcloud"}
	j.walk = j.cloudCephPhases
	walk(t, j)
}

// TestCloud brings all of OpenStack up in a container of the lab, at native speed, and starts a virtual machine in it: stock
// client, a machine that tells what it got, and its screen are the judges. The machine is emulated, and Open vSwitch's daemon
// switches its packets, for the computer's kernel may have neither KVM nor that switch.
func TestCloud(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tguest"}
	j.walk = j.cloudPhases
	walk(t, j)
}

// TestCloudVolumes does the same with Ceph on the host: the virtual machine starts from a volume, which is in Ceph.
func TestCloudVolumes(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tvolumes"}
	j.walk = j.cloudVolumePhases
	walk(t, j)
}

// TestAllInOne brings the whole cloud up in one container of the lab: the shipped release at native speed on three loop devices.
// A virtual machine boots from a volume in Ceph, which QEMU reads itself; claims of pods are answered, but no pod uses one.
func TestAllInOne(t *testing.T) {
	soak(t)
	j := &Journey{Lab: "tall"}
	j.walk = j.allInOnePhases
	walk(t, j)
}
