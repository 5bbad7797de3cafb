package volume

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"roost/appliance/volume/volumetest"
)

func TestMain(m *testing.M) {
	volumetest.Become()
	os.Exit(m.Run())
}

// cluster is one whose rbd is this test program.
func cluster(t *testing.T) *Cluster {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(volumetest.Dir, t.TempDir())
	return &Cluster{Program: program, User: "kubernetes", Keyring: "/nowhere"}
}

func driver(t *testing.T) *Driver {
	t.Helper()
	return &Driver{Node: "one", Pool: "kubernetes", Cluster: cluster(t), Log: slog.New(slog.DiscardHandler)}
}

// needDevices skips where no block device can be made.
func needDevices(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make block devices and mount them")
	}
	if out, err := exec.Command("losetup", "--find").CombinedOutput(); err != nil {
		t.Skipf("needs loop devices: %v: %s", err, out)
	}
}

func writer(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}}}
}

const (
	one  = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	pod  = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	many = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
)

func raw(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
}

// TestCreate asks for volumes, well and badly, and twice.
func TestCreate(t *testing.T) {
	d := driver(t)
	long := strings.Repeat("long ", 25)
	for _, test := range []struct {
		name        string
		least, most int64
		how         *csi.VolumeCapability
		parameters  map[string]string
		id          string
		size        int64
		code        codes.Code
	}{
		{name: "pvc-1", how: writer(one), id: "kubernetes/pvc-1", size: 1 << 30},
		{name: "pvc-1", how: writer(one), id: "kubernetes/pvc-1", size: 1 << 30},
		{name: "pvc-1", least: 2 << 30, how: writer(one), code: codes.AlreadyExists},
		{name: "pvc-1", most: mib, how: writer(one), code: codes.AlreadyExists},
		{name: "pvc-2", least: mib + 1, how: writer(pod), parameters: map[string]string{"pool": "fast"}, id: "fast/pvc-2", size: 2 * mib},
		{name: "pvc-3", most: 5*mib + 7, how: raw(many), id: "kubernetes/pvc-3", size: 5 * mib},
		{name: long, how: writer(one), id: "kubernetes/name-2ba2d0b8c8d66b0e4b3d6a1d8c2f4c3e", size: 1 << 30},
		{name: "pvc-4", least: mib + 1, most: mib + 2, how: writer(one), code: codes.OutOfRange},
		{name: "pvc-4", least: -1, how: writer(one), code: codes.InvalidArgument},
		{name: "pvc-4", how: writer(one), parameters: map[string]string{"pool": "-x"}, code: codes.InvalidArgument},
		{name: "pvc-4", how: writer(one), parameters: map[string]string{"colour": "red"}, code: codes.InvalidArgument},
		{name: "pvc-4", how: writer(many), code: codes.InvalidArgument},
		{name: "pvc-4", how: &csi.VolumeCapability{}, code: codes.InvalidArgument},
		{name: "", how: writer(one), code: codes.InvalidArgument},
	} {
		got, err := d.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: test.name, VolumeCapabilities: []*csi.VolumeCapability{test.how},
			CapacityRange: &csi.CapacityRange{RequiredBytes: test.least, LimitBytes: test.most}, Parameters: test.parameters})
		if status.Code(err) != test.code {
			t.Errorf("%s: %v, want %s", test.name, err, test.code)
			continue
		}
		if id := got.GetVolume().GetVolumeId(); err == nil && (id != test.id && test.name != long || got.GetVolume().GetCapacityBytes() != test.size) {
			t.Errorf("%s: got %v, want %s of %d", test.name, got, test.id, test.size)
		}
		if i, ok := parseID(got.GetVolume().GetVolumeId()); err == nil && (!ok || len(i.name) > maxName) {
			t.Errorf("%s: id %s is not one", test.name, got.GetVolume().GetVolumeId())
		}
	}
}

// volume is one on its way through the hands of a kubelet.
type vol struct {
	t               *testing.T
	d               *Driver
	id              string
	how             *csi.VolumeCapability
	staging, target string
}

