package pxe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"roost/pxe"
)

// BenchmarkDORA measures complete exchanges per second with perfdhcp, over a cable between two network namespaces that share the
// machine's cores: ours with a lease log, Kea without and with its lease file, dnsmasq.
func BenchmarkDORA(b *testing.B) {
	perfdhcp, err := exec.LookPath("perfdhcp")
	if err != nil {
		b.Skip("perfdhcp is not installed")
	}
	for _, c := range []struct {
		name  string
		rate  int
		start func(w *wire, dir string)
	}{
		{"roost", 20000, func(w *wire, dir string) { w.serve(errand{Interfaces: own(nil), Leases: dir, Probe: time.Hour}) }},
		{"roost/at-3000", 3000, func(w *wire, dir string) { w.serve(errand{Interfaces: own(nil), Leases: dir, Probe: time.Hour}) }},
		{"kea/memory", 20000, func(w *wire, dir string) { kea(w, dir, false) }},
		{"kea/lease-file", 20000, func(w *wire, dir string) { kea(w, dir, true) }},
		{"dnsmasq", 20000, func(w *wire, dir string) {
			w.background("server", "dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=eth0", "--bind-interfaces", "--pid-file=",
				"--no-ping", "--dhcp-authoritative", "--dhcp-lease-max=100000", "--dhcp-range=10.77.4.0,10.77.255.200,255.255.0.0,10m", "--dhcp-leasefile="+dir+"/leases")
			time.Sleep(time.Second)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWire(b)
			run(b, "ip", "-n", w.name+"-client", "address", "add", "10.77.0.2/16", "dev", "eth0")
			c.start(w, b.TempDir())
			for b.Loop() {
				out, _ := w.in("client", perfdhcp, "-4", "-l", "eth0", "-r", fmt.Sprint(c.rate), "-R", "20000", "-p", "8", "-W", "1000000", "-d", "1", "10.77.0.1").CombinedOutput()
				report(b, string(out))
			}
		})
	}
}

// report reads perfdhcp's summary: exchanges per second, drops and delays.
func report(b *testing.B, out string) {
	number := func(pattern string) []float64 {
		var all []float64
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(out, -1) {
			n, _ := strconv.ParseFloat(m[1], 64)
			all = append(all, n)
		}
		return all
	}
	rate := number(`Rate: ([0-9.]+) 4-way`)
	drops, received, average := number(`drops: ([0-9]+)`), number(`received packets: ([0-9]+)`), number(`avg delay: ([0-9.]+) ms`)
	if len(rate) == 0 || len(drops) < 2 || len(average) < 2 {
		b.Fatalf("perfdhcp says:\n%s", out)
	}
	b.ReportMetric(rate[0], "DORA/s")
	b.ReportMetric((drops[0]+drops[1])/(drops[0]+drops[1]+received[0]+received[1])*100, "drop-%")
	b.ReportMetric(average[0], "offer-ms")
	b.ReportMetric(average[1], "ack-ms")
	b.ReportMetric(0, "ns/op")
	if strings.Contains(out, "malformed") {
		b.Log(out)
	}
}

func kea(w *wire, dir string, persist bool) {
	if _, err := exec.LookPath("kea-dhcp4"); err != nil {
		w.t.Skip("kea-dhcp4 is not installed")
	}
	config := fmt.Sprintf(`{"Dhcp4": {"interfaces-config": {"interfaces": ["eth0"]}, "lease-database": {"type": "memfile", "persist": %t, "name": "%s/leases.csv"},
		"valid-lifetime": 600, "subnet4": [{"subnet": "10.77.0.0/16", "pools": [{"pool": "10.77.4.0 - 10.77.255.200"}]}],
		"loggers": [{"name": "kea-dhcp4", "severity": "ERROR"}]}}`, persist, dir)
	path := filepath.Join(dir, "kea.json")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		w.t.Fatal(err)
	}
	w.background("server", "env", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "kea-dhcp4", "-c", path)
	time.Sleep(2 * time.Second)
}

// BenchmarkHTTP moves a root image of 64 MiB to 32 machines at one time over loopback: ours, and net/http's file server without any
// question of who asks.
func BenchmarkHTTP(b *testing.B) {
	const machines, size = 32, 64 << 20
	releases := shelf{}
	offer, _ := releases.stock(b, "1", size)
	r := start(b, pxe.Config{Shelf: releases, Assigner: pxe.Everyone(offer.Release)})
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		content, err := offer.Root.Open()
		if err != nil {
			b.Error(err)
			return
		}
		defer content.Close() // opened for reading
		http.ServeContent(w, request, "", time.Time{}, content)
	}))
	defer plain.Close()
	var clients []*http.Client
	for n := range machines {
		address, err := r.machine(n, 7).Address(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		clients = append(clients, &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: address.AsSlice()}}).DialContext, ReadBufferSize: 256 << 10}})
	}
	for name, url := range map[string]string{"roost": fmt.Sprintf("http://127.0.0.1:%d/root/%s.erofs.zst", r.ports.HTTP, offer.RootHash), "net/http": plain.URL} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(machines * size)
			for b.Loop() {
				var work sync.WaitGroup
				for _, client := range clients {
					work.Go(func() {
						response, err := client.Get(url)
						if err != nil {
							b.Error(err)
							return
						}
						n, err := io.Copy(io.Discard, response.Body)
						if err := errors.Join(err, response.Body.Close()); err != nil || n != size {
							b.Errorf("%s: %d bytes, %v", response.Status, n, err)
						}
					})
				}
				work.Wait()
			}
		})
	}
}
