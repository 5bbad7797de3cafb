package volume

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

const mountinfo = `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
40 25 252:16 / /var/lib/kubelet/plugins/a\040b/globalmount rw,relatime shared:9 unbindable - ext4 /dev/rbd0 rw
41 25 0:5 /rbd1 /var/lib/kubelet/pods/x rw,nosuid shared:2 - devtmpfs udev rw
broken
42 25 0:x / /y rw - tmpfs tmpfs rw
43 25 0:6 / /z rw - tmpfs
`

func TestParseMounts(t *testing.T) {
	got := parseMounts(mountinfo)
	want := []mount{
		{unix.Mkdev(98, 0), "/mnt1", "/mnt2", "ext3", "/dev/root"},
		{unix.Mkdev(252, 16), "/", "/var/lib/kubelet/plugins/a b/globalmount", "ext4", "/dev/rbd0"},
		{unix.Mkdev(0, 5), "/rbd1", "/var/lib/kubelet/pods/x", "devtmpfs", "udev"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
	if !got[1].holds("/dev/rbd0", unix.Mkdev(252, 16)) || !got[2].holds("/dev/rbd1", unix.Mkdev(252, 32)) || got[2].holds("/dev/rbd0", unix.Mkdev(252, 16)) {
		t.Error("a mount shows the wrong device")
	}
}

func FuzzMounts(f *testing.F) {
	f.Add(mountinfo)
	f.Add(`1 1 0:0 / /a\ / - a b`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range parseMounts(text) {
			if m.kind == "" || m.point == "" && !strings.Contains(text, "\\") {
				t.Errorf("%+v lacks what every mount has", m)
			}
		}
	})
}

func TestParseDevices(t *testing.T) {
	got, err := parseDevices([]byte(`[{"id":"0","pool":"kubernetes","namespace":"","name":"pvc-1","snap":"-","device":"/dev/rbd0"},
		{"id":"1","pool":"kubernetes","namespace":"","name":"pvc-1","snap":"s","device":"/dev/rbd1"},
		{"id":"2","pool":"kubernetes","namespace":"other","name":"pvc-1","snap":"-","device":"/dev/rbd2"}]`))
	if err != nil || !slices.Equal(got, []mapped{{image{"kubernetes", "pvc-1"}, "/dev/rbd0"}}) {
		t.Errorf("got %+v: %v", got, err)
	}
}

// FuzzAnswers reads what rbd might print.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"name":"pvc-1","id":"10","size":1073741824,"objects":256}`))
	f.Add([]byte(`{"roost.filesystem":"ext4"}`))
	f.Add([]byte(`[{"id":"0","pool":"k","namespace":"","name":"n","snap":"-","device":"/dev/rbd0"}]`))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if size, err := parseInfo(b); err == nil && size <= 0 {
			t.Errorf("size %d", size)
		}
		if list, err := parseDevices(b); err == nil {
			for _, m := range list {
				if !strings.HasPrefix(m.device, "/dev/") {
					t.Errorf("device %q", m.device)
				}
			}
		}
		if note, err := parseNotes(b, noteKey); err == nil && note != "" && !bytes.Contains(b, []byte(":")) {
			t.Errorf("note %q", note)
		}
	})
}

func FuzzRegistered(f *testing.F) {
	f.Add([]byte{0x08, 1})
	f.Add([]byte("\x08\x00\x12\x03why"))
	f.Add([]byte("\x1a\x03new"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &registered{}
		if r.unmarshal(b) == nil && len(r.reason) > len(b) {
			t.Errorf("%q gives %q", b, r.reason)
		}
	})
}

// bytesOf sends and takes messages as they are on the wire.
type bytesOf struct{}

func (bytesOf) Name() string { return "proto" }

func (bytesOf) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}
func (bytesOf) Unmarshal(b mem.BufferSlice, v any) error {
	*v.(*[]byte) = b.Materialize()
	return nil
}

// TestRegistration is the kubelet, on the wire: it asks a socket what it is and tells how that went.
func TestRegistration(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	d := &Driver{Node: "one", Cluster: &Cluster{}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	socket := filepath.Join(dir, "plugins", Name, "csi.sock")
	l, err := net.Listen("unix", filepath.Join(dir, Name+"-reg.sock")) // as a crash leaves it
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	go func() { ended <- d.Serve(ctx, socket, dir) }()
	client, err := grpc.NewClient("unix:"+filepath.Join(dir, Name+"-reg.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesOf{}), grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var in, out []byte
	if err := client.Invoke(ctx, "/pluginregistration.Registration/GetInfo", &in, &out); err != nil {
		t.Fatal(err)
	}
	want := "\x0a\x09CSIPlugin" + "\x12\x0frbd.roost.local" + "\x1a" + string(rune(len(socket))) + socket + "\x22\x051.0.0"
	if string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
	for _, in := range [][]byte{{0x08, 1}, []byte("\x12\x03why")} {
		if err := client.Invoke(ctx, "/pluginregistration.Registration/NotifyRegistrationStatus", &in, &out); err != nil || len(out) > 0 {
			t.Errorf("got %q: %v", out, err)
		}
	}
	client.Close()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "knows the driver") || !strings.Contains(log.String(), "error=why") {
		t.Errorf("the log says %s", log.String())
	}
}
