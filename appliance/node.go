package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/software"
	"roost/appliance/trust"
)

// Node is a host of a site: it reports facts and obeys wishes.
type Node struct {
	Identity *trust.Identity
	Dir      trust.Dir      // of the identity, for renewed certificates
	State    software.Files // for config.json
	Agent    *software.Agent
	Facts    func(context.Context) api.Report // of the machine: boot, addresses, health; the rest is filled in here
	Hardware func() (*api.Inventory, error)
	Apply    func(context.Context, *api.Config) error // a new configuration that was just committed
	Dial     func(*client.Config)                     // changes how the controller is reached; nil outside of tests
	Beat     time.Duration                            // until the controller says otherwise; 5 s when zero
	Alive    func()                                   // called at every beat; nil: nobody asks
	Log      *slog.Logger

	config   int64 // revision of the committed configuration
	reported *api.Inventory
}

const configFile = "config.json"

// Run beats until ctx ends. A controller that cannot be reached is waited for: the host works on without it.
func (n *Node) Run(ctx context.Context) error {
	if n.Beat == 0 {
		n.Beat = 5 * time.Second
	}
	if err := n.load(); err != nil {
		return err
	}
	site, err := n.connect()
	if err != nil {
		return err
	}
	defer site.Close()
	silent := false
	for {
		if n.Alive != nil {
			n.Alive()
		}
		next, err := n.beat(ctx, site)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !silent:
			n.Log.Warn("cannot report to the controller", "error", err)
		case err == nil && silent:
			n.Log.Info("the controller answers again")
		}
		silent = err != nil
		if !rest(ctx, next) {
			return nil
		}
	}
}

// load reads the revision of the committed configuration.
func (n *Node) load() error {
	b, err := n.State.Read(configFile)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", configFile, err)
	}
	var config api.Config
	if err := json.Unmarshal(b, &config); err != nil {
		return fmt.Errorf("cannot read %s: %w", configFile, err)
	}
	n.config = config.Revision
	return nil
}

func (n *Node) connect() (*client.Client, error) {
	a := n.Identity.Assignment
	if len(a.Controllers) == 0 {
		return nil, fmt.Errorf("cannot reach site %s: no controller is known", a.Site)
	}
	config := client.Config{URL: a.Controllers[0], Root: []byte(a.Root), Certificate: n.Identity.Certificate}
	if n.Dial != nil {
		n.Dial(&config)
	}
	return client.New(config)
}

// beat is one exchange with the controller.
func (n *Node) beat(ctx context.Context, site *client.Client) (next time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	report := n.Facts(ctx)
	report.Schema, report.Phase, report.Config = 1, api.InService, n.config
	if report.Software, err = n.Agent.Facts(); err != nil {
		return n.Beat, err
	}
	inventory, err := n.Hardware()
	if err != nil {
		return n.Beat, err
	}
	if !reflect.DeepEqual(inventory, n.reported) {
		report.Inventory = inventory
	}
	orders, err := site.Report(ctx, report)
	if err != nil {
		return n.Beat, err
	}
	n.reported = inventory
	next = max(time.Duration(orders.Beat)*time.Millisecond, 50*time.Millisecond)
	return next, n.obey(ctx, site, orders)
}

func (n *Node) obey(ctx context.Context, site *client.Client, orders *api.Orders) error {
	if orders.Renew {
		if err := n.renew(ctx, site); err != nil {
			return err
		}
	}
	if orders.Config != nil {
		if err := n.commit(ctx, orders.Config); err != nil {
			return err
		}
	}
	return n.Agent.Obey(ctx, orders)
}

func (n *Node) renew(ctx context.Context, site *client.Client) error {
	request, err := n.Identity.Request()
	if err != nil {
		return err
	}
	chain, err := site.Renew(ctx, request)
	if err != nil {
		return err
	}
	if err := n.Identity.Renew(n.Dir, chain); err != nil {
		return err
	}
	n.Log.Info("certificate renewed")
	site.Close() // the next connection is made with it
	return nil
}

// commit keeps a configuration for the next start and applies it now.
func (n *Node) commit(ctx context.Context, config *api.Config) error {
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot commit configuration: %w", err)
	}
	if err := n.State.Write(configFile, append(b, '\n')); err != nil {
		return fmt.Errorf("cannot commit configuration: %w", err)
	}
	if err := n.Identity.Rename(n.Dir, config.Hostname); err != nil {
		return err
	}
	n.config = config.Revision
	n.Log.Info("configuration committed", "revision", config.Revision)
	if n.Apply == nil {
		return nil
	}
	return n.Apply(ctx, config)
}
