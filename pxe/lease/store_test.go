package lease

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roost/images/durable"
	"roost/images/durable/durabletest"
)

var start = time.Unix(1_800_000_000, 0)

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

func key(n int) Key {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n)|0x52_54_00_00_00_00)
	return Key(b[2:])
}

func small(t testing.TB, medium durable.Medium) *Store {
	t.Helper()
	s, err := Open(Config{Medium: medium, Ranges: []Range{{
		First: address("10.77.0.10"), Last: address("10.77.0.13"),
		Reserved: map[Key]netip.Addr{key(100): address("10.77.0.11"), key(101): address("10.77.0.200")},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bind(t *testing.T, s *Store, now time.Time, a netip.Addr, k Key, d time.Duration) error {
	t.Helper()
	called := false
	err := s.Bind(now, 0, Lease{Address: a, Key: k, Until: now.Add(d)}, func(err error) {
		called = true
		if err != nil {
			t.Errorf("bind %s to %s: %v", a, k, err)
		}
	})
	if (err == nil) != called {
		t.Errorf("bind %s to %s: error %v, told %t", a, k, err, called)
	}
	return err
}

func TestAddressesStayWithTheirMachine(t *testing.T) {
	s, now := small(t, nil), start
	first, ok := s.Offer(now, 0, key(1), netip.Addr{})
	if !ok {
		t.Fatal("no offer from an empty range")
	}
	if again, _ := s.Offer(now, 0, key(1), netip.Addr{}); again != first {
		t.Errorf("second offer %s, first was %s", again, first)
	}
	if err := bind(t, s, now, first, key(1), time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := bind(t, s, now, first, key(2), time.Minute); !errors.Is(err, ErrTaken) {
		t.Errorf("binding a held address: %v, want ErrTaken", err)
	}
	later := now.Add(time.Hour)
	if back, _ := s.Offer(later, 0, key(1), netip.Addr{}); back != first {
		t.Errorf("after its lease ended the machine is offered %s, had %s", back, first)
	}
	if l, ok := s.Holder(now, first); !ok && l.Key == key(1) {
		t.Errorf("holder of %s: %v", first, l)
	}
}

func TestRangeIsExhaustedAndRecovers(t *testing.T) {
	s, now := small(t, nil), start
	// 10.77.0.11 is reserved: three addresses are left for others.
	seen := map[netip.Addr]bool{}
	for n := range 3 {
		a, ok := s.Offer(now, 0, key(n), address("10.77.0.11"))
		if !ok || seen[a] || a == address("10.77.0.11") {
			t.Fatalf("offer %d: %s, %t; earlier: %v", n, a, ok, seen)
		}
		seen[a] = true
	}
	if a, ok := s.Offer(now, 0, key(3), netip.Addr{}); ok {
		t.Fatalf("fourth client of three addresses is offered %s", a)
	}
	if _, ok := s.Offer(now.Add(29*time.Second), 0, key(3), netip.Addr{}); ok {
		t.Error("an offer was handed to another before its hold ended")
	}
	a, ok := s.Offer(now.Add(31*time.Second), 0, key(3), netip.Addr{})
	if !ok {
		t.Fatal("offers that nobody took are not reused")
	}
	if err := bind(t, s, now.Add(31*time.Second), a, key(3), time.Minute); err != nil {
		t.Error(err)
	}
	s.Withdraw(now, 0, key(1))
	if _, ok := s.Offer(now, 0, key(4), netip.Addr{}); !ok {
		t.Error("a withdrawn offer is not reused at once")
	}
}

func TestReservations(t *testing.T) {
	s, now := small(t, nil), start
	for _, c := range []struct {
		key  Key
		want string
	}{{key(100), "10.77.0.11"}, {key(101), "10.77.0.200"}} {
		a, ok := s.Offer(now, 0, c.key, address("10.77.0.12"))
		if !ok || a != address(c.want) {
			t.Errorf("%s is offered %s, reserved %s", c.key, a, c.want)
		}
		if err := bind(t, s, now, a, c.key, time.Minute); err != nil {
			t.Error(err)
		}
		if err := bind(t, s, now, a, key(1), time.Minute); !errors.Is(err, ErrTaken) {
			t.Errorf("a stranger binding %s: %v, want ErrTaken", a, err)
		}
	}
	if err := bind(t, s, now, address("10.77.0.12"), key(100), time.Minute); !errors.Is(err, ErrTaken) {
		t.Errorf("a machine with a reservation binding another address: %v, want ErrTaken", err)
	}
	_, err := Open(Config{Ranges: []Range{{Reserved: map[Key]netip.Addr{key(1): address("10.0.0.1"), key(2): address("10.0.0.1")}}}})
	if err == nil {
		t.Error("one address reserved twice is accepted")
	}
}

func TestDeclinedAddressRests(t *testing.T) {
	s, now := small(t, nil), start
	a, _ := s.Offer(now, 0, key(1), netip.Addr{})
	if s.Decline(now, 0, a, key(2)) {
		t.Error("a stranger can put an address in quarantine")
	}
	if !s.Decline(now, 0, a, key(1)) {
		t.Fatal("decline is refused")
	}
	b, ok := s.Offer(now, 0, key(1), a)
	if !ok || b == a {
		t.Errorf("after decline of %s: offered %s, %t", a, b, ok)
	}
	if err := bind(t, s, now, a, key(1), time.Minute); !errors.Is(err, ErrTaken) {
		t.Errorf("binding in quarantine: %v, want ErrTaken", err)
	}
	if err := bind(t, s, now.Add(11*time.Minute), a, key(3), time.Minute); err != nil {
		t.Errorf("binding after the quarantine: %v", err)
	}
}

// TestNeverTwice plays random clients against the store and holds every answer against a plain model.
func TestNeverTwice(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		s, now := small(t, nil), start
		type holding struct {
			key   Key
			until time.Time
		}
		held := map[netip.Addr]holding{}
		for step := range 2000 {
			now = now.Add(time.Duration(random.IntN(20)) * time.Second)
			k := key(random.IntN(8))
			a := address(fmt.Sprintf("10.77.0.%d", 9+random.IntN(6)))
			switch random.IntN(6) {
			case 0, 1, 2:
				got, ok := s.Offer(now, 0, k, a)
				if h := held[got]; ok && h.key != k && now.Before(h.until) {
					t.Fatalf("seed %d step %d: %s offered to %s while %s holds it", seed, step, got, k, h.key)
				}
				if !ok || random.IntN(4) == 0 {
					continue
				}
				if err := bind(t, s, now, got, k, time.Minute); err != nil {
					t.Fatalf("seed %d step %d: cannot bind what was offered: %v", seed, step, err)
				}
				for other, h := range held {
					if h.key == k {
						delete(held, other) // a machine holds one address
					}
				}
				held[got] = holding{k, now.Add(time.Minute)}
			case 3:
				if bind(t, s, now, a, k, time.Minute) != nil {
					continue
				}
				if h := held[a]; h.key != k && now.Before(h.until) {
					t.Fatalf("seed %d step %d: %s bound to %s while %s holds it", seed, step, a, k, h.key)
				}
				for other, h := range held {
					if h.key == k {
						delete(held, other)
					}
				}
				held[a] = holding{k, now.Add(time.Minute)}
			case 4:
				if s.Release(now, 0, a, k) && held[a].key == k {
					delete(held, a)
				}
			case 5:
				if s.Decline(now, 0, a, k) && held[a].key == k {
					delete(held, a)
				}
			}
		}
	}
}

// TestPowerCut cuts the power at every disk operation of a life with renewals, releases and rewrites of the log.
func TestPowerCut(t *testing.T) {
	acknowledged := map[netip.Addr]Key{}
	open := func(d *durabletest.Disk) (*Store, error) {
		return Open(Config{Medium: d.Medium("leases"), Compact: 400, Ranges: []Range{{First: address("10.0.0.1"), Last: address("10.0.0.9")}}})
	}
	life := func(d *durabletest.Disk) error {
		clear(acknowledged)
		s, err := open(d)
		if err != nil {
			return err
		}
		var failed error
		for n := range 24 {
			k := key(n % 6)
			a, ok := s.Offer(start, 0, k, netip.Addr{})
			if !ok {
				return errors.New("range exhausted")
			}
			if err := s.Bind(start, 0, Lease{Address: a, Key: k, Until: start.Add(time.Hour), Host: "node"}, func(err error) {
				if failed = err; err == nil {
					acknowledged[a] = k
				}
			}); err != nil {
				return err
			}
			if n%4 == 3 {
				if err := s.flush(); err != nil {
					return err
				}
			}
		}
		return failed
	}
	check := func(d *durabletest.Disk, cut durabletest.Cut, done bool) {
		s, err := open(d)
		if err != nil {
			t.Fatalf("%s: cannot open: %v", cut, err)
		}
		if done && len(acknowledged) != 6 {
			t.Fatalf("%s: %d leases acknowledged, want 6", cut, len(acknowledged))
		}
		for a, k := range acknowledged {
			if l, ok := s.Holder(start, a); !ok || l.Key != k {
				t.Fatalf("%s: %s was acknowledged to %s, found %v", cut, a, k, l)
			}
		}
	}
	durabletest.EveryCut(t, func(*durabletest.Disk) error { return nil }, life, check)
}

// TestKill kills a process with SIGKILL while it gives out addresses and compares what it acknowledged with what is found.
func TestKill(t *testing.T) {
	if dir := os.Getenv("LEASE_TEST_DIRECTORY"); dir != "" {
		giveOut(dir)
		return
	}
	dir := t.TempDir()
	owner := map[netip.Addr]string{}
	for round := range 3 {
		child := exec.Command(os.Args[0], "-test.run=^TestKill$")
		child.Env = append(os.Environ(), "LEASE_TEST_DIRECTORY="+dir, fmt.Sprintf("LEASE_TEST_ROUND=%d", round))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, goal := 0, 500+rand.IntN(1500)
		for scanner := bufio.NewScanner(out); scanner.Scan(); lines++ {
			text, k, ok := strings.Cut(scanner.Text(), " ")
			a, err := netip.ParseAddr(text)
			if !ok || err != nil {
				break // the line that the kill tore
			}
			if other, ok := owner[a]; ok && other != k {
				t.Fatalf("round %d: %s acknowledged to %s and to %s", round, a, other, k)
			}
			owner[a] = k
			if lines == goal {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil || lines < goal {
			t.Fatalf("round %d: child ended by itself after %d lines: %v", round, lines, err)
		}
	}
	s := wide(t, dir)
	for a, k := range owner {
		if l, ok := s.Holder(time.Now(), a); !ok || l.Key.String() != k {
			t.Fatalf("%s was acknowledged to %s, found %v", a, k, l)
		}
	}
}

func wide(t testing.TB, dir string) *Store {
	medium, err := durable.Disk(dir, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Medium: medium, Compact: 64 << 10, Ranges: []Range{{First: address("10.0.0.1"), Last: address("10.0.255.254")}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// giveOut is the child of TestKill: it prints each lease once it is acknowledged, until it is killed.
func giveOut(dir string) {
	medium, err := durable.Disk(dir, 0o644)
	if err != nil {
		panic(err)
	}
	s, err := Open(Config{Medium: medium, Compact: 64 << 10, Ranges: []Range{{First: address("10.0.0.1"), Last: address("10.0.255.254")}}})
	if err != nil {
		panic(err)
	}
	go func() { _ = s.Run(context.Background()) }()
	round := 0
	_, _ = fmt.Sscan(os.Getenv("LEASE_TEST_ROUND"), &round)
	for n := 0; ; n++ {
		k := key(round*20_000 + n%20_000)
		a, ok := s.Offer(time.Now(), 0, k, netip.Addr{})
		if !ok {
			panic("exhausted")
		}
		err := s.Bind(time.Now(), 0, Lease{Address: a, Key: k, Until: time.Now().Add(time.Hour)}, func(err error) {
			if err == nil {
				fmt.Println(a, k)
			}
		})
		if err != nil {
			panic(err)
		}
		if n%16 == 0 {
			time.Sleep(50 * time.Microsecond) // leave the writer a gap, so that there are many commits
		}
	}
}

func TestDamagedLinesAreSkipped(t *testing.T) {
	disk := durabletest.New()
	medium := disk.Medium("leases")
	s := small(t, medium)
	for n := range 3 {
		a, _ := s.Offer(start, 0, key(n), netip.Addr{})
		if err := s.Bind(start, 0, Lease{Address: a, Key: key(n), Until: start.Add(time.Hour)}, func(error) {}); err != nil {
			t.Fatal(err)
		}
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
	}
	names, err := s.journal.logs()
	if err != nil || len(names) != 1 {
		t.Fatalf("logs: %v, %v", names, err)
	}
	content, err := medium.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	f, err := medium.Create(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(append(content, "00000000 bound 10."...)); err != nil {
		t.Fatal(err)
	}
	if got := len(small(t, medium).Leases(start)); got != 2 {
		t.Errorf("%d leases survive one flipped bit and a torn tail, want 2", got)
	}
}

func TestRewriteKeepsTheLogSmall(t *testing.T) {
	dir := t.TempDir()
	s := wide(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var told sync.WaitGroup
	a, _ := s.Offer(start, 0, key(1), netip.Addr{})
	for range 20_000 {
		told.Add(1)
		if err := s.Bind(start, 0, Lease{Address: a, Key: key(1), Until: start.Add(time.Hour)}, func(error) { told.Done() }); err != nil {
			t.Fatal(err)
		}
		if rand.IntN(100) == 0 {
			told.Wait()
		}
	}
	told.Wait()
	cancel()
	run.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("directory holds %v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 128<<10 {
		t.Errorf("log of one lease is %d bytes after 20000 renewals", info.Size())
	}
}

func TestWriteErrorIsTold(t *testing.T) {
	disk := durabletest.New()
	s := small(t, disk.Medium("leases"))
	disk.CutAt(1, false)
	a, _ := s.Offer(start, 0, key(1), netip.Addr{})
	var told error
	if err := s.Bind(start, 0, Lease{Address: a, Key: key(1), Until: start.Add(time.Hour)}, func(err error) { told = err }); err != nil {
		t.Fatal(err)
	}
	if err := s.flush(); err == nil || !errors.Is(told, durabletest.ErrPowerCut) {
		t.Errorf("flush on a dead disk: %v; the client's callback heard %v", err, told)
	}
}

func FuzzRecord(f *testing.F) {
	l := Lease{Address: address("10.0.0.1"), Key: key(7), State: Bound, Until: start, Host: "no\"de\n"}
	f.Add(string(appendRecord(nil, &l)))
	f.Add("00000000 bound 10.0.0.1 00 1 \"\"")
	f.Add("d0ee5e3c  ")
	f.Fuzz(func(t *testing.T, line string) {
		l, err := parseRecord([]byte(strings.TrimSuffix(line, "\n")))
		if err != nil {
			return
		}
		again, err := parseRecord([]byte(strings.TrimSuffix(string(appendRecord(nil, &l)), "\n")))
		if err != nil || again != l {
			t.Errorf("%v is read back as %v, %v", l, again, err)
		}
	})
}

func TestRecordRoundTrip(t *testing.T) {
	for _, l := range []Lease{
		{Address: address("10.0.0.1"), Key: key(7), State: Bound, Until: start, Host: "no\"de\n \xff"},
		{Address: address("255.0.0.1"), Key: "", State: Declined, Until: start},
		{Address: address("0.0.0.0"), Key: "id:\x00\xff", State: Released, Until: time.Unix(-5, 0)},
	} {
		line := appendRecord(nil, &l)
		got, err := parseRecord(line[:len(line)-1])
		if err != nil || got != l {
			t.Errorf("%v is read back as %v, %v", l, got, err)
		}
		for bit := range (len(line) - 1) * 8 {
			line[bit/8] ^= 1 << (bit % 8)
			if got, err := parseRecord(line[:len(line)-1]); err == nil && got != l {
				t.Fatalf("flipped bit %d goes unnoticed: %q", bit, line)
			}
			line[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func BenchmarkBindDurable(b *testing.B) {
	s := wide(b, b.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	var run, told sync.WaitGroup
	run.Go(func() { _ = s.Run(ctx) })
	var worst atomic.Int64
	window := make(chan struct{}, 64) // clients that wait for their answer at one time
	n := 0
	for b.Loop() {
		window <- struct{}{}
		told.Add(1)
		k, asked := key(n%60_000), time.Now()
		n++
		a, _ := s.Offer(asked, 0, k, netip.Addr{})
		if err := s.Bind(asked, 0, Lease{Address: a, Key: k, Until: asked.Add(time.Hour)}, func(error) {
			worst.Store(max(worst.Load(), int64(time.Since(asked))))
			<-window
			told.Done()
		}); err != nil {
			b.Fatal(err)
		}
	}
	told.Wait()
	cancel()
	run.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leases/s")
	b.ReportMetric(float64(worst.Load())/1e6, "worst-ms")
}
