package openstack

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/images"
)

// Machine is what a bring-up asks of the host; linux.Machine is one.
type Machine interface {
	service.Machine
	RunUnit(ctx context.Context, unit string) error // one that runs to its end; waits for it
	Run(ctx context.Context, input []byte, program string, args ...string) ([]byte, error)
}

// Host is where a part of OpenStack is brought up.
type Host struct {
	Root    string // of the machine; / on one
	Machine Machine
	Keys    service.Files // of a directory of the part's own
	Join    func(context.Context, api.Join) (*api.Material, error)
	Ceph    func(context.Context, api.Join) (*api.Material, error) // as Join, of the site's Ceph
	Image   []images.Component                                     // of the running release
	Node    string                                                 // name of this host
	Now     func() time.Time
	Dial    func(ctx context.Context, network, address string) (net.Conn, error) // how services are reached; nil outside of tests

	mu    sync.Mutex      // guards the fields below
	held  map[string]held // what is dear to ask, by step
	cloud *cloud
}

// reached is where others reach this host: what the configuration gives it first, else what it has.
func (h *Host) reached(c *api.Config) (string, error) {
	for _, i := range c.Interfaces {
		if len(i.Addresses) > 0 {
			address, _, _ := strings.Cut(i.Addresses[0], "/")
			return address, nil
		}
	}
	for _, a := range h.Machine.Addresses() {
		if address, err := netip.ParseAddr(a); err == nil && address.Is4() {
			return a, nil
		}
	}
	return "", errors.New("this host has no address yet")
}

// leaves takes a part away from the running machine. Keys and state stay, for a host that comes back.
func (h *Host) leaves(all layout, more ...string) []service.Step {
	gone := func(context.Context) error {
		for _, u := range all.units() {
			if _, err := os.Stat(filepath.Join("/", h.Root, unitDir, u.name)); err == nil {
				return fmt.Errorf("%s is still there", u.name)
			}
		}
		return nil
	}
	leave := func(ctx context.Context) error {
		for _, u := range slices.Backward(all.units()) {
			if err := h.Machine.StopUnit(ctx, u.name); err != nil {
				return err
			}
		}
		for _, f := range all.files() {
			more = append(more, f.path)
		}
		for _, path := range more {
			if err := os.RemoveAll(filepath.Join("/", h.Root, path)); err != nil {
				return fmt.Errorf("cannot leave OpenStack: %w", err)
			}
		}
		return nil
	}
	return []service.Step{{Name: "leave", Holds: gone, Make: leave, Limit: 2 * time.Minute}}
}

// part are the facts and acts of one part of OpenStack on a host.
type part struct {
	*Host
	plan
	has           layout
	user, project string // what it is for keystone
}

// layout is what a part has of services and files, as far as its plan goes.
type layout interface {
	units() []unit
	files() []file
}

func (b *part) at(name string) string { return filepath.Join("/", b.Root, name) }

func (b *part) read(name string) []byte {
	content, err := b.Keys.Read(name)
	if err != nil {
		return nil // what cannot be read is not there
	}
	return content
}

const secretsFile = "secrets.json"

// readSecrets completes the plan with the secrets that are kept. All that are named must be.
func (b *part) readSecrets(names []string) error {
	all := map[string][]byte{}
	if err := json.Unmarshal(b.read(secretsFile), &all); err != nil {
		return errors.New("this host has no secrets of OpenStack yet")
	}
	b.secrets = map[string]string{}
	for name, secret := range all {
		b.secrets[name] = string(secret)
	}
	for _, name := range names {
		if b.secrets[name] == "" {
			return fmt.Errorf("this host has no secret %s of OpenStack yet", name)
		}
	}
	return nil
}

// kept is a file of the directory of keys.
type kept struct {
	name string
	text []byte
}

