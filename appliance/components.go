package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/kubernetes"
	"roost/appliance/service"
	"roost/appliance/store"
	"roost/appliance/trust"
	"roost/images"
	"roost/images/durable"
)

// statusFile tells programs of this machine how far its components are; roostd gate reads it.
const statusFile = "run/roost/components.json"

// authorities are what the site knows of each component that this release can run.
func authorities() []service.Authority { return []service.Authority{kubernetes.Authority{}} }

// components puts together what brings up the components of this host. control is nil where no control plane runs.
func (d *daemon) components(id *trust.Identity, site *client.Client, control *Control) (*service.Agent, *kubernetes.Enforcer, error) {
	image, err := readComponents(d.root)
	if err != nil {
		return nil, nil, err
	}
	keys, err := durable.Open(filepath.Join(d.root, "var/lib/roost/kubernetes"), 0o600)
	if err != nil {
		return nil, nil, err
	}
	enforcer := &kubernetes.Enforcer{Firewall: d.machine, Log: d.log}
	a := id.Assignment
	host := &kubernetes.Host{
		Root: d.root, Machine: d.machine, Keys: keys, Enforcer: enforcer, Node: a.Name, Control: a.Personality.Controls(), Controllers: a.Controllers,
		Image: image, Now: time.Now,
		Join: func(ctx context.Context, join api.Join) (*api.Material, error) {
			return site.Join(ctx, "kubernetes", join)
		},
	}
	if control != nil {
		host.Store = control.kubernetes
	}
	agent := &service.Agent{Components: []service.Component{host}, Log: d.log}
	for _, c := range image {
		agent.Image = append(agent.Image, c.Name)
	}
	config, err := readConfig(filepath.Join(d.root, stateDir, configFile))
	if err != nil {
		return nil, nil, err
	}
	agent.Configure(config)
	return agent, enforcer, nil
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
