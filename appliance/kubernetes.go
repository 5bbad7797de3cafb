package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"roost/appliance/kubernetes"
	"roost/appliance/service"
	"roost/appliance/store"
)

func makeKubernetes(p *place) (service.Component, func(context.Context) error, error) {
	keys, err := p.keys("kubernetes")
	if err != nil {
		return nil, nil, err
	}
	enforcer := &kubernetes.Enforcer{Firewall: p.machine, Log: p.log}
	a := p.assignment
	host := &kubernetes.Host{
		Root: p.root, Machine: p.machine, Keys: keys, Enforcer: enforcer, Node: a.Name, Control: a.Personality.Controls(), Controllers: a.Controllers,
		Image: p.image, Now: time.Now, Join: p.join("kubernetes"), Ceph: p.join("ceph"),
	}
	if p.control != nil {
		host.Store = p.control.kubernetes
	}
	return host, enforcer.Run, nil
}

// kubernetesDoor opens the site's store to the control plane of Kubernetes on this controller.
type kubernetesDoor struct {
	control *Control

	mu   sync.Mutex // guards open
	open bool
}

// opening is a door on its way to the loop that serves it.
type opening struct {
	listener net.Listener
	door     store.Door
}

// Opened returns nil when the door is open.
func (k *kubernetesDoor) Opened() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.open {
		return errors.New("the site's store is not open to Kubernetes yet")
	}
	return nil
}

// Open opens the door for as long as the control plane runs.
func (k *kubernetesDoor) Open(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open {
		return nil
	}
	secrets, err := k.control.service.Secrets(ctx, "kubernetes")
	if err != nil {
		return err
	}
	tls, err := kubernetes.Door(secrets, time.Now())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(kubernetes.StorePort)))
	if err != nil {
		return fmt.Errorf("cannot open the store to Kubernetes: %w", err)
	}
	// The API server watches where compactions are noted, though it makes none.
	door := store.Door{Prefix: kubernetes.StorePrefix, Extra: []string{"compact_rev_key"}, TLS: tls}
	select {
	case k.control.doors <- opening{listener, door}:
		k.open = true
		return nil
	case <-ctx.Done():
		listener.Close()
		return ctx.Err()
	}
}
