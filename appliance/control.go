package appliance

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/appliance/api"
	"roost/appliance/host"
	"roost/appliance/server"
	"roost/appliance/service"
	"roost/appliance/software"
	"roost/appliance/store"
	"roost/appliance/trust"
	"roost/images/depot"
	"roost/pxe"
)

// ControlConfig says what a control plane is made of.
type ControlConfig struct {
	Dir       string // holds store and, unless Depot says otherwise, the shelf
	Depot     string // OCI layout directory with the site's releases; Dir/depot when empty
	Authority *trust.Authority
	Site      api.Site           // what is recorded at the first start
	Self      *api.Host          // this controller's own record at the first start; nil on the seed
	Config    *api.Config        // and its configuration
	Registry  string             // base URL that machines pull from
	Keys      []*ecdsa.PublicKey // releases must be signed by one of them to be pushed, rolled out or installed; nil: only hosts judge
	Addresses []net.IP           // in the server's certificate
	Trust     trust.Config       // Configure, Auto and Limits are taken from it
	Beat      time.Duration
	Now       func() time.Time
	Log       *slog.Logger

	own   bool   // the shelf belongs to this control plane alone
	pulse *pulse // nil: nobody asks
}

// Control is the control plane of a site in this process.
type Control struct {
	config   ControlConfig
	store    *store.Store
	depot    *depot.Depot
	shelf    *shelf
	trust    *trust.Manager
	host     *host.Manager
	software *software.Manager
	service  *service.Manager
	server   *server.Server
	roster   *roster

	kubernetes *kubernetesDoor
	doors      chan opening
}

// OpenControl opens the store and builds the managers and the server, in the order in which they depend on each other.
func OpenControl(ctx context.Context, config ControlConfig) (c *Control, err error) {
	if config.Depot == "" {
		config.Depot = filepath.Join(config.Dir, "depot")
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open control plane: %w", err)
	}
	c = &Control{config: config}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.store, err = store.Open(ctx, store.Config{Dir: config.Dir, Name: "controller", Now: config.Now, Log: config.Log}); err != nil {
		return nil, err
	}
	if err = c.begin(ctx); err != nil {
		return nil, err
	}
	if c.depot, err = depot.Open(ctx, "oci:"+config.Depot, depot.Options{Create: true}); err != nil {
		return nil, err
	}
	c.shelf = newShelf(c.depot, config.Depot, config.Keys)
	registry, err := depot.NewRegistry(config.Depot, depot.RegistryConfig{
		Allow:  func(*http.Request, bool, string) error { return nil }, // package server has decided before
		Admit:  c.shelf.trusted,
		Logger: config.Log,
	})
	if err != nil {
		return nil, err
	}
	c.roster = &roster{store: c.store, log: config.Log}
	t := config.Trust
	t.Alive = config.pulse.loop("trust")
	t.Store, t.Authority, t.Shelf, t.Registry, t.Now, t.Log = c.store, config.Authority, c.shelf, config.Registry, config.Now, config.Log
	c.trust = trust.New(t)
	c.host = host.New(host.Config{Store: c.store, Beat: config.Beat, Alive: config.pulse.loop("hosts"), Now: config.Now, Log: config.Log})
	var releases software.Shelf = c.shelf
	if config.own {
		releases = ownShelf{c.shelf}
	}
	c.software = software.New(software.Config{Store: c.store, Shelf: releases, Alive: config.pulse.loop("rollouts"), Now: config.Now, Log: config.Log})
	c.service = service.New(service.Config{Store: c.store, Authorities: authorities(config.Authority), Now: config.Now, Log: config.Log})
	c.kubernetes, c.doors = &kubernetesDoor{control: c}, make(chan opening)
	c.server = server.New(server.Config{
		Store: c.store, Authority: config.Authority, Trust: c.trust, Host: c.host, Software: c.software, Service: c.service, Shelf: c.shelf,
		Registry: registry, Addresses: config.Addresses, Now: config.Now, Log: config.Log,
	})
	return c, nil
}

// begin records the site, and this controller as its first host, where they are not recorded yet.
func (c *Control) begin(ctx context.Context) error {
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		site := store.Sites().Get(tx, "site")
		if site == nil {
			first := c.config.Site
			first.Schema = 1
			store.Sites().Put(tx, &first)
			tx.Audit(store.Actor{Name: "manager/site"}, "found site", "site/"+first.Name, "")
		}
		if self := c.config.Self; self != nil && store.Hosts().Get(tx, self.ID) == nil {
			record := *self
			record.FirstSeen, record.LastSeen = tx.Now(), tx.Now()
			store.Hosts().Put(tx, &record)
			if c.config.Config != nil {
				store.Configs().PutAs(tx, self.ID, c.config.Config)
			}
			tx.Audit(store.Actor{Name: "manager/site"}, "found controller", "host/"+self.ID, "name "+self.Name)
		}
		return nil
	})
	return err
}

// Run runs the managers and serves the API on listener until ctx ends or a part fails. It closes what Open opened.
func (c *Control) Run(ctx context.Context, listener net.Listener) error {
	defer c.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.trust.Run(ctx) })
	group.Go(func() error { return c.host.Run(ctx) })
	group.Go(func() error { return c.software.Run(ctx) })
	group.Go(func() error { return c.roster.run(ctx) })
	group.Go(func() error { return c.server.Serve(ctx, listener) })
	group.Go(func() error {
		for {
			select {
			case o := <-c.doors:
				group.Go(func() error { return c.store.Serve(ctx, o.listener, o.door) })
			case <-ctx.Done():
				return nil
			}
		}
	})
	group.Go(func() error {
		select {
		case err := <-c.store.Failed():
			return fmt.Errorf("store stopped: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

// Close gives back what OpenControl opened.
func (c *Control) Close() {
	if c.depot != nil {
		c.depot.Close()
	}
	if c.store != nil {
		c.store.Close()
		c.store = nil
	}
}

// Assigner decides for a boot server what machines may boot, by the records of this site.
func (c *Control) Assigner() pxe.Assigner { return c.roster }

// Shelf gives a boot server the releases of this site.
func (c *Control) Shelf() pxe.Shelf { return c.shelf }
