package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	pin "github.com/pin/tftp/v3"

	"roost/images"
	"roost/pxe"
	"roost/pxe/tftp/tftptest"
)

// role is what a copy of this program does in a namespace: serve, or fetch and say how long it took. It is told as JSON.
type role struct {
	Serve *serving `json:"serve,omitempty"`
	Fetch *errand  `json:"fetch,omitempty"`
}

// serving is our boot server with one file as UKI and root image.
type serving struct {
	Interface string
	Mode      pxe.Mode
	File      string
	Leases    string // directory of the lease log
	Pin       bool   // TFTP by pin/tftp alone, as most Go boot servers have it
}

// errand is a number of machines that fetch one file at one time.
type errand struct {
	URL      string   // http://…, or tftp://address/name
	Options  []string // of TFTP: name, value, …
	Machines int
	Size     int64 // of the file; anything else is an error
}

// runRole plays a role until it is done or standard input ends.
func runRole(ctx context.Context, text string, stdin io.Reader, stdout, stderr io.Writer) error {
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	switch {
	case r.Serve != nil:
		return r.Serve.run(ctx, stdout, stderr)
	case r.Fetch != nil:
		took, err := r.Fetch.run()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(stdout, took.Seconds())
		return err
	}
	return errors.New("no role")
}

// releaseOf makes a release of one file.
func releaseOf(path string) (*pxe.Offer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file := pxe.File{Digest: images.DigestOf(content), Size: int64(len(content)), Open: func() (io.ReadSeekCloser, error) { return os.Open(path) }}
	return &pxe.Offer{Release: file.Digest, Name: "edge", Version: "1", Architecture: "amd64", RootHash: strings.Repeat("ab", 32), UKI: file, Root: file, Verity: file}, nil
}

// tftpName is the name under which our server gives the UKI of a release.
func tftpName(o *pxe.Offer) string { return "roost-" + o.Release.Hex()[:12] + ".efi" }

type onlyShelf struct{ offer *pxe.Offer }

func (s onlyShelf) Offer(context.Context, images.Digest) (*pxe.Offer, error) { return s.offer, nil }

// run serves until ctx ends and prints an event per line.
func (s *serving) run(ctx context.Context, stdout, stderr io.Writer) error {
	offer, err := releaseOf(s.File)
	if err != nil {
		return err
	}
	i := pxe.Interface{Name: s.Interface, Mode: s.Mode}
	if s.Mode == pxe.Own {
		i.Network = pxe.Network{First: netip.MustParseAddr("10.77.4.0"), Last: netip.MustParseAddr("10.77.255.200")}
		if s.Interface != "eth0" { // a lab's network is smaller
			i.Network = pxe.Network{First: netip.MustParseAddr("10.77.0.100"), Last: netip.MustParseAddr("10.77.0.199")}
		}
	}
	out := json.NewEncoder(stdout)
	config := pxe.Config{
		Interfaces: []pxe.Interface{i}, Shelf: onlyShelf{offer}, Assigner: pxe.Everyone(offer.Release), Leases: s.Leases, Probe: time.Hour,
		OnEvent: func(e pxe.Event) { _ = out.Encode(e) }, // who reads them has gone when this fails
		Log:     slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if s.Mode == pxe.Own && s.Interface == "eth0" {
		config.OnEvent = nil // a load test; nobody reads a hundred thousand lines
	}
	if s.Pin {
		config.Ports.TFTP = 6969
		server, err := s.pin(out)
		if err != nil {
			return err
		}
		defer server.Shutdown()
	}
	server, err := pxe.New(config)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// pin serves the file for every name with pin/tftp alone.
func (s *serving) pin(out *json.Encoder) (*pin.Server, error) {
	content, err := os.ReadFile(s.File)
	if err != nil {
		return nil, err
	}
	server := pin.NewServer(func(name string, to io.ReaderFrom) error {
		if transfer, ok := to.(pin.OutgoingTransfer); ok {
			transfer.SetSize(int64(len(content)))
		}
		begun := time.Now()
		n, err := to.ReadFrom(bytes.NewReader(content))
		if err == nil && n == int64(len(content)) {
			_ = out.Encode(pxe.Event{Kind: pxe.TFTPDone, File: name, Bytes: n, Took: time.Since(begun)})
		}
		return err
	}, nil)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 69})
	if err != nil {
		return nil, err
	}
	go func() { _ = server.Serve(conn) }()
	return server, nil
}

// run fetches with all machines at one time and returns how long the slowest took.
func (e *errand) run() (time.Duration, error) {
	var work sync.WaitGroup
	failures := make([]error, e.Machines)
	begun := time.Now()
	for n := range e.Machines {
		work.Go(func() {
			size, err := e.fetch(machineAddress(n))
			if err == nil && size != e.Size {
				err = fmt.Errorf("got %d bytes of %d", size, e.Size)
			}
			failures[n] = err
		})
	}
	work.Wait()
	return time.Since(begun), errors.Join(failures...)
}

func (e *errand) fetch(from string) (int64, error) {
	rest, ok := strings.CutPrefix(e.URL, "tftp://")
	if !ok {
		return e.get(from)
	}
	host, name, _ := strings.Cut(rest, "/")
	server, err := netip.ParseAddr(host)
	if err != nil {
		return 0, err
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)})
	if err != nil {
		return 0, err
	}
	defer conn.Close() // a socket of UDP has nothing left to say
	c := &tftptest.Client{Conn: conn, Server: netip.AddrPortFrom(server, 69), Name: name, Options: e.Options}
	content, err := c.Fetch()
	return int64(len(content)), err
}

func (e *errand) get(from string) (int64, error) {
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext, ReadBufferSize: 256 << 10}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	response, err := client.Get(e.URL)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return n, err
	}
	if response.StatusCode != http.StatusOK {
		return n, errors.New(response.Status)
	}
	return n, nil
}
