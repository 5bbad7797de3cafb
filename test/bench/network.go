package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"roost/pxe"
)

// What is moved: a large kernel image by TFTP, a compressed root image by HTTP; to many machines at one time a part of the
// former, because old protocols take their time.
const (
	tftpSize  = 32 << 20
	shareSize = 8 << 20
	httpSize  = 128 << 20
)

// noise makes a file of random bytes, once.
func (b *bench) noise(name string, size int) (string, error) {
	path := filepath.Join(b.dir, name)
	if info, err := os.Stat(path); err == nil && info.Size() == int64(size) {
		return path, nil
	}
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(content)
	return path, os.WriteFile(path, content, 0o644)
}

// roleArguments is the command line of a copy of this program with a role.
func roleArguments(r role) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(r)
	return []string{self, "-role", string(text)}, err
}

// contender is a server to measure.
type contender struct {
	who   string
	note  string
	path  string // of the file on it
	begin func(ctx context.Context, w *wire) (*service, error)
}

// ourServer is the boot server without DHCP, as a contender.
func ourServer(file string, alonePin bool) contender {
	c := contender{who: ours}
	if alonePin {
		c.who = "pin/tftp"
	}
	c.begin = func(ctx context.Context, w *wire) (*service, error) {
		arguments, err := roleArguments(role{Serve: &serving{Interface: "eth0", Mode: pxe.Off, File: file, Pin: alonePin}})
		if err != nil {
			return nil, err
		}
		return start(ctx, nil, w.in("server", arguments...)...)
	}
	return c
}

// external is a server of the tool tree as a contender. Its command line comes from a function that gets an empty directory,
// as this program sees it and as the server does.
func (b *bench) external(who string, line func(dir, inside string) ([]string, error)) contender {
	return contender{who: who, begin: func(ctx context.Context, w *wire) (*service, error) {
		k, err := b.tools(ctx)
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp(b.dir, "server-")
		if err != nil {
			return nil, err
		}
		arguments, err := line(dir, "/bench/"+filepath.Base(dir))
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		s, err := start(ctx, nil, w.in("server", k.line(arguments...)...)...)
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		s.after = func() { _ = os.RemoveAll(dir) } // a few small files below the work directory
		return s, nil
	}}
}

func dnsmasqArguments(more ...string) []string {
	return append([]string{"dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=eth0", "--bind-interfaces", "--pid-file="}, more...)
}

// transferring measures contenders with one errand, each on a wire of its own. The best of some runs counts.
func (b *bench) transferring(ctx context.Context, row Row, contenders []contender, e errand) (Row, error) {
	var own error
	for _, c := range contenders {
		if ctx.Err() != nil {
			break
		}
		b.say("%s: %s", row.What, c.who)
		speed, err := b.transfer(ctx, c, e)
		row.Results = append(row.Results, sideOf(c.who, speed, c.note, err))
		if err != nil && c.who == ours {
			own = fmt.Errorf("%s: %w", row.What, err)
		}
	}
	return row, own
}

// sideOf makes a result of a figure or a failure.
func sideOf(who string, value float64, note string, err error) Result {
	if err != nil {
		return Result{Who: who, Failure: err.Error()}
	}
	return Result{Who: who, Value: value, Note: note}
}

// transfer returns MB/s of all machines together.
func (b *bench) transfer(ctx context.Context, c contender, e errand) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	w, err := lay(ctx)
	if err != nil {
		return 0, err
	}
	defer w.cut()
	s, err := c.begin(ctx, w)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	e.URL += c.path
	var failure error
	var took float64
	err = s.await(ctx, 15*time.Second, func() bool { // the first transfer that works says that the server is up
		took, failure = fetch(ctx, w, e)
		return failure == nil
	})
	if err != nil {
		return 0, errors.Join(err, failure)
	}
	best := took
	for n, begun := 0, time.Now(); n < 1 || n < 5 && time.Since(begun) < 5*time.Second; n++ {
		if took, err = fetch(ctx, w, e); err != nil {
			return 0, err
		}
		best = min(best, took)
	}
	return float64(e.Size) * float64(e.Machines) / best / 1e6, nil
}

