package tftp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"

	"roost/pxe/tftp/tftptest"
)

// BenchmarkThroughput moves one 32 MiB file over loopback: our windows, our lockstep through pin/tftp, pin/tftp alone, and the
// servers that distributions ship, where installed. "ratio" is the speed relative to pin/tftp alone in the same run.
func BenchmarkThroughput(b *testing.B) {
	content := random(32 << 20)
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "uki.efi"), content, 0o644); err != nil {
		b.Fatal(err)
	}
	ours := serve(b, len(content), Config{MaxBlock: 1468, PerHost: 64}).addr
	var base float64
	for _, c := range []struct {
		name    string
		server  netip.AddrPort
		clients int
		window  int
	}{
		{"pin-alone", pinAlone(b, content), 1, 0},
		{"roost/window=none", ours, 1, 0},
		{"roost/window=4", ours, 1, 4},
		{"roost/window=16", ours, 1, 16},
		{"roost/window=64", ours, 1, 64},
		{"pin-alone/clients=32", pinAlone(b, content), 32, 0},
		{"roost/clients=32/window=4", ours, 32, 4},
		{"roost/clients=32/window=16", ours, 32, 16},
		{"dnsmasq", dnsmasq(b, dir), 1, 0},
		{"atftpd/window=none", atftpd(b, dir), 1, 0},
		{"atftpd/window=16", atftpd(b, dir), 1, 16},
	} {
		b.Run(c.name, func(b *testing.B) {
			if !c.server.IsValid() {
				b.Skip("not installed")
			}
			options := []string{"blksize", "1468"}
			if c.window > 0 {
				options = append(options, "windowsize", fmt.Sprint(c.window))
			}
			b.SetBytes(int64(len(content) * c.clients))
			for b.Loop() {
				var work sync.WaitGroup
				for range c.clients {
					work.Go(func() {
						k := &tftptest.Client{Conn: listen(b), Server: c.server, Name: "uki.efi", Options: options}
						if got, err := k.Fetch(); err != nil || !bytes.Equal(got, content) {
							b.Errorf("%d bytes, %v", len(got), err)
						}
					})
				}
				work.Wait()
			}
			speed := float64(len(content)*c.clients*b.N) / b.Elapsed().Seconds()
			if base == 0 {
				base = speed
			}
			b.ReportMetric(speed/base, "ratio")
		})
	}
}

func pinAlone(b *testing.B, content []byte) netip.AddrPort {
	server := pin.NewServer(func(_ string, to io.ReaderFrom) error {
		_, err := to.ReadFrom(bytes.NewReader(content))
		return err
	}, nil)
	server.SetBlockSizeNegotiation(false)
	conn := listen(b)
	go func() { _ = server.Serve(conn) }()
	b.Cleanup(server.Shutdown)
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// free returns a UDP port that nobody had a moment ago.
func free(b *testing.B) netip.AddrPort {
	conn := listen(b)
	defer conn.Close() // test
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func dnsmasq(b *testing.B, dir string) netip.AddrPort {
	// It knows no other port for TFTP than 69, so it gets an address of its own.
	at := netip.MustParseAddrPort("127.0.69.1:69")
	return external(b, at, "dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root", "--bind-interfaces",
		"--listen-address="+at.Addr().String(), "--enable-tftp", "--tftp-root="+dir, "--pid-file=")
}

func atftpd(b *testing.B, dir string) netip.AddrPort {
	at := free(b)
	return external(b, at, "atftpd", "--daemon", "--no-fork", "--user", "root", "--group", "root", "--port", fmt.Sprint(at.Port()), "--bind-address", "127.0.0.1", dir)
}

// external starts a server and waits until it answers.
func external(b *testing.B, at netip.AddrPort, name string, arguments ...string) netip.AddrPort {
	path, err := exec.LookPath(name)
	if err != nil {
		return netip.AddrPort{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, path, arguments...)
	var output strings.Builder
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		_ = command.Wait()
	})
	for range 50 {
		k := &tftptest.Client{Conn: listen(b), Server: at, Name: "uki.efi", Options: []string{"tsize", "0"}, Probe: true, Timeout: 100 * time.Millisecond}
		if _, err := k.Fetch(); err == nil {
			return at
		}
	}
	b.Fatalf("%s does not answer: %s", name, output.String())
	return at
}
