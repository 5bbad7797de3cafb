package pxe_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"roost/images"
	"roost/pxe"
	"roost/pxe/dhcp"
)

// errand is a server in a process (and network namespace) of its own, told through the environment.
type errand struct {
	Interfaces []pxe.Interface
	UKI        string // path; served as release, and as root and verity too
	IPXE       string // path
	Pin        bool   // TFTP by pin/tftp alone, for comparison
	Ports      pxe.Ports
	Leases     string
	Probe      time.Duration
	Ask        string        // instead of serving: ask for an address on eth0 as a client of this class and print what comes
	AskWait    time.Duration // after each question
	AskOn      bool          // until an ACK comes
	Get        string        // instead of serving: print the HTTP status of this URL
}

const errandVariable = "PXE_TEST_ERRAND"

func TestMain(m *testing.M) {
	if text := os.Getenv(errandVariable); text != "" {
		if err := runErrand(text); err != nil {
			fmt.Fprintln(os.Stderr, "errand:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runErrand serves until standard input ends, and prints events as JSON.
func runErrand(text string) error {
	var e errand
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	if e.Ask != "" {
		for acked, begun := false, time.Now(); !acked; {
			var err error
			if acked, err = ask(e.Ask, e.AskWait); err != nil {
				return err
			}
			if !e.AskOn || time.Since(begun) > 10*time.Second {
				break
			}
		}
		return nil
	}
	if e.Get != "" {
		response, err := http.Get(e.Get)
		if err != nil {
			return err
		}
		fmt.Println(response.StatusCode)
		return response.Body.Close()
	}
	content, err := os.ReadFile(e.UKI)
	if err != nil {
		return err
	}
	file := pxe.File{Digest: images.DigestOf(content), Size: int64(len(content)), Open: func() (io.ReadSeekCloser, error) { return os.Open(e.UKI) }}
	offer := &pxe.Offer{Release: file.Digest, Name: "edge", Version: "1", Architecture: "amd64", RootHash: strings.Repeat("ab", 32), UKI: file, Root: file, Verity: file}
	config := pxe.Config{Interfaces: e.Interfaces, Shelf: shelf{offer.Release: offer}, Assigner: pxe.Everyone(offer.Release), Ports: e.Ports, Leases: e.Leases, Probe: e.Probe,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if e.IPXE != "" {
		if config.IPXE, err = os.ReadFile(e.IPXE); err != nil {
			return err
		}
	}
	if e.Pin {
		config.Ports.TFTP = 6969
		go func() { _ = pinAlone(content) }()
	}
	out := json.NewEncoder(os.Stdout)
	config.OnEvent = func(event pxe.Event) { _ = out.Encode(event) }
	server, err := pxe.New(config)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return server.Run(ctx)
}

// ask runs DISCOVER and REQUEST by broadcast, listens for a time after each, and prints every answer.
func ask(class string, wait time.Duration) (acked bool, err error) {
	ctx := context.Background()
	iface, err := net.InterfaceByName("eth0")
	if err != nil {
		return false, err
	}
	conn, err := dhcp.Listen(ctx, iface.Name, 68, true)
	if err != nil {
		return false, err
	}
	modifiers := []dhcpv4.Modifier{dhcpv4.WithHwAddr(iface.HardwareAddr), dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class))}
	if class == "Roost" {
		modifiers = append(modifiers, dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, iface.HardwareAddr...))))
	}
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
		p, err := dhcpv4.New(append(modifiers, dhcpv4.WithMessageType(kind))...)
		if err != nil {
			return false, err
		}
		if _, err := conn.WriteToUDP(p.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return false, err
		}
		buffer := make([]byte, 1500)
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				break
			}
			answer, err := dhcpv4.FromBytes(buffer[:n])
			if err != nil || answer.TransactionID != p.TransactionID {
				continue
			}
			fmt.Println(answer.MessageType(), "from", answer.ServerIdentifier(), "address", answer.YourIPAddr, "class", answer.ClassIdentifier(), "file", answer.BootFileName)
			acked = acked || answer.MessageType() == dhcpv4.MessageTypeAck
			if kind == dhcpv4.MessageTypeDiscover && !answer.YourIPAddr.IsUnspecified() {
				modifiers = append(modifiers, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(answer.ServerIdentifier())), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(answer.YourIPAddr)))
			}
		}
	}
	return acked, conn.Close()
}

// wire is two network namespaces joined by a cable: "server" with 10.77.0.1/16 on eth0, "client" with eth0 up.
type wire struct {
	t    testing.TB
	name string
}

func newWire(t testing.TB) *wire {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	w := &wire{t: t, name: fmt.Sprintf("roost-test-%08x", rand.Uint32())}
	for _, side := range []string{"server", "client"} {
		w.room(side)
	}
	w.plug()
	return w
}

// newHub is a wire with a switch: "server", "client" and "other" (10.77.0.3) are plugged into it.
func newHub(t testing.TB) *wire {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	w := &wire{t: t, name: fmt.Sprintf("roost-test-%08x", rand.Uint32())}
	for _, side := range []string{"hub", "server", "client", "other"} {
		w.room(side)
	}
	hub := w.name + "-hub"
	run(t, "ip", "-n", hub, "link", "add", "bridge", "type", "bridge", "stp_state", "0")
	run(t, "ip", "-n", hub, "link", "set", "bridge", "up")
	for _, side := range []string{"server", "client", "other"} {
		run(t, "ip", "-n", hub, "link", "add", side, "type", "veth", "peer", "name", "eth0", "netns", w.name+"-"+side)
		run(t, "ip", "-n", hub, "link", "set", side, "master", "bridge", "up")
		run(t, "ip", "-n", w.name+"-"+side, "link", "set", "eth0", "up")
	}
	run(t, "ip", "-n", w.name+"-server", "address", "add", "10.77.0.1/16", "dev", "eth0")
	run(t, "ip", "-n", w.name+"-other", "address", "add", "10.77.0.3/16", "dev", "eth0")
	return w
}

