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

// Controller is OpenStack's control plane on this host.
type Controller struct {
	Root    string // of the machine; / on one
	Machine Machine
	Keys    service.Files // of the directory var/lib/roost/openstack
	Join    func(context.Context, api.Join) (*api.Material, error)
	Ceph    func(context.Context, api.Join) (*api.Material, error) // as Join, of the site's Ceph
	Image   []images.Component                                     // of the running release
	Node    string                                                 // name of this host
	Control bool                                                   // it is a controller
	Now     func() time.Time
	Open    func(socket string) (Database, error)                                // the database; nil outside of tests
	Dial    func(ctx context.Context, network, address string) (net.Conn, error) // how services are reached; nil outside of tests

	mu    sync.Mutex          // guards the fields below
	held  map[string]held     // what is dear to ask, by step
	heads map[string][]string // of the image's migrations, which stay as they are
	cloud *cloud
}

// Name is that of the component in the image.
func (*Controller) Name() string { return "openstack-controller" }

// Wanted reports whether this host is to run the control plane.
func (h *Controller) Wanted(c *api.Config) bool { return c.OpenStack != nil && h.Control }

// Steps brings the control plane up, or away.
func (h *Controller) Steps(c *api.Config) []service.Step {
	if !h.Wanted(c) {
		return []service.Step{{Name: "leave", Holds: h.gone, Make: h.leave, Limit: 2 * time.Minute}}
	}
	address, err := h.reached(c)
	if err != nil {
		return []service.Step{service.Impossible("plan", err)}
	}
	// What the plan lacks, the first steps read into it before any other needs it.
	b := &bringUp{Controller: h, plan: plan{wish: c.OpenStack.Defaults(), node: h.Node, address: address}}
	steps := []service.Step{{Name: "keys", Holds: b.hasKeys, Make: b.makeKeys}}
	if h.hasCeph(c) {
		b.ceph = &storage{}
		steps = append(steps, service.Step{Name: "access to Ceph", Holds: b.knowsCeph, Make: b.meetCeph})
	}
	workers := [][]service.Step{{b.start(unitConductor)}, {b.start(unitScheduler)}, {b.start(unitMaintenance)}, {b.start(unitVolumes)}, b.volumeLane()}
	steps = append(steps, []service.Step{
		{Name: "settings", Holds: b.hasSettings, Make: b.writeSettings},
		{Name: "services", Lanes: [][]service.Step{
			{b.start(unitQueue)},
			{b.start(unitCache), b.start(unitFront)},
			{b.start(unitNorth), b.start(unitSouth), b.start(unitNorthd)},
			{
				b.start(unitDatabase),
				{Name: "databases", Holds: b.asked(hasDatabases), Make: b.asked(makeDatabases)},
				{Name: "projects", Lanes: b.lanes()},
			},
		}},
		{Name: "workers", Lanes: workers},
	}...)
	return append(append(steps, b.storageSteps()...),
		b.dear(service.Step{Name: "nova", Holds: b.novaWorks, Limit: 2 * time.Minute}),
		b.dear(service.Step{Name: "wishes", Holds: b.hasWishes, Make: b.makeWishes, Limit: 2 * time.Minute}))
}

// lanes brings up each project: its schemas, its API, and what comes before or after that.
func (b *bringUp) lanes() (lanes [][]service.Step) {
	for _, x := range allProjects() {
		var lane []service.Step
		for _, s := range x.schemas {
			if s.name == "nova_cell0" {
				continue // made with nova's
			}
			lane = append(lane, service.Step{Name: "schema " + s.name, Limit: time.Minute, Holds: b.hasSchema(s),
				Make: func(ctx context.Context) error { return b.Machine.RunUnit(ctx, syncOf(s)) }})
			if s.name == "nova_api" {
				lane = append(lane, service.Step{Name: "cells", Holds: b.hasCells, Make: func(ctx context.Context) error { return b.Machine.RunUnit(ctx, unitCells) }})
			}
		}
		switch x.name {
		case "keystone":
			lane = append(lane, service.Step{Name: "administrator", Holds: b.hasAdministrator,
				Make: func(ctx context.Context) error { return b.Machine.RunUnit(ctx, unitBootstrap) }})
		case "glance":
			if b.ceph != nil {
				lane = append(lane, b.pool("glance")) // it gives up a store that it does not reach when it starts
			}
		case "nova-metadata":
			lane = append(lane, service.Step{Name: "schema nova", Holds: b.hasSchema(schema{"nova", "nova/db/main/migrations/versions"}), Limit: 5 * time.Minute})
		}
		lane = append(lane, b.start(unitOf(x.name)), service.Step{Name: x.name, Holds: b.answers(x), Limit: 3 * time.Minute})
		if x.name == "keystone" {
			lane = append(lane, b.dear(service.Step{Name: "catalogue", Holds: b.hasCatalogue, Make: b.makeCatalogue, Limit: time.Minute}))
		}
		lanes = append(lanes, lane)
	}
	return lanes
}