// fetch runs an errand on the client's side and returns its seconds.
func fetch(ctx context.Context, w *wire, e errand) (float64, error) {
	arguments, err := roleArguments(role{Fetch: &e})
	if err != nil {
		return 0, err
	}
	text, err := output(ctx, w.in("client", arguments...)...)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(text), 64)
}

// tftpServers are the contenders for a file of the work directory.
func (b *bench) tftpServers(file string) ([]contender, error) {
	offer, err := releaseOf(file)
	if err != nil {
		return nil, err
	}
	own, pin := ourServer(file, false), ourServer(file, true)
	dnsmasq := b.external("dnsmasq", func(_, _ string) ([]string, error) {
		return dnsmasqArguments("--enable-tftp", "--tftp-root=/bench"), nil
	})
	atftpd := b.external("atftpd", func(_, _ string) ([]string, error) {
		return []string{"atftpd", "--daemon", "--no-fork", "--user", "root", "--group", "root", "--bind-address", serverAddress, "/bench"}, nil
	})
	own.path = tftpName(offer)
	for _, c := range []*contender{&pin, &dnsmasq, &atftpd} {
		c.path = filepath.Base(file)
	}
	return []contender{own, pin, dnsmasq, atftpd}, nil
}

// tftp compares transfers of a kernel image.
func (b *bench) tftp(ctx context.Context) (rows []Row, err error) {
	for _, c := range []struct {
		what     string
		window   string
		machines int
		size     int
	}{
		{"TFTP 32 MiB, 1 machine, no window (old firmware)", "", 1, tftpSize},
		{"TFTP 32 MiB, 1 machine, window 4 (as UEFI asks)", "4", 1, tftpSize},
		{"TFTP 32 MiB, 1 machine, window 16", "16", 1, tftpSize},
		{"TFTP 8 MiB each, 32 machines, window 4", "4", machines, shareSize},
	} {
		file, failure := b.noise(fmt.Sprintf("tftp-%d.efi", c.size), c.size)
		if failure != nil {
			return rows, failure
		}
		servers, failure := b.tftpServers(file)
		if failure != nil {
			return rows, failure
		}
		e := errand{URL: "tftp://" + serverAddress + "/", Options: []string{"blksize", "1468"}, Machines: c.machines, Size: int64(c.size)}
		row := Row{What: c.what, Unit: Rate}
		if c.window != "" {
			e.Options = append(e.Options, "windowsize", c.window)
			row.Target.Times = 1
			for i := range servers {
				if who := servers[i].who; who == "pin/tftp" || who == "dnsmasq" {
					servers[i].note = "grants no window: answers block by block"
				}
			}
		}
		row, failure = b.transferring(ctx, row, servers, e)
		rows, err = append(rows, row), errors.Join(err, failure)
	}
	return rows, err
}

// http compares transfers of a root image.
func (b *bench) http(ctx context.Context) (rows []Row, err error) {
	file, err := b.noise("http.img", httpSize)
	if err != nil {
		return nil, err
	}
	own := ourServer(file, false)
	own.path = fmt.Sprintf(":%d/root/%s.erofs.zst", pxe.HTTPPort, strings.Repeat("ab", 32))
	nginx := b.external("nginx", func(dir, inside string) ([]string, error) {
		config := fmt.Sprintf("user root;\nworker_processes auto;\ndaemon off;\npid %s/pid;\nerror_log stderr;\nevents {}\nhttp { access_log off; sendfile on; tcp_nopush on; client_body_temp_path %s; proxy_temp_path %s; fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s; server { listen %s:80; root %s; } }\n",
			inside, inside, inside, inside, inside, inside, serverAddress, "/bench")
		return []string{"nginx", "-c", inside + "/nginx.conf"}, os.WriteFile(dir+"/nginx.conf", []byte(config), 0o644)
	})
	nginx.path = "/http.img"
	for _, machines := range []int{1, machines} {
		row := Row{What: fmt.Sprintf("HTTP 128 MiB, %d machine", machines), Unit: Rate}
		if machines > 1 {
			row.What = fmt.Sprintf("HTTP 128 MiB each, %d machines", machines)
		}
		row, failure := b.transferring(ctx, row, []contender{own, nginx}, errand{URL: "http://" + serverAddress, Machines: machines, Size: httpSize})
		rows, err = append(rows, row), errors.Join(err, failure)
	}
	return rows, err
}
