package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"roost/appliance/api"
	"roost/appliance/ceph"
	"roost/appliance/client"
	"roost/appliance/kubernetes"
	"roost/appliance/openstack"
	"roost/appliance/service"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/durable"
)

// statusFile tells programs of this machine how far its components are; roostd gate reads it.
const statusFile = "run/roost/components.json"

// authorities are what the site knows of each component that this release can run.
func authorities(site *trust.Authority) []service.Authority {
	return []service.Authority{kubernetes.Authority{}, ceph.Authority{Signer: site}, openstack.Authority{Signer: site}}
}

// makers make each component of a host.
func makers() []maker { return []maker{makeKubernetes, makeCeph, makeOpenStack, makeCompute} }

// maker makes one component for a host, and what else of it must run as long as the host does, if anything.
type maker func(*place) (service.Component, func(context.Context) error, error)

// place is where a component is to be brought up.
type place struct {
	*daemon
	assignment *api.Assignment
	site       *client.Client
	control    *Control           // nil where no control plane runs
	image      []images.Component // of the running release
}

// keys opens the directory of what a component has of its own on this host.
func (p *place) keys(component string) (*durable.Dir, error) {
	return durable.Open(filepath.Join(p.root, stateDir, component), 0o600)
}

// join asks the site for what this host needs of a component.
func (p *place) join(component string) func(context.Context, api.Join) (*api.Material, error) {
	return func(ctx context.Context, join api.Join) (*api.Material, error) {
		return p.site.Join(ctx, component, join)
	}
}

// components puts together what brings up the components of this host, and what else of them runs. control is nil where no
// control plane runs.
func (d *daemon) components(id *trust.Identity, site *client.Client, control *Control) (*service.Agent, []func(context.Context) error, error) {
	image, err := readComponents(d.root)
	if err != nil {
		return nil, nil, err
	}
	agent := &service.Agent{Log: d.log}
	for _, c := range image {
		agent.Image = append(agent.Image, c.Name)
	}
	var loops []func(context.Context) error
	at := &place{daemon: d, assignment: id.Assignment, site: site, control: control, image: image}
	for _, make := range makers() {
		component, run, err := make(at)
		if err != nil {
			return nil, nil, err
		}
		agent.Components = append(agent.Components, component)
		if run != nil {
			loops = append(loops, run)
		}
	}
	config, err := readConfig(filepath.Join(d.root, stateDir, configFile))
	if err != nil {
		return nil, nil, err
	}
	agent.Configure(config)
	return agent, loops, nil
}

// readComponents reads what the running release is made of.
func readComponents(root string) (list []images.Component, err error) {
	b, err := os.ReadFile(filepath.Join("/", root, images.ComponentsPath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's components: %w", err)
	}
	return list, nil
}

// writeStatus leaves the components' states to programs of this machine.
func writeStatus(root string, list []api.Component) error {
	b, err := json.Marshal(list)
	path := filepath.Join("/", root, statusFile)
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("cannot tell the state of components: %w", err)
	}
	return nil
}

// readStatus returns how the daemon sees a component: nil when it is ready or not wanted.
func readStatus(root, name string) error {
	b, err := os.ReadFile(filepath.Join("/", root, statusFile))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the daemon has not looked at it yet")
	}
	var list []api.Component
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return fmt.Errorf("cannot read the state of components: %w", err)
	}
	for _, c := range list {
		if c.Name == name && c.State != api.Ready {
			return fmt.Errorf("%s is %s at %s: %s", name, c.State, c.Step, c.Reason)
		}
	}
	return nil
}