// room makes a namespace for as long as the test lasts.
func (w *wire) room(side string) {
	w.t.Helper()
	run(w.t, "ip", "netns", "add", w.name+"-"+side)
	w.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", w.name+"-"+side).Run() })
	run(w.t, "ip", "-n", w.name+"-"+side, "link", "set", "lo", "up")
}

// plug joins the namespaces with a new cable.
func (w *wire) plug() {
	w.t.Helper()
	run(w.t, "ip", "-n", w.name+"-server", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", w.name+"-client")
	run(w.t, "ip", "-n", w.name+"-server", "address", "add", "10.77.0.1/16", "dev", "eth0")
	for _, side := range []string{"server", "client"} {
		run(w.t, "ip", "-n", w.name+"-"+side, "link", "set", "eth0", "up")
	}
}

// ask asks for an address from the client's namespace and returns the answers, a line each.
func (w *wire) ask(class string) string {
	w.t.Helper()
	out, err := w.askFor(errand{Ask: class, AskWait: 1500 * time.Millisecond})
	if err != nil {
		w.t.Fatalf("ask: %v\n%s", err, out)
	}
	return out
}

// get returns the HTTP status that a side gets.
func (w *wire) get(side, url string) string {
	w.t.Helper()
	command := w.in(side, os.Args[0])
	command.Env = append(os.Environ(), fmt.Sprintf(`%s={"Get":%q}`, errandVariable, url))
	out, err := command.CombinedOutput()
	if err != nil {
		w.t.Fatalf("get: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *wire) askFor(e errand) (string, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	command := w.in("client", os.Args[0])
	command.Env = append(os.Environ(), errandVariable+"="+string(text))
	out, err := command.CombinedOutput()
	return string(out), err
}

// dnsmasq starts a DHCP server that gives 10.77.2.0 to 10.77.2.200 and waits until it answers.
func (w *wire) dnsmasq(side string, more ...string) {
	w.t.Helper()
	w.background(side, append([]string{"dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=eth0", "--bind-interfaces",
		"--pid-file=", "--no-ping", "--dhcp-range=10.77.2.0,10.77.2.200,255.255.0.0,10m", "--dhcp-leasefile=" + w.t.TempDir() + "/leases"}, more...)...)
	for range 10 {
		if strings.Contains(w.ask("test"), "10.77.2.") {
			return
		}
	}
	w.t.Fatal("dnsmasq does not answer")
}

func run(t testing.TB, arguments ...string) string {
	t.Helper()
	out, err := exec.Command(arguments[0], arguments[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
	return string(out)
}

// in makes a command that runs in one of the namespaces.
func (w *wire) in(side string, arguments ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", w.name + "-" + side}, arguments...)...)
}

// background starts a program in a namespace until the test ends.
func (w *wire) background(side string, arguments ...string) {
	w.t.Helper()
	command := w.in(side, arguments...)
	log := &lockedBuffer{}
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", arguments[0], log)
		}
	})
}

// process is a running errand.
type process struct {
	events chan pxe.Event
	log    *lockedBuffer
	stop   func()
	pid    int
}

// serve starts an errand in the server's namespace.
func (w *wire) serve(e errand) *process {
	w.t.Helper()
	if e.UKI == "" {
		e.UKI = filepath.Join(w.t.TempDir(), "uki")
		if err := os.WriteFile(e.UKI, random(1, 100_000), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	text, err := json.Marshal(e)
	if err != nil {
		w.t.Fatal(err)
	}
	command := w.in("server", os.Args[0])
	command.Env = append(os.Environ(), errandVariable+"="+string(text))
	p := &process{events: make(chan pxe.Event, 10_000), log: &lockedBuffer{}}
	command.Stderr = p.log
	in, err := command.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		w.t.Fatal(err)
	}
	p.pid = command.Process.Pid // ip replaces itself by the program
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var event pxe.Event
			if json.Unmarshal(lines.Bytes(), &event) == nil {
				p.events <- event
			}
		}
	}()
	ended := false
	p.stop = func() {
		if ended {
			return
		}
		ended = true
		_ = in.Close()
		<-done
		if err := command.Wait(); err != nil {
			w.t.Errorf("server: %v", err)
		}
	}
	w.t.Cleanup(func() {
		p.stop()
		if w.t.Failed() {
			w.t.Logf("server:\n%s", p.log)
		}
	})
	p.logged(w.t, "msg=serving", 10*time.Second)
	return p
}

// event waits for an event of a kind.
func (p *process) event(t testing.TB, kind pxe.EventKind, within time.Duration) pxe.Event {
	t.Helper()
	timeout := time.After(within)
	for {
		select {
		case e := <-p.events:
			if e.Kind == kind {
				return e
			}
		case <-timeout:
			t.Fatalf("no event %s within %v", kind, within)
		}
	}
}

// logged waits for a text in the server's log.
func (p *process) logged(t testing.TB, text string, within time.Duration) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(p.log.String(), text) {
			return
		}
	}
	t.Fatalf("log has no %q:\n%s", text, p.log)
}

func own(change func(*pxe.Interface)) []pxe.Interface {
	i := pxe.Interface{Name: "eth0", Mode: pxe.Own, Network: pxe.Network{
		First: netip.MustParseAddr("10.77.4.0"), Last: netip.MustParseAddr("10.77.255.200"), Router: netip.MustParseAddr("10.77.0.1")}}
	if change != nil {
		change(&i)
	}
	return []pxe.Interface{i}
}
