package openstack

import (
	"context"
	"fmt"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// Controller is OpenStack's control plane on this host.
type Controller struct {
	Host
	Control bool                                  // it is a controller
	Open    func(socket string) (Database, error) // the database; nil outside of tests

	heads map[string][]string // of the image's migrations, which stay as they are; the host's mutex guards it
}

// Name is that of the component in the image.
func (*Controller) Name() string { return "openstack-controller" }

// Wanted reports whether this host is to run the control plane.
func (h *Controller) Wanted(c *api.Config) bool { return c.OpenStack != nil && h.Control }

// Steps brings the control plane up, or away.
func (h *Controller) Steps(c *api.Config) []service.Step {
	if !h.Wanted(c) {
		return h.leaves(everything(), caFile)
	}
	address, err := h.reached(c)
	if err != nil {
		return []service.Step{service.Impossible("plan", err)}
	}
	// What the plan lacks, the first steps read into it before any other needs it.
	b := &bringUp{part: part{Host: &h.Host, plan: plan{wish: c.OpenStack.Defaults(), node: h.Node, address: address}, user: "admin", project: "admin"}, controller: h}
	b.has = &b.plan
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

// bringUp are the facts and acts of the control plane.
type bringUp struct {
	part
	controller *Controller
}

// hasKeys reads the secrets into the plan, and asks for a certificate with which this host can be reached.
func (b *bringUp) hasKeys(context.Context) error {
	if err := b.readSecrets(append(passwords(), credentialKeys()...)); err != nil {
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
	return b.keep(material, kept{"server.key", key}, kept{"server.crt", []byte(material.Certificates[certServer])})
}
