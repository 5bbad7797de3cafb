package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// lease is what one interface got from a DHCP server that knows Roost.
type lease struct {
	nic     string
	mac     net.HardwareAddr
	address net.IPNet
	gateway net.IP
	base    string // URL of the boot server, without a trailing slash
}

// fetchRoot takes an address, streams the root image into memory, and fills m.root.
func (m *machine) fetchRoot() error {
	const attempts = 6
	var err error
	for i := range attempts {
		if i > 0 {
			wait := time.Duration(5<<i) * time.Second
			m.con.warn("%v; trying again in %d s", err, int(wait.Seconds()))
			time.Sleep(wait)
			m.loadForDevices()
		}
		if err = m.fetchRootOnce(); err == nil {
			return nil
		}
	}
	return err
}

func (m *machine) fetchRootOnce() error {
	l, f, err := m.askSite()
	if err != nil {
		return err
	}
	m.record.Origin = "network"
	data, err := f.image(l.base+"/root/"+m.args.rootHash+".erofs.zst", "/run/roost/root.erofs")
	if err != nil {
		return err
	}
	verity, err := f.image(l.base+"/root/"+m.args.rootHash+".verity.zst", "/run/roost/root.verity")
	if err != nil {
		return err
	}
	if m.root.data, err = attachLoop(data); err != nil {
		return err
	}
	m.root.verity, err = attachLoop(verity)
	return err
}

// askSite takes an address from a DHCP server that knows Roost, and asks the boot server that it names for its site.
func (m *machine) askSite() (*lease, *fetcher, error) {
	l, err := m.acquireLease()
	if err != nil {
		return nil, nil, err
	}
	if err := l.configure(); err != nil {
		return nil, nil, err
	}
	m.con.step("%s has %s, boot server %s", l.nic, l.address.String(), l.base)
	m.record.fromLease(l)
	f := &fetcher{client: newHTTPClient(), con: m.con, pause: time.Sleep}
	m.record.Site = f.site(l.base)
	return l, f, nil
}

func newHTTPClient() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, ResponseHeaderTimeout: 20 * time.Second}}
}

// fetcher reads from the boot server. What it reads is not trusted: dm-verity judges every block of an image later.
type fetcher struct {
	client *http.Client
	con    *console
	pause  func(time.Duration) // between attempts
}

// site asks the boot server which site this is. The answer is passed on as it is, for roostd to judge; a boot server
// without a site gives none.
func (f *fetcher) site(base string) json.RawMessage {
	resp, err := f.client.Get(base + "/v1/site")
	if err != nil {
		f.con.warn("cannot ask for the site: %v", err)
		return nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || resp.StatusCode != http.StatusOK || !json.Valid(b) {
		f.con.warn("cannot ask for the site: %s, %v", resp.Status, err)
		return nil
	}
	return b
}

// image streams a zstd-compressed file from address into path and returns path.
func (f *fetcher) image(address, path string) (string, error) {
	body := &resumingReader{fetcher: f, address: address}
	defer body.Close()
	dec, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return "", fmt.Errorf("cannot fetch %s: %v", address, err)
	}
	defer dec.Close()
	out, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("cannot fetch %s: %v", address, err)
	}
	defer out.Close()
	start := time.Now()
	n, err := io.Copy(out, dec)
	if err != nil {
		return "", fmt.Errorf("cannot fetch %s: %v", address, err)
	}
	f.con.step("fetched %s: %d MB, unpacked to %d MB, in %.1f s", filepath.Base(path), body.offset>>20, n>>20, time.Since(start).Seconds())
	return path, out.Close()
}

// resumingReader reads one URL and goes on from where it was when the connection breaks or stalls.
type resumingReader struct {
	*fetcher
	address string
	offset  int64
	size    int64
	body    io.ReadCloser
	cancel  context.CancelFunc
	stall   *time.Timer
	broken  int // failures since the last byte
}

const (
	stallTimeout = 20 * time.Second
	maxBroken    = 5
)

func (r *resumingReader) Read(p []byte) (int, error) {
	for {
		if r.size > 0 && r.offset == r.size {
			return 0, io.EOF
		}
		n, err := r.readOnce(p)
		if n > 0 {
			r.broken = 0
			r.offset += int64(n)
			r.con.progress("%s: %d of %d MB", filepath.Base(r.address), r.offset>>20, r.size>>20)
			return n, nil
		}
		var refused *refusedError
		if errors.As(err, &refused) {
			return 0, err
		}
		r.Close()
		if r.broken++; r.broken > maxBroken {
			// Not wrapped: a decoder must not take a broken connection for the end of its input.
			return 0, fmt.Errorf("the connection broke %d times at byte %d of %d: %v", r.broken, r.offset, r.size, err)
		}
		r.con.warn("%v; resuming at byte %d", err, r.offset)
		r.pause(time.Duration(r.broken) * time.Second)
	}
}

func (r *resumingReader) readOnce(p []byte) (int, error) {
	if r.body == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	r.stall.Reset(stallTimeout)
	n, err := r.body.Read(p)
	if n > 0 {
		return n, nil
	}
	if err == io.EOF || err == nil {
		err = io.ErrUnexpectedEOF // the declared size has not come yet
	}
	return 0, err
}

// refusedError is an answer that asking again will not change.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

func (r *resumingReader) open() error {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.stall = time.AfterFunc(stallTimeout, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.address, nil)
	if err != nil {
		return &refusedError{fmt.Sprintf("cannot ask for %s: %v", r.address, err)}
	}
	want := http.StatusOK
	if r.offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.offset))
		want = http.StatusPartialContent
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	r.body = resp.Body
	switch {
	case resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
		return &refusedError{fmt.Sprintf("the boot server refuses %s: %s", r.address, resp.Status)}
	case resp.StatusCode != want:
		return fmt.Errorf("the boot server answers %s", resp.Status)
	case resp.ContentLength <= 0:
		return &refusedError{fmt.Sprintf("the boot server does not tell the size of %s", r.address)}
	}
	r.size = r.offset + resp.ContentLength
	return nil
}

// Close ends the current connection; a later Read opens another.
func (r *resumingReader) Close() error {
	if r.stall != nil {
		r.stall.Stop()
	}
	if r.cancel != nil {
		r.cancel()
	}
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
	return nil
}

// parseBase checks the base URL a DHCP answer gave: plain HTTP to an address, as the boot server makes it.
func parseBase(s string) (string, error) {
	s = strings.TrimRight(s, "\x00/")
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return "", fmt.Errorf("cannot use boot server %.80q: want http://ADDRESS:PORT", s)
	}
	return s, nil
}
