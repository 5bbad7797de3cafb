package powercut_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"roost/test/powercut"
)

// TestQEMULog lets QEMU's own driver record writes of all kinds, and wants the disk back from the record.
func TestQEMULog(t *testing.T) {
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("needs qemu-io of qemu-utils")
	}
	dir := t.TempDir()
	path, logPath := filepath.Join(dir, "disk"), filepath.Join(dir, "log")
	before := bytes.Repeat([]byte{0xee}, 4*mib)
	put(t, path, before)
	put(t, logPath, nil)
	args := []string{"--image-opts", "driver=blklogwrites,file.driver=file,file.filename=" + path + ",file.discard=unmap,log.driver=file,log.filename=" + logPath + ",log.cache.no-flush=on", "-d", "unmap"}
	random := rand.New(rand.NewPCG(3, 4))
	for n := range 200 {
		at, length := random.IntN(2*mib)/512*512, (1+random.IntN(100))*512
		switch random.IntN(6) {
		case 0:
			args = append(args, "-c", "flush")
		case 1:
			args = append(args, "-c", fmt.Sprintf("discard %d %d", at/4096*4096, 65536))
		case 2:
			args = append(args, "-c", fmt.Sprintf("write -z %d %d", at, length))
		default:
			args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", 1+n%255, at, length))
		}
	}
	host(t, "qemu-io", args...)
	data, err := os.ReadFile(logPath)
	if err != nil {
		t.Fatal(err)
	}
	log, err := powercut.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &powercut.Rebuilder{Log: log, Base: bytes.NewReader(before), Size: int64(len(before))}
	got := make([]byte, len(want))
	if _, err := r.Image(powercut.State{Cut: len(log.Entries)}).ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the record of %d entries does not give the disk (%v)", len(log.Entries), err)
	}
	kinds := map[string]int{}
	for _, e := range log.Entries {
		switch {
		case e.Flush:
			kinds["flush"]++
		case e.Discard:
			kinds["discard"]++
		default:
			kinds["write"]++
		}
	}
	if kinds["flush"] < 5 || kinds["discard"] < 10 || kinds["write"] < 100 {
		t.Errorf("recorded %v", kinds)
	}
}
