package pxe_test

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"roost/pxe"
)

const pxeClass = "PXEClient:Arch:00007:UNDI:003016"

var ukiPattern = regexp.MustCompile(`file roost-[0-9a-f]{12}\.efi`)

func proxy() []pxe.Interface { return []pxe.Interface{{Name: "eth0", Mode: pxe.Proxy}} }

func TestOwnNetworkOnAWire(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.serve(errand{Interfaces: own(nil)})
	got := w.ask(pxeClass)
	if !strings.Contains(got, "ACK from 10.77.0.1 address 10.77.") || !ukiPattern.MatchString(got) {
		t.Errorf("firmware is told:\n%s", got)
	}
	if got := w.ask("Roost"); !strings.Contains(got, "ACK from 10.77.0.1 address 10.77.") || !strings.Contains(got, "class Roost file http://10.77.0.1:8069\n") {
		t.Errorf("the initrd is told:\n%s", got)
	}
}

// TestProxyBesideDHCPServer has dnsmasq give the addresses, from another machine or from the same address as ours.
func TestProxyBesideDHCPServer(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"other", "server"} {
		t.Run("dnsmasq on "+side, func(t *testing.T) {
			t.Parallel()
			w := newHub(t)
			w.dnsmasq(side)
			p := w.serve(errand{Interfaces: proxy()})
			dnsmasq := map[string]string{"other": "10.77.0.3", "server": "10.77.0.1"}[side]
			got := w.ask(pxeClass)
			if !regexp.MustCompile(`OFFER from 10\.77\.0\.1 address 0\.0\.0\.0 class PXEClient file roost-`).MatchString(got) ||
				!strings.Contains(got, "OFFER from "+dnsmasq+" address 10.77.2.") {
				t.Errorf("offers:\n%s", got)
			}
			if acks := regexp.MustCompile(`ACK from (\S+) address (\S+)`).FindAllStringSubmatch(got, -1); len(acks) != 1 || acks[0][1] != dnsmasq || acks[0][2] == "0.0.0.0" {
				t.Errorf("REQUEST must be answered by dnsmasq alone:\n%s", got)
			}
			// What the proxy saw of that opens TFTP and HTTP for the address, and not for machines that never asked.
			e := p.event(t, pxe.Requested, 5*time.Second)
			source := e.Client.Address.String()
			run(t, "ip", "-n", w.name+"-client", "address", "add", source+"/16", "dev", "eth0")
			for side, want := range map[string]string{"client": "200", "other": "403"} {
				if got := w.get(side, "http://10.77.0.1:8069/v1/site"); got != want {
					t.Errorf("HTTP from %s: %s, want %s", side, got, want)
				}
			}
		})
	}
}

func TestForeignServerIsReported(t *testing.T) {
	t.Parallel()
	w := newHub(t)
	w.dnsmasq("other", "--dhcp-authoritative")
	for _, policy := range []pxe.ForeignPolicy{pxe.Warn, pxe.Refuse} {
		p := w.serve(errand{Interfaces: own(func(i *pxe.Interface) { i.Foreign = policy }), Probe: time.Second})
		e := p.event(t, pxe.ForeignDHCP, 10*time.Second)
		if e.Foreign.Server != netip.MustParseAddr("10.77.0.3") || !netip.MustParsePrefix("10.77.2.0/24").Contains(e.Foreign.Offered) {
			t.Errorf("reported %+v", e.Foreign)
		}
		p.logged(t, "a foreign DHCP server is on this network", time.Second)
		if policy == pxe.Refuse {
			p.logged(t, "no addresses are offered to new machines", 2*time.Second)
		}
		got := w.ask(pxeClass)
		if offered := strings.Contains(got, "OFFER from 10.77.0.1"); offered != (policy == pxe.Warn) {
			t.Errorf("policy %q:\n%s", policy, got)
		}
		p.stop()
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	w := newHub(t)
	w.dnsmasq("server")
	command := w.in("server", os.Args[0])
	command.Env = append(os.Environ(), errandVariable+`={"UKI":"/etc/hostname","Interfaces":[{"Name":"eth0","Mode":"own","Network":{"First":"10.77.4.0","Last":"10.77.4.9"}}]}`)
	in, err := command.StdinPipe() // held open: its end would stop the server
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() // test
	out, err := command.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "cannot listen on eth0 port 67") || !strings.Contains(string(out), "address already in use") {
		t.Errorf("a second DHCP server on the port: %v\n%s", err, out)
	}
}

// TestInterfaceComesAndGoes takes the link down, the address away and the interface itself; each time machines are answered within
// two seconds of its return.
func TestInterfaceComesAndGoes(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.serve(errand{Interfaces: own(nil)})
	server := w.name + "-server"
	for name, change := range map[string]func(){
		"link down and up": func() {
			run(t, "ip", "-n", server, "link", "set", "eth0", "down")
			time.Sleep(time.Second)
			run(t, "ip", "-n", server, "link", "set", "eth0", "up")
		},
		"address away and back": func() {
			run(t, "ip", "-n", server, "address", "flush", "dev", "eth0")
			time.Sleep(time.Second)
			run(t, "ip", "-n", server, "address", "add", "10.77.0.1/16", "dev", "eth0")
		},
		"interface gone and new": func() {
			run(t, "ip", "-n", server, "link", "del", "eth0")
			time.Sleep(time.Second)
			w.plug()
		},
	} {
		change()
		begun := time.Now()
		out, err := w.askFor(errand{Ask: pxeClass, AskWait: 50 * time.Millisecond, AskOn: true})
		if err != nil || !strings.Contains(out, "ACK from 10.77.0.1") {
			t.Fatalf("%s: no answer: %v\n%s", name, err, out)
		}
		took := time.Since(begun)
		t.Logf("%s: answered after %v", name, took.Round(time.Millisecond))
		if took > 2*time.Second {
			t.Errorf("%s: answered after %v", name, took)
		}
	}
}
