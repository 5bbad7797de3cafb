package appliance

import (
	"context"
	"log/slog"
	"time"

	"roost/appliance/linux"
	"roost/appliance/openstack"
	"roost/appliance/service"
)

func makeOpenStack(p *place) (service.Component, func(context.Context) error, error) {
	keys, err := p.keys(openstack.Name)
	if err != nil {
		return nil, nil, err
	}
	return &openstack.Controller{Host: openstackHost(p, keys), Control: p.control != nil}, nil, nil
}

func makeCompute(p *place) (service.Component, func(context.Context) error, error) {
	keys, err := p.keys("openstack-compute")
	if err != nil {
		return nil, nil, err
	}
	return &openstack.Compute{Host: openstackHost(p, keys), Control: p.control != nil, Carries: p.assignment.Personality.Carries()}, nil, nil
}

func openstackHost(p *place, keys service.Files) openstack.Host {
	return openstack.Host{Root: p.root, Machine: p.machine, Keys: keys, Join: p.join(openstack.Name), Ceph: p.join("ceph"), Image: p.image, Node: p.assignment.Name, Now: time.Now}
}

// Front ends TLS for OpenStack until ctx ends; path says what it leads where.
func Front(ctx context.Context, path string, log *slog.Logger) error {
	front, err := openstack.OpenFront(path, log)
	if err != nil {
		return err
	}
	front.Ready = func() error { return linux.Machine{}.Notify(true, "serves OpenStack") }
	return front.Run(ctx)
}