// keep writes what the site gave. A file that is there as it should be stays: a newer one would start services anew.
func (b *part) keep(material *api.Material, more ...kept) error {
	secrets, err := json.Marshal(material.Secrets)
	if err != nil {
		return fmt.Errorf("cannot keep secrets: %w", err)
	}
	for _, f := range append([]kept{{secretsFile, secrets}, {"ca.crt", []byte(material.Authorities["site"])}}, more...) {
		if bytes.Equal(b.read(f.name), f.text) {
			continue
		}
		if err := b.Keys.Write(f.name, f.text); err != nil {
			return err
		}
	}
	return nil
}

// all are the files of the plan, with those that come from the site.
func (b *part) all() []file {
	return append(b.has.files(), file{path: caFile, mode: 0o644, text: string(b.read("ca.crt"))})
}

func (b *part) hasSettings(context.Context) error {
	for _, f := range b.all() {
		if err := service.Written(b.at(f.path), f.text, fs.FileMode(f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// writeSettings writes what differs. /etc and /run go with the boot, so nothing needs to be durable.
func (b *part) writeSettings(context.Context) error {
	for _, f := range b.all() {
		if err := service.Write(b.at(f.path), f.text, fs.FileMode(f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// start is the step that a service runs, with settings no older than those that are there.
func (b *part) start(name string) service.Step {
	i := slices.IndexFunc(b.has.units(), func(u unit) bool { return u.name == name })
	u := b.has.units()[i]
	return service.Step{
		Name:  "start " + strings.TrimSuffix(strings.TrimPrefix(name, "openstack-"), ".service"),
		Holds: func(ctx context.Context) error { return b.runs(ctx, u) },
		Make: func(ctx context.Context) error {
			if service.Runs(ctx, b.Machine, name, []string{"active", "activating"}, b.Root, u.inputs()) == nil {
				return nil // it is about to be up, and is not to be broken off
			}
			return b.Machine.StartUnit(ctx, name)
		},
		Limit: 3 * time.Minute,
	}
}

// runs asks whether a service is up with its newest settings. One that is about to start again has not begun well: it is
// waited for.
func (b *part) runs(ctx context.Context, u unit) error {
	return service.Runs(ctx, b.Machine, u.name, []string{"active"}, b.Root, u.inputs())
}

// answers asks a project's API as others reach it, without a token.
func (b *part) answers(x project) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		transport, err := b.transport()
		if err != nil {
			return err
		}
		defer transport.CloseIdleConnections()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url(x.port, x.health), nil)
		if err != nil {
			return fmt.Errorf("cannot ask %s: %w", x.name, err)
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			return fmt.Errorf("%s does not answer: %w", x.name, err)
		}
		defer answer.Body.Close()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			return fmt.Errorf("%s breaks off: %w", x.name, err)
		}
		if answer.StatusCode >= 500 {
			return fmt.Errorf("%s answers %s", x.name, answer.Status)
		}
		return nil
	}
}

// transport reaches the services of this host as others do.
func (b *part) transport() (*http.Transport, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b.read("ca.crt")) {
		return nil, errors.New("cannot reach OpenStack: no certificate of the site's authority")
	}
	return &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DialContext: b.Dial, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}, nil
}

// held is when a step of a plan held last.
type held struct {
	plan string
	at   time.Time
}

// dear wraps a step whose fact costs the services work to answer: it is asked of them again a minute after it held. One that is
// not answered in a minute does not hold.
func (b *part) dear(step service.Step) service.Step {
	wish, err := json.Marshal(b.wish)
	if err != nil {
		return service.Impossible(step.Name, err)
	}
	key, holds := b.address+" "+string(wish), step.Holds
	step.Holds = func(ctx context.Context) error {
		b.mu.Lock()
		last := b.held[step.Name]
		recent := last.plan == key && b.Now().Before(last.at.Add(time.Minute))
		b.mu.Unlock()
		if recent {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err := holds(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err == nil {
			if b.held == nil {
				b.held = map[string]held{}
			}
			b.held[step.Name] = held{key, b.Now()}
		} else {
			delete(b.held, step.Name)
		}
		return err
	}
	return step
}
