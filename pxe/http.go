package pxe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/images/uki"
)

// Routes. A path is matched against the names of the one release that the client may boot: there is nothing to traverse.
func routeUKI(o *Offer) string    { return "/boot/" + o.Release.Hex() + ".efi" }
func routeKernel(o *Offer) string { return "/boot/" + o.Release.Hex() + "/vmlinuz" }
func routeInitrd(o *Offer) string { return "/boot/" + o.Release.Hex() + "/initrd" }
func routeScript(o *Offer) string { return "/ipxe/" + o.Release.Hex() + ".ipxe" }
func routeRoot(o *Offer) string   { return "/root/" + o.RootHash + ".erofs.zst" }
func routeVerity(o *Offer) string { return "/root/" + o.RootHash + ".verity.zst" }

const routeSite = "/v1/site"

// doors counts requests under way by host.
type doors struct {
	limit int
	mu    sync.Mutex
	open  map[netip.Addr]int
	all   int
}

// maxRequests are answered at one time, of all hosts.
const maxRequests = 4096

func (d *doors) enter(host netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = map[netip.Addr]int{}
	}
	if d.open[host] >= d.limit || d.all >= maxRequests {
		return false
	}
	d.all++
	d.open[host]++
	return true
}

func (d *doors) leave(host netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if d.open[host]--; d.open[host] == 0 {
		delete(d.open, host)
	}
}

func (a *attendance) openHTTP(group *errgroup.Group) error {
	at := netip.AddrPortFrom(a.place.address, a.config.Ports.HTTP)
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("cannot listen for HTTP on %s: %w", at, err)
	}
	server := &http.Server{Handler: http.HandlerFunc(a.answer), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot serve HTTP on %s: %w", at, err)
		}
		return nil
	})
	group.Go(func() error {
		<-a.ctx.Done()
		// What is about to end may end and be reported; the rest is cut, and resumed by the machine.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return server.Close()
	})
	return nil
}

// answer is the HTTP handler.
func (a *attendance) answer(w http.ResponseWriter, r *http.Request) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "no peer address", http.StatusInternalServerError)
		return
	}
	host := peer.Addr().Unmap()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	if !a.doors.enter(host) {
		http.Error(w, "too many requests at one time", http.StatusServiceUnavailable)
		return
	}
	defer a.doors.leave(host)
	c, ok := a.identify(host)
	if !ok {
		a.config.Log.Info("refused HTTP request", "interface", a.iface.Name, "peer", host, "reason", "it has no lease or offer of ours")
		http.Error(w, "this host has no lease or offer of this server", http.StatusForbidden)
		return
	}
	if r.URL.Path == routeSite {
		a.site(w, r, c)
		return
	}
	offer, err := a.decide(r.Context(), c)
	if err != nil {
		a.refuse(w, r, c, err)
		return
	}
	a.file(w, r, c, offer)
}

func (a *attendance) refuse(w http.ResponseWriter, r *http.Request, c Client, err error) {
	status := http.StatusForbidden
	if _, decided := errors.AsType[refusal](err); !decided {
		status = http.StatusInternalServerError
		a.config.Log.Error("cannot serve a machine", "mac", c.MAC, "error", err)
	}
	a.emit(Event{Kind: Refused, Client: c, File: r.URL.Path, Reason: err.Error()})
	http.Error(w, err.Error(), status)
}

func (a *attendance) site(w http.ResponseWriter, r *http.Request, c Client) {
	body, err := json.Marshal(a.config.Site)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	a.send(w, r, c, nil, time.Time{}, strings.NewReader(string(body)+"\n"))
}