func newVolume(t *testing.T, d *Driver, how *csi.VolumeCapability) *vol {
	t.Helper()
	got, err := d.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-" + t.Name()[4:], VolumeCapabilities: []*csi.VolumeCapability{how},
		CapacityRange: &csi.CapacityRange{RequiredBytes: 16 * mib}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	v := &vol{t: t, d: d, id: got.GetVolume().GetVolumeId(), how: how, staging: filepath.Join(dir, "staging"), target: filepath.Join(dir, "pod", "volume")}
	t.Cleanup(func() { // whatever a failed test has left
		_ = Released{Cluster: d.Cluster, Log: d.Log}.Release(context.Background())
	})
	return v
}

func (v *vol) stage() error {
	_, err := v.d.NodeStageVolume(v.t.Context(), &csi.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: v.how})
	return err
}

func (v *vol) publish(target string, readOnly bool) error {
	_, err := v.d.NodePublishVolume(v.t.Context(), &csi.NodePublishVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging, TargetPath: target,
		VolumeCapability: v.how, Readonly: readOnly})
	return err
}

func (v *vol) unpublish(target string) error {
	_, err := v.d.NodeUnpublishVolume(v.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: target})
	return err
}

func (v *vol) unstage() error {
	_, err := v.d.NodeUnstageVolume(v.t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging})
	return err
}

func (v *vol) remove() error {
	_, err := v.d.DeleteVolume(v.t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.id})
	return err
}

func (v *vol) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

// TestLife takes a volume through its life, every step twice, as after a crash: the data stays, a second pod sees it, and the
// volume cannot be removed while it is in use.
func TestLife(t *testing.T) {
	needDevices(t)
	v := newVolume(t, driver(t), writer(one))
	for round := range 2 {
		for range 2 {
			v.must(v.stage())
		}
		for range 2 {
			v.must(v.publish(v.target, false))
		}
		file := filepath.Join(v.target, "file")
		if round == 0 {
			v.must(os.WriteFile(file, []byte("kept"), 0o600))
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != "kept" {
			t.Errorf("the file holds %q: %v", got, err)
		}
		v.must(v.publish(v.target+"2", true))
		if err := os.WriteFile(filepath.Join(v.target+"2", "file"), nil, 0o600); !strings.Contains(errText(err), syscall.EROFS.Error()) {
			t.Errorf("a pod that may only read wrote: %v", err)
		}
		if err := v.remove(); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a volume in use was removed: %v", err)
		}
		if err := v.unstage(); !strings.Contains(errText(err), syscall.EBUSY.Error()) { // pods still have it
			t.Errorf("a device in use was taken away: %v", err)
		}
		v.must(v.stage())
		for range 2 {
			v.must(v.unpublish(v.target))
			v.must(v.unpublish(v.target + "2"))
		}
		for range 2 {
			v.must(v.unstage())
		}
	}
	for range 2 {
		v.must(v.remove())
	}
	if err := v.stage(); status.Code(err) != codes.NotFound {
		t.Errorf("a removed volume was staged: %v", err)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestExpand makes a volume larger while a pod has it.
func TestExpand(t *testing.T) {
	needDevices(t)
	v := newVolume(t, driver(t), writer(one))
	v.must(v.stage())
	v.must(v.publish(v.target, false))
	before := v.total()
	grown, err := v.d.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 * mib}})
	if err != nil || grown.GetCapacityBytes() != 64*mib || !grown.GetNodeExpansionRequired() {
		t.Fatalf("got %v: %v", grown, err)
	}
	smaller := &csi.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: &csi.CapacityRange{RequiredBytes: 32 * mib}}
	if got, err := v.d.ControllerExpandVolume(t.Context(), smaller); err != nil || got.GetCapacityBytes() != 64*mib {
		t.Errorf("got %v: %v", got, err)
	}
	for range 2 {
		_, err := v.d.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 * mib}})
		if strings.Contains(errText(err), "Permission denied to resize") {
			t.Skip("needs CAP_SYS_RESOURCE, to make a mounted file system larger")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if after := v.total(); after < 3*before {
		t.Errorf("the file system has %d bytes after %d", after, before)
	}
}

func (v *vol) total() int64 {
	v.t.Helper()
	got, err := v.d.NodeGetVolumeStats(v.t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target})
	if err != nil || len(got.GetUsage()) != 2 {
		v.t.Fatalf("got %v: %v", got, err)
	}
	return got.GetUsage()[0].GetTotal()
}

