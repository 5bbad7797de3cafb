package appliance

import (
	"context"
	"time"

	"roost/appliance/ceph"
	"roost/appliance/service"
	"roost/updater/install"
)

func makeCeph(p *place) (service.Component, func(context.Context) error, error) {
	keys, err := p.keys("ceph")
	if err != nil {
		return nil, nil, err
	}
	a := p.assignment
	return &ceph.Host{
		Root: p.root, Machine: p.machine, Keys: keys, Join: p.join("ceph"), Node: a.Name, Control: a.Personality.Controls(), Controllers: a.Controllers,
		OpenDisk:   func(path string, write bool) (ceph.Device, error) { return p.machine.OpenDisk(path, write) },
		Signatures: install.Inspect, Now: time.Now,
	}, nil, nil
}