// file answers with one of the files of offer.
func (a *attendance) file(w http.ResponseWriter, r *http.Request, c Client, offer *Offer) {
	part, kind, section := File{}, "application/octet-stream", (func(*uki.Image) io.ReadSeeker)(nil)
	switch r.URL.Path {
	case routeUKI(offer):
		part, kind = offer.UKI, "application/efi"
	case routeRoot(offer):
		part = offer.Root
	case routeVerity(offer):
		part = offer.Verity
	case routeScript(offer):
		part, kind, section = offer.UKI, "text/plain; charset=utf-8", func(image *uki.Image) io.ReadSeeker { return script(a.base(), offer, image) }
	case routeKernel(offer):
		part, section = offer.UKI, func(image *uki.Image) io.ReadSeeker { return image.Kernel() }
	case routeInitrd(offer):
		part, section = offer.UKI, func(image *uki.Image) io.ReadSeeker { return image.Initrd() }
	default:
		http.Error(w, "this host may boot another release, or there is no such file", http.StatusNotFound)
		return
	}
	content, err := part.Open()
	if err != nil {
		a.refuse(w, r, c, fmt.Errorf("cannot open %s: %w", r.URL.Path, err))
		return
	}
	defer content.Close() // opened for reading
	w.Header().Set("Content-Type", kind)
	w.Header().Set("ETag", `"`+part.Digest.Hex()+`"`)
	var body io.ReadSeeker = content
	if section != nil {
		w.Header().Set("ETag", `"`+part.Digest.Hex()+strings.ReplaceAll(r.URL.Path, "/", "-")+`"`)
		image, err := uki.Open(readerAt{content}, part.Size)
		if err != nil {
			a.refuse(w, r, c, err)
			return
		}
		body = section(image)
	}
	a.send(w, r, c, offer, offer.Created, body)
}

// send writes body as ServeContent does (ranges, conditions, HEAD) and reports it.
func (a *attendance) send(w http.ResponseWriter, r *http.Request, c Client, offer *Offer, modified time.Time, body io.ReadSeeker) {
	e := Event{Client: c, File: r.URL.Path}
	if offer != nil {
		e.Release = offer.Release
	}
	if r.Method == http.MethodGet {
		e.Kind = HTTPStarted
		a.emit(e)
	}
	counted, begun := &counter{ResponseWriter: w}, time.Now()
	http.ServeContent(counted, r, "", modified, body)
	if r.Method != http.MethodGet {
		return
	}
	e.Time, e.Bytes, e.Took = time.Time{}, counted.sent, time.Since(begun)
	log := a.config.Log.With("interface", a.iface.Name, "peer", r.RemoteAddr, "file", r.URL.Path, "bytes", e.Bytes, "took", e.Took)
	// A machine may hang up as soon as it has the last byte.
	length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	whole := err == nil && counted.sent == length
	if err := counted.failed; err != nil || !whole && errors.Is(r.Context().Err(), context.Canceled) {
		e.Kind, e.Reason = HTTPFailed, fmt.Sprint(errors.Join(err, r.Context().Err()))
		log.Warn("HTTP transfer failed", "error", e.Reason)
	} else {
		e.Kind = HTTPDone
		a.roster.fetched(c)
		log.Info("sent file by HTTP", "status", counted.status)
	}
	a.emit(e)
}

// counter counts what is sent and keeps sendfile possible.
type counter struct {
	http.ResponseWriter
	status int
	sent   int64
	failed error
}

func (c *counter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.note(int64(n), err)
	return n, err
}

func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.note(n, err)
	return n, err
}

func (c *counter) note(n int64, err error) {
	c.sent += n
	if c.failed == nil {
		c.failed = err
	}
}

// readerAt reads at offsets through a seeker that one goroutine has for itself.
type readerAt struct{ r io.ReadSeeker }

func (r readerAt) ReadAt(b []byte, offset int64) (int, error) {
	if _, err := r.r.Seek(offset, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.r, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// script is what iPXE on a BIOS machine runs: it cannot start a UKI, so it gets its parts.
func script(base string, o *Offer, image *uki.Image) io.ReadSeeker {
	line, err := image.CommandLine()
	if err != nil {
		line = "" // uki.Open has checked it
	}
	return strings.NewReader(fmt.Sprintf(`#!ipxe
echo Roost: starting %s %s for discovery; installing it will need UEFI
kernel %s %s || goto failed
initrd --name initrd %s || goto failed
boot || goto failed
:failed
echo Roost: cannot load %s %s, trying again in 10 s
sleep 10
reboot
`, o.Name, o.Version, base+routeKernel(o), line, base+routeInitrd(o), o.Name, o.Version))
}
