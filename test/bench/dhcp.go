package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"roost/pxe"
)

// exchange is what perfdhcp says of a load.
type exchange struct {
	Rate  float64 // complete exchanges per second
	Drops float64 // percent of the packets that got no answer
}

// parsePerfdhcp reads the statistics that perfdhcp prints at its end.
func parsePerfdhcp(out string) (exchange, error) {
	number := func(pattern string) (all []float64) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(out, -1) {
			n, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				return nil
			}
			all = append(all, n)
		}
		return all
	}
	rate, drops, received := number(`Rate: ([0-9.]+) 4-way`), number(`drops: ([0-9]+)`), number(`received packets: ([0-9]+)`)
	if len(rate) != 1 || len(drops) < 2 || len(received) < 2 {
		return exchange{}, errors.New("perfdhcp's output has no rate, drops and received packets")
	}
	x := exchange{Rate: rate[0]}
	if sum := drops[0] + drops[1] + received[0] + received[1]; sum > 0 {
		x.Drops = (drops[0] + drops[1]) / sum * 100
	}
	return x, nil
}

// dhcp compares complete exchanges with durable leases.
func (b *bench) dhcp(ctx context.Context) ([]Row, error) {
	k, err := b.tools(ctx) // perfdhcp comes with Kea
	if err != nil {
		return nil, err
	}
	full := Row{What: "DHCP exchanges, 20,000 clients, leases durable", Unit: Exchanges, Target: Target{Times: 1, Over: "kea"}} // though it does not sync: what it says of its leases is what users compare
	calm := Row{What: "DHCP packets lost at 3,000 exchanges/s", Unit: Percent}
	var own error
	for _, c := range []contender{b.roostDHCP(), b.keaDHCP(true), b.keaDHCP(false), b.dnsmasqDHCP()} {
		for _, load := range []struct {
			row  *Row
			rate int
		}{{&full, 20000}, {&calm, 3000}} {
			b.say("%s: %s", load.row.What, c.who)
			x, err := b.exchanges(ctx, c, k, load.rate)
			value := x.Rate
			if load.row == &calm {
				value = x.Drops
			}
			load.row.Results = append(load.row.Results, sideOf(c.who, value, c.note, err))
			if err != nil && c.who == ours {
				own = errors.Join(own, fmt.Errorf("%s: %w", load.row.What, err))
			}
		}
	}
	return []Row{full, calm}, own
}

// exchanges loads a server for eight seconds.
func (b *bench) exchanges(ctx context.Context, c contender, k *kit, rate int) (exchange, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	w, err := lay(ctx)
	if err != nil {
		return exchange{}, err
	}
	defer w.cut()
	s, err := c.begin(ctx, w)
	if err != nil {
		return exchange{}, err
	}
	defer s.stop()
	load := func(rate, clients, seconds int) (exchange, error) {
		// perfdhcp's status tells of drops, which are a figure here; what it prints says whether it ran.
		text, err := output(ctx, w.in("client", k.line("perfdhcp", "-4", "-l", "eth0", "-r", fmt.Sprint(rate), "-R", fmt.Sprint(clients),
			"-p", fmt.Sprint(seconds), "-W", "1000000", "-d", "1", serverAddress)...)...)
		x, failure := parsePerfdhcp(text)
		if failure == nil {
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return x, err
			}
			return x, nil
		}
		return x, errors.Join(failure, err)
	}
	var failure error
	err = s.await(ctx, 15*time.Second, func() bool {
		var x exchange
		x, failure = load(20, 10, 1)
		return failure == nil && x.Rate > 0
	})
	if err != nil {
		return exchange{}, errors.Join(err, failure)
	}
	return load(rate, 20000, 8)
}

func (b *bench) roostDHCP() contender {
	return contender{who: ours, note: "a lease is on the disk (fsync) before it is acknowledged", begin: func(ctx context.Context, w *wire) (*service, error) {
		file, err := b.noise("dhcp.efi", 100_000)
		if err != nil {
			return nil, err
		}
		leases, err := os.MkdirTemp(b.dir, "leases-")
		if err != nil {
			return nil, err
		}
		arguments, err := roleArguments(role{Serve: &serving{Interface: "eth0", Mode: pxe.Own, File: file, Leases: leases}})
		if err != nil {
			return nil, err
		}
		s, err := start(ctx, nil, w.in("server", arguments...)...)
		if err != nil {
			return nil, err
		}
		s.after = func() { _ = os.RemoveAll(leases) } // inside the bench's own directory, which goes as a whole
		return s, nil
	}}
}

// keaSynced is Kea as durable as we are. It knows no fsync of its own, so its directory has the attribute S (chattr(1)),
// with which the file system writes every change at once.
const keaSynced = "kea synced"

func (b *bench) keaDHCP(synced bool) contender {
	c := b.external("kea", func(dir, inside string) ([]string, error) {
		if synced {
			if err := writeAtOnce(dir); err != nil {
				return nil, err
			}
		}
		config := fmt.Sprintf(`{"Dhcp4": {"interfaces-config": {"interfaces": ["eth0"]}, "lease-database": {"type": "memfile", "persist": true, "name": "%s/leases.csv"},
			"valid-lifetime": 600, "subnet4": [{"id": 1, "subnet": "10.77.0.0/16", "pools": [{"pool": "10.77.4.0 - 10.77.255.200"}]}],
			"loggers": [{"name": "kea-dhcp4", "severity": "ERROR"}]}}`, inside)
		places := []string{"env", "KEA_PIDFILE_DIR=" + inside, "KEA_LOCKFILE_DIR=" + inside, "KEA_DHCP_DATA_DIR=" + inside}
		return append(places, "kea-dhcp4", "-c", inside+"/kea.json"), os.WriteFile(dir+"/kea.json", []byte(config), 0o644)
	})
	c.note = "memfile with its lease file as it comes: no fsync, so a power cut loses leases that machines hold"
	if synced {
		c.who, c.note = keaSynced, "memfile with its lease file below a directory that is written at once (chattr +S)"
	}
	return c
}

// syncFlag is FS_SYNC_FL of linux/fs.h.
const syncFlag = 0x8

// writeAtOnce gives a directory, and so every file made in it, the attribute S.
func writeAtOnce(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags)|syncFlag)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot have files of %s written at once: %w", dir, err)
	}
	return nil
}

func (b *bench) dnsmasqDHCP() contender {
	c := b.external("dnsmasq", func(_, inside string) ([]string, error) {
		return dnsmasqArguments("--no-ping", "--dhcp-authoritative", "--dhcp-lease-max=100000",
			"--dhcp-range=10.77.4.0,10.77.255.200,255.255.0.0,10m", "--dhcp-leasefile="+inside+"/leases"), nil
	})
	c.note = "writes its lease file anew without fsync"
	return c
}
