package powercut_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/images"
	"roost/images/disk"
	"roost/images/disk/esp"
	"roost/test/lab"
	"roost/test/powercut"
	"roost/updater/boot"
)

// TestCutLoader records a machine of the lab while its loader counts a version down that crashes, and cuts the power at
// every moment of it. The version that works must come up from what is left, and the whole record must give the disk.
func TestCutLoader(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") != "1" {
		t.Skip("boots a virtual machine: set ROOST_TEST_VM=1")
	}
	loader, err := os.ReadFile(loaderPath())
	if err != nil {
		t.Fatalf("%v: install systemd-boot-efi or set ROOST_LOADER", err)
	}
	programs := []program{{file: "edge_1.efi", version: "1", port: com1}, {file: "edge_2+2-0.efi", version: "2", port: com1, outcome: boot.Reset}}
	recording, partition, after := recordLoader(t, loader, programs)
	log, base := openRecording(t, recording)
	digests := map[images.Digest]program{}
	for n, p := range programs {
		digests[images.DigestOf(pe(n, p))] = p
	}
	r := &powercut.Rebuilder{Log: log, Base: base, Size: int64(len(after))}
	states := 0
	for s := range log.States(50) {
		states++
		model := boot.Model{Options: 3, Images: imagesOn(t, r.Image(s), partition, digests)}
		up, _, ok := model.PowerOn(10, func(i boot.Image) boot.Outcome {
			if p, ok := digests[i.Digest]; ok {
				return p.outcome
			}
			return boot.Refused
		})
		if !ok || up.Version != "1" {
			t.Errorf("%+v: %q comes up of %+v", s, up.Version, model.Images)
		}
	}
	t.Logf("%d entries, %d states", len(log.Entries), states)
	end := make([]byte, len(after))
	if _, err := r.Image(powercut.State{Cut: len(log.Entries)}).ReadAt(end, 0); err != nil || !bytes.Equal(end, after) {
		t.Errorf("the record does not give the disk (%v)", err)
	}
	if states < 100 {
		t.Errorf("only %d states", states)
	}
}

// recordLoader boots the disk in the lab until the last token of the first program came, and returns what was recorded and
// the disk as it then is.
func recordLoader(t *testing.T, loader []byte, programs []program) (lab.Recording, disk.Partition, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	partition := makeDisk(t, image, loader, programs)
	l, err := lab.Up(ctx, lab.Config{Name: "tcut", Dir: filepath.Join(dir, "lab")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	}()
	m, err := l.Add(lab.Spec{Name: "a", Memory: 512 << 20, Disk: 1, Image: image, Vars: variableStore(t, dir, partition), WriteLog: true})
	if err != nil {
		t.Fatal(err)
	}
	recording := lab.Recording{Dir: dir}
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Record(ctx, recording); err != nil {
		t.Fatal(err)
	}
	seen := &awaited{text: token(0), stop: cancel}
	in, hold := io.Pipe() // nothing is typed
	defer hold.Close()
	if err := m.Console(ctx, in, seen); err != nil || !seen.found {
		t.Fatalf("%s did not come up (%v): %q", programs[0].file, err, seen.all)
	}
	if err := m.StopRecording(context.WithoutCancel(ctx), nil); err != nil {
		t.Fatal(err)
	}
	if names := namesOn(t, m.DiskPath(), partition); !slices.Contains(names, "edge_2+0-2.efi") {
		t.Errorf("the loader left %q", names)
	}
	after, err := os.ReadFile(m.DiskPath())
	if err != nil {
		t.Fatal(err)
	}
	return recording, partition, after
}

// awaited stops a wait when a text came.
type awaited struct {
	all   []byte
	text  string
	stop  func()
	found bool
}

func (a *awaited) Write(b []byte) (int, error) {
	a.all = append(a.all, b...)
	if bytes.Contains(a.all, []byte(a.text)) {
		a.found = true
		a.stop()
	}
	return len(b), nil
}

func openRecording(t *testing.T, r lab.Recording) (*powercut.Log, *os.File) {
	t.Helper()
	base, err := os.Open(r.Base())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	data, err := os.ReadFile(r.Log())
	if err != nil {
		t.Fatal(err)
	}
	log, err := powercut.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return log, base
}

// imagesOn is what the loader sees on the partition.
func imagesOn(t *testing.T, r io.ReaderAt, p disk.Partition, known map[images.Digest]program) (seen []boot.Image) {
	t.Helper()
	files, err := powercut.ReadFAT(r, p.Offset, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name, ok := strings.CutPrefix(f.Path, esp.UKIDirectory+"/")
		if _, offered := boot.ParseName(name); !ok || !offered {
			continue
		}
		digest := images.DigestOf(f.Content())
		p, listed := known[digest]
		seen = append(seen, boot.Image{File: name, SortKey: "roost-edge", Version: p.version, Listed: listed, Digest: digest})
	}
	return seen
}