// TestBlock gives a pod the device itself.
func TestBlock(t *testing.T) {
	needDevices(t)
	v := newVolume(t, driver(t), raw(many))
	v.must(v.stage())
	for range 2 {
		v.must(v.publish(v.target, false))
	}
	v.must(os.WriteFile(v.target, []byte("raw"), 0))
	if size, err := deviceSize(v.target); err != nil || size != 16*mib {
		t.Errorf("the device has %d bytes: %v", size, err)
	}
	v.must(v.unpublish(v.target))
	v.must(v.unstage())
}

// TestOnePod refuses a second pod where the volume is for one.
func TestOnePod(t *testing.T) {
	needDevices(t)
	v := newVolume(t, driver(t), writer(pod))
	v.must(v.stage())
	v.must(v.publish(v.target, false))
	if err := v.publish(v.target+"2", false); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v", err)
	}
	v.must(v.unpublish(v.target))
	v.must(v.publish(v.target+"2", false))
}

// TestFormat breaks off at each place of making a file system, and demands that what was never used is made again and what
// was used, or is somebody else's, is not.
func TestFormat(t *testing.T) {
	needDevices(t)
	for _, test := range []struct {
		name, note string
		content    string
		formatted  bool
	}{
		{"new", "", "", true},
		{"broken off after the mark", noteMaking, "", true},
		{"broken off in the middle", noteMaking, "half of a file system", true},
		{"made", "ext4", "whatever it has become", false},
		{"of somebody else", "", "something", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := driver(t)
			i := image{"kubernetes", "x"}
			if err := d.Cluster.create(t.Context(), i, 16*mib); err != nil {
				t.Fatal(err)
			}
			if test.note != "" {
				if err := d.Cluster.note(t.Context(), i, noteKey, test.note); err != nil {
					t.Fatal(err)
				}
			}
			device, err := d.Cluster.attach(t.Context(), i, alone)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.Cluster.detach(context.Background(), device); err != nil {
					t.Error(err)
				}
			}()
			if err := os.WriteFile(device, []byte(test.content), 0); err != nil {
				t.Fatal(err)
			}
			if err := d.Cluster.fileSystem(t.Context(), i, device, "ext4"); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(device)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := make([]byte, 2048)
			if _, err := f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			if made := b[1080] == 0x53 && b[1081] == 0xef; made != test.formatted { // ext4's magic number
				t.Errorf("formatted: %v", made)
			}
			if kept := test.content != "" && bytes.HasPrefix(b, []byte(test.content)); kept == test.formatted && test.content != "" {
				t.Errorf("content kept: %v", kept)
			}
			if note, err := d.Cluster.meta(t.Context(), i, noteKey); err != nil || (note == "ext4") != (test.formatted || test.note == "ext4") {
				t.Errorf("note %q: %v", note, err)
			}
		})
	}
}

// TestRelease gives back what pods have left, and waits for one that still holds a file.
func TestRelease(t *testing.T) {
	needDevices(t)
	v := newVolume(t, driver(t), writer(one))
	v.must(v.stage())
	v.must(v.publish(v.target, false))
	open, err := os.Create(filepath.Join(v.target, "file"))
	v.must(err)
	r := Released{Cluster: v.d.Cluster, Patience: time.Millisecond, Log: v.d.Log, Pods: t.TempDir()}
	if err := r.Release(t.Context()); err == nil {
		t.Error("released while a file was open")
	}
	v.must(open.Close())
	v.must(r.Release(t.Context()))
	if left, err := v.d.Cluster.devices(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("%v are left: %v", left, err)
	}
	list, err := mounts()
	v.must(err)
	for _, m := range list {
		if strings.HasPrefix(m.point, filepath.Dir(v.staging)) {
			t.Errorf("%s is still mounted", m.point)
		}
	}
}

// TestHeld lets one call at a time have a volume.
func TestHeld(t *testing.T) {
	d := driver(t)
	_, release, err := d.take("kubernetes/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "kubernetes/x"}); status.Code(err) != codes.Aborted {
		t.Errorf("got %v", err)
	}
	release()
	if _, err := d.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "kubernetes/x"}); err != nil {
		t.Error(err)
	}
}