// reached is where others reach this host: what the configuration gives it first, else what it has.
func (h *Controller) reached(c *api.Config) (string, error) {
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

// bringUp are the facts and acts of one plan.
type bringUp struct {
	*Controller
	plan
}

func (b *bringUp) at(name string) string { return filepath.Join("/", b.Root, name) }

func (b *bringUp) read(name string) []byte {
	content, err := b.Keys.Read(name)
	if err != nil {
		return nil // what cannot be read is not there
	}
	return content
}

const secretsFile = "secrets.json"

// readSecrets completes the plan.
func (b *bringUp) readSecrets() error {
	kept := map[string][]byte{}
	if err := json.Unmarshal(b.read(secretsFile), &kept); err != nil {
		return errors.New("this host has no secrets of OpenStack yet")
	}
	b.secrets = map[string]string{}
	for name, secret := range kept {
		b.secrets[name] = string(secret)
	}
	for _, name := range append(passwords(), credentialKeys()...) {
		if b.secrets[name] == "" {
			return fmt.Errorf("this host has no secret %s of OpenStack yet", name)
		}
	}
	return nil
}

// hasKeys reads the secrets into the plan, and asks for a certificate with which this host can be reached.
func (b *bringUp) hasKeys(context.Context) error {
	if err := b.readSecrets(); err != nil {
		return err
	}
	if err := b.dated(b.Now()); err != nil {
		return err
	}
	if err := service.Usable(b.read("server.crt"), b.read("server.key"), b.read("ca.crt"), b.address, b.Now()); err != nil {
		return fmt.Errorf("certificate of the APIs: %w", err)
	}
	return nil
}

// makeKeys asks the site for the secrets, and for a certificate over a key of this host's.
func (b *bringUp) makeKeys(ctx context.Context) error {
	key, request, err := service.NewRequest()
	if err != nil {
		return err
	}
	material, err := b.Join(ctx, api.Join{Schema: 1, Requests: map[string]string{certServer: request}})
	if err != nil {
		return err
	}
	secrets, err := json.Marshal(material.Secrets)
	if err != nil {
		return fmt.Errorf("cannot keep secrets: %w", err)
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{secretsFile, secrets}, {"ca.crt", []byte(material.Authorities["site"])}, {"server.key", key}, {"server.crt", []byte(material.Certificates[certServer])}} {
		if bytes.Equal(b.read(f.name), f.text) {
			continue // a newer file would start services anew
		}
		if err := b.Keys.Write(f.name, f.text); err != nil {
			return err
		}
	}
	return nil
}

// all are the files of the plan, with those that come from the site.
func (b *bringUp) all() []file {
	return append(b.files(), file{path: caFile, mode: 0o644, text: string(b.read("ca.crt"))})
}

func (b *bringUp) hasSettings(context.Context) error {
	for _, f := range b.all() {
		if err := service.Written(b.at(f.path), f.text, fs.FileMode(f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// writeSettings writes what differs. /etc and /run go with the boot, so nothing needs to be durable.
func (b *bringUp) writeSettings(context.Context) error {
	for _, f := range b.all() {
		if err := service.Write(b.at(f.path), f.text, fs.FileMode(f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// start is the step that a service runs, with settings no older than those that are there.
func (b *bringUp) start(name string) service.Step {
	i := slices.IndexFunc(b.units(), func(u unit) bool { return u.name == name })
	u := b.units()[i]
	return service.Step{
		Name:  "start " + strings.TrimSuffix(strings.TrimPrefix(name, "openstack-"), ".service"),
		Holds: func(ctx context.Context) error { return b.runs(ctx, u) },
		Make:  func(ctx context.Context) error { return b.Machine.StartUnit(ctx, name) },
		Limit: 3 * time.Minute,
	}
}

// runs asks whether a service is up with its newest settings. One that is about to start again has not begun well: it is
// waited for.
func (b *bringUp) runs(ctx context.Context, u unit) error {
	return service.Runs(ctx, b.Machine, u.name, []string{"active"}, b.Root, u.inputs())
}

// answers asks a project's API as others reach it, without a token.
func (b *bringUp) answers(x project) func(context.Context) error {
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
func (b *bringUp) transport() (*http.Transport, error) {
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

// dear wraps a step whose fact costs the services work to answer: it is asked of them again a minute after it held.
func (b *bringUp) dear(step service.Step) service.Step {
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
