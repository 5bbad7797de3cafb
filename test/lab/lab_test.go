package lab

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"roost/images/keys"
)

// TestFirmwareBoots powers on a blank machine with our keys enrolled and waits until its firmware asks the network.
func TestFirmwareBoots(t *testing.T) {
	if os.Getenv("ROOST_TEST_VM") == "" {
		t.Skip("boots a virtual machine: set ROOST_TEST_VM=1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	if err := keys.Init(dir+"/keys", "test"); err != nil {
		t.Fatal(err)
	}
	set, err := keys.Open(dir + "/keys")
	if err != nil {
		t.Fatal(err)
	}
	k := &Keys{}
	for name, p := range map[string]*[]byte{"PK": &k.PK, "KEK": &k.KEK, "db": &k.DB} {
		if *p, err = set.SignatureList(name); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Up(ctx, Config{Name: "tfw", Dir: dir + "/lab", SecureBoot: k})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	m, err := l.Add(Spec{Name: "a", Memory: 512 << 20})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		b, _ := os.ReadFile(m.ConsoleLog())
		if bytes.Contains(b, []byte("PXE over IPv4")) {
			t.Logf("accel %s, PXE after %v", l.Accelerator(), time.Since(start))
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	b, _ := os.ReadFile(m.ConsoleLog())
	t.Fatalf("no network boot; console: %s", strings.TrimSpace(string(b)))
}
