package powercut_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roost/test/powercut"
)

// TestProve judges an update that is in files, as a machine under QEMU leaves it; then one more write that damages what runs,
// with nothing else to boot, must be found.
func TestProve(t *testing.T) {
	m := newMachine(t, 0)
	m.update(t)
	dir := t.TempDir()
	record := powercut.Record{Base: filepath.Join(dir, "base"), Log: filepath.Join(dir, "log"), Good: "1", Read: readPretended}
	for _, v := range []version{m.one, m.two} {
		record.Versions = append(record.Versions, powercut.Version{Name: v.name, UKI: v.uki.Digest, RootHash: v.slot.RootHash})
	}
	copyDisk(t, record.Base, newMachine(t, 0).recorder)
	log := newRecord()
	for n, e := range m.recorder.Log.Entries {
		if e.Flush {
			log.entry(0, 0, 1, 0, nil)
			continue
		}
		data, err := m.recorder.Log.Bytes(n)
		if err != nil {
			t.Fatal(err)
		}
		log.entry(uint64(e.Offset)/512, uint64(e.Length)/512, 0, 0, data)
	}
	put(t, record.Log, log.finish())

	proof, err := powercut.Prove(context.Background(), record, 3, 5)
	if err != nil {
		t.Fatal(err)
	}
	if proof.States < 200 || len(proof.Sample) != 5 || proof.Up["1"] == 0 || proof.Up["2"] == 0 {
		t.Errorf("proof %+v", proof)
	}
	versions := map[string]bool{}
	for _, s := range proof.Sample {
		versions[s.Version] = true
	}
	if len(versions) < 2 {
		t.Errorf("the sample has one version only: %+v", proof.Sample)
	}
	end := powercut.State{Cut: proof.Entries}
	if err := record.Restore(end, record.Base); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(record.Base)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, m.recorder.Size())
	if _, err := m.recorder.ReadAt(want, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the restored disk is not the one that was written (%v)", err)
	}

	if err := record.Matches(record.Base); err != nil {
		t.Error(err)
	}
	got[bytes.Index(want, m.two.parts["root.erofs"][:4096])+5000] ^= 1
	put(t, filepath.Join(dir, "other"), got)
	if err := record.Matches(filepath.Join(dir, "other")); err == nil {
		t.Error("a disk that is not what was recorded matches")
	}

	// The machine is back on version 1; its root is damaged, and 2 is marked bad but whole: it comes up on 2. Both damaged,
	// nothing does.
	copyDisk(t, record.Base, newMachine(t, 0).recorder)
	for _, v := range []version{m.one, m.two} {
		offset := bytes.Index(want, v.parts["root.erofs"][4096:8192])
		log.entry(uint64(offset)/512, 1, 0, 0, make([]byte, 512))
		log.entry(0, 0, 1, 0, nil)
	}
	put(t, record.Log, log.finish())
	if _, err := powercut.Prove(context.Background(), record, 3, 5); err == nil || !strings.Contains(err.Error(), "nothing comes up") {
		t.Errorf("a disk that cannot boot: %v", err)
	}
}

func copyDisk(t *testing.T, path string, r *powercut.Recorder) {
	t.Helper()
	data := make([]byte, r.Size())
	if _, err := r.ReadAt(data, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	put(t, path, data)
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
