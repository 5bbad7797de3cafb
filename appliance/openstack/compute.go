package openstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// Compute is what runs virtual machines on this host: nova-compute, libvirt and QEMU, and of their network what every such
// host has.
type Compute struct {
	Host
	Control bool // the control plane is on this host
	Carries bool // the host is there for loads
}

// Name is that of the component in the image.
func (*Compute) Name() string { return "openstack-compute" }

// Wanted reports whether this host is to run virtual machines.
func (h *Compute) Wanted(c *api.Config) bool { return c.OpenStack != nil && h.Carries }

// Steps makes this host one that runs virtual machines, or takes that away.
func (h *Compute) Steps(c *api.Config) []service.Step {
	if !h.Wanted(c) {
		return h.leaves(hypervisor{plan: &plan{}})
	}
	if !h.Control {
		return []service.Step{service.Impossible("control plane",
			errors.New("the site's message queue and OVN's southbound database listen on their controller alone: virtual machines run on that host only, where it is all-in-one"))}
	}
	address, err := h.reached(c)
	if err != nil {
		return []service.Step{service.Impossible("plan", err)}
	}
	// What the plan lacks, the first steps read into it before any other needs it.
	b := &hosting{part{Host: &h.Host, plan: plan{wish: c.OpenStack.Defaults(), node: h.Node, address: address}, user: "nova", project: "service"}}
	b.has = hypervisor{plan: &b.plan, control: h.Control, kvm: b.found("dev/kvm"), switching: b.found("sys/module/openvswitch")}
	steps := []service.Step{{Name: "keys", Holds: b.hasKeys, Make: b.makeKeys}}
	machines, awaited := []service.Step{b.start(unitGuestLog), b.start(unitLibvirt), b.start(unitGuests)}, b.awaited()
	if h.hasCeph(c) {
		b.ceph = &storage{}
		steps = append(steps, service.Step{Name: "access to Ceph", Holds: b.knowsCeph, Make: b.meetCeph})
		machines = append(machines, service.Step{Name: "key of volumes", Holds: b.hasVolumeKey, Make: b.makeVolumeKey})
		awaited = append(awaited, b.pool("cinder")) // which the machines need that nova-compute starts
	}
	return append(steps, []service.Step{
		{Name: "settings", Holds: b.hasSettings, Make: b.writeSettings},
		{Name: "services", Lanes: [][]service.Step{
			{b.start(unitSwitchDatabase), b.start(unitSwitch), b.start(unitChassis)},
			machines,
			awaited,
		}},
		// Python that loads modules; before, it would hold up the APIs.
		{Name: "workers", Lanes: [][]service.Step{
			{b.start(unitCompute), b.dear(service.Step{Name: "hypervisor", Holds: b.hasHypervisor, Limit: 3 * time.Minute}), b.start(unitConsole)},
			{b.start(unitMetadata), b.dear(service.Step{Name: "network", Holds: b.hasNetwork, Limit: 3 * time.Minute})},
		}},
	}...)
}

// hosting are the facts and acts of a host that runs virtual machines.
type hosting struct{ part }

// found asks whether a file is on the running machine.
func (b *hosting) found(name string) bool {
	_, err := os.Stat(b.at(name))
	return err == nil
}

// hostSecrets are those that such a host has.
func hostSecrets() []string { return []string{secretQueue, secretMetadata, userSecret("nova")} }

func (b *hosting) hasKeys(context.Context) error {
	if len(b.read("ca.crt")) == 0 {
		return errors.New("no certificate of the site's authority yet")
	}
	return b.readSecrets(hostSecrets())
}

// makeKeys asks the site for the secrets, and keeps no more than it needs.
func (b *hosting) makeKeys(ctx context.Context) error {
	material, err := b.Join(ctx, api.Join{Schema: 1})
	if err != nil {
		return err
	}
	maps.DeleteFunc(material.Secrets, func(name string, _ []byte) bool { return !slices.Contains(hostSecrets(), name) })
	return b.keep(material)
}

// awaited are the steps until the control plane can be spoken to. What nova-compute does not find when it starts, it looks for
// again only after a minute.
func (b *hosting) awaited() (steps []service.Step) {
	for _, x := range allProjects() {
		if slices.Contains([]string{"keystone", "placement", "glance", "neutron", "nova"}, x.name) {
			steps = append(steps, b.dear(service.Step{Name: "await " + x.name, Holds: b.answers(x), Limit: 10 * time.Minute}))
		}
	}
	return append(steps, b.dear(service.Step{Name: "await conductor", Holds: b.hasConductor, Limit: 10 * time.Minute}))
}

// hasConductor asks nova whether it hears of what nova-compute keeps its records with.
func (b *hosting) hasConductor(ctx context.Context) error {
	c, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	return c.hears(ctx, "nova-conductor")
}

// hasNetwork asks neutron whether OVN knows this host, and whether both of its agents are alive.
func (b *hosting) hasNetwork(ctx context.Context) error {
	c, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	var have struct {
		Agents []struct {
			Binary string
			Alive  bool
		}
	}
	network := c.service("network")
	if _, err := network.Get(ctx, network.ServiceURL("agents")+"?host="+b.node, &have, nil); err != nil {
		return fmt.Errorf("cannot ask neutron for its agents: %w", err)
	}
	alive := map[string]bool{}
	for _, a := range have.Agents {
		alive[a.Binary] = alive[a.Binary] || a.Alive
	}
	for _, binary := range []string{"ovn-controller", "neutron-ovn-metadata-agent"} {
		if !alive[binary] {
			return fmt.Errorf("neutron does not hear of %s yet", binary)
		}
	}
	return nil
}

// hasHypervisor asks nova whether it may place machines here: it hears of the host, and has it in a cell.
func (b *hosting) hasHypervisor(ctx context.Context) error {
	c, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	var have struct {
		Hypervisors []struct {
			State, Status string
			Service       struct{ Host string }
		}
	}
	compute := c.service("compute")
	if _, err := compute.Get(ctx, compute.ServiceURL("os-hypervisors", "detail"), &have, nil); err != nil {
		return fmt.Errorf("cannot ask nova for its hypervisors: %w", err)
	}
	for _, v := range have.Hypervisors {
		if v.Service.Host == b.node && v.State == "up" {
			return nil
		}
	}
	return errors.New("nova has no hypervisor of this host yet")
}

// virsh speaks to libvirt.
func (b *hosting) virsh(ctx context.Context, input string, args ...string) (string, error) {
	out, err := b.Machine.Run(ctx, []byte(input), "virsh", append([]string{"--connect", "qemu:///system", "--quiet"}, args...)...)
	return strings.TrimSpace(string(out)), err
}

// hasVolumeKey asks libvirt for the key with which machines use their volumes in Ceph. It keeps it in memory, by the name that
// cinder says.
func (b *hosting) hasVolumeKey(ctx context.Context) error {
	key, err := b.virsh(ctx, "", "secret-get-value", b.ceph.FSID)
	if err == nil && key != b.ceph.Keys["cinder"] {
		err = errors.New("libvirt has another key of volumes")
	}
	return err
}

func (b *hosting) makeVolumeKey(ctx context.Context) error {
	secret := fmt.Sprintf("<secret ephemeral='yes' private='no'><uuid>%s</uuid><usage type='ceph'><name>volumes</name></usage></secret>", b.ceph.FSID)
	if _, err := b.virsh(ctx, secret, "secret-define", "/dev/stdin"); err != nil {
		return err
	}
	_, err := b.virsh(ctx, b.ceph.Keys["cinder"], "secret-set-value", b.ceph.FSID, "--file", "/dev/stdin")
	return err
}
