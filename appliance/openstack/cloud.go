package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"
)

// cloud is the site's OpenStack as one of its users sees it.
type cloud struct {
	plan     plan
	key      string // what it was opened with
	provider *gophercloud.ProviderClient
	act      bool // make what lacks; else tell the first that does
}

// reach returns the APIs with a token, the same as long as nothing changed.
func (b *part) reach(ctx context.Context, act bool) (*cloud, error) {
	key := b.keystone() + string(b.read("ca.crt"))
	b.mu.Lock()
	known := b.cloud
	b.mu.Unlock()
	if known == nil || known.key != key {
		provider, err := b.logIn(ctx)
		if err != nil {
			return nil, err
		}
		known = &cloud{key: key, provider: provider}
		b.mu.Lock()
		b.cloud = known
		b.mu.Unlock()
	}
	return &cloud{plan: b.plan, provider: known.provider, act: act}, nil
}

func (b *part) logIn(ctx context.Context) (*gophercloud.ProviderClient, error) {
	transport, err := b.transport()
	if err != nil {
		return nil, err
	}
	provider, err := openstack.NewClient(b.keystone())
	if err != nil {
		return nil, fmt.Errorf("cannot reach OpenStack: %w", err)
	}
	provider.HTTPClient = http.Client{Transport: transport}
	provider.UserAgent.Prepend("roost")
	err = openstack.Authenticate(ctx, provider, gophercloud.AuthOptions{
		IdentityEndpoint: b.keystone(), Username: b.user, Password: b.secrets[userSecret(b.user)], DomainName: "Default",
		Scope: &gophercloud.AuthScope{ProjectName: b.project, DomainName: "Default"}, AllowReauth: true,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot log in to OpenStack: %w", err)
	}
	return provider, nil
}

// service is the client of one project's API, where the plan has it: the catalogue may not say so yet.
func (c *cloud) service(kind string) *gophercloud.ServiceClient {
	for _, x := range projectsByKind() {
		if x.kind == kind {
			path := x.path
			switch kind {
			case "volumev3":
				path = "/v3"
			case "image":
				path = "/v2"
			case "network":
				path = "/v2.0"
			}
			return &gophercloud.ServiceClient{ProviderClient: c.provider, Type: kind, Endpoint: c.plan.url(x.port, path) + "/"}
		}
	}
	panic("no project of kind " + kind) // it is named here
}

// projectsByKind are those that are in the catalogue.
func projectsByKind() (list []project) {
	for _, x := range allProjects() {
		if x.kind != "" {
			list = append(list, x)
		}
	}
	return list
}

// lacks ends a look at what is not so; an act makes it so.
func (c *cloud) lacks(what string, make func() error) error {
	if !c.act {
		return fmt.Errorf("%s is not as wished", what)
	}
	if err := make(); err != nil {
		return fmt.Errorf("cannot make %s: %w", what, err)
	}
	return nil
}

func (b *bringUp) hasCatalogue(ctx context.Context) error {
	c, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	return c.catalogue(ctx)
}

// makeCatalogue writes the catalogue. An administrator whose password is not the site's gets that first.
func (b *bringUp) makeCatalogue(ctx context.Context) error {
	c, err := b.reach(ctx, true)
	if gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) {
		if err := b.Machine.RunUnit(ctx, unitBootstrap); err != nil {
			return err
		}
		c, err = b.reach(ctx, true)
	}
	if err != nil {
		return err
	}
	return c.catalogue(ctx)
}

// catalogue walks what every site has in keystone: services, endpoints, users and their roles.
func (c *cloud) catalogue(ctx context.Context) error {
	identity := c.service("identity")
	if err := c.endpoints(ctx, identity); err != nil {
		return err
	}
	service, err := c.project(ctx, identity, "service")
	if err != nil {
		return err
	}
	admin, err := c.project(ctx, identity, "admin")
	if err != nil {
		return err
	}
	for _, name := range machineUsers() {
		if err := c.user(ctx, identity, name, service, "admin", "service"); err != nil {
			return err
		}
	}
	for name, role := range people() {
		if err := c.user(ctx, identity, name, admin, role); err != nil {
			return err
		}
	}
	return nil
}

func (c *cloud) endpoints(ctx context.Context, identity *gophercloud.ServiceClient) error {
	page, err := services.List(identity, nil).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot read catalogue: %w", err)
	}
	known, err := services.ExtractServices(page)
	if err != nil {
		return fmt.Errorf("cannot read catalogue: %w", err)
	}
	if page, err = endpoints.List(identity, nil).AllPages(ctx); err != nil {
		return fmt.Errorf("cannot read catalogue: %w", err)
	}
	there, err := endpoints.ExtractEndpoints(page)
	if err != nil {
		return fmt.Errorf("cannot read catalogue: %w", err)
	}
	for _, x := range projectsByKind() {
		id := ""
		for _, s := range known {
			if s.Type == x.kind {
				id = s.ID
			}
		}
		if id == "" {
			err := c.lacks("service "+x.title, func() error {
				made, err := services.Create(ctx, identity, services.CreateOpts{Type: x.kind, Extra: map[string]any{"name": x.title}}).Extract()
				if err == nil {
					id = made.ID
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		for _, kind := range []gophercloud.Availability{gophercloud.AvailabilityPublic, gophercloud.AvailabilityInternal} {
			if err := c.endpoint(ctx, identity, there, id, kind, c.plan.url(x.port, x.path)); err != nil {
				return fmt.Errorf("%s: %w", x.title, err)
			}
		}
	}
	return nil
}

func (c *cloud) endpoint(ctx context.Context, identity *gophercloud.ServiceClient, there []endpoints.Endpoint, service string, kind gophercloud.Availability, url string) error {
	region := c.plan.wish.Region
	for _, e := range there {
		if e.ServiceID != service || e.Availability != kind || e.Region != region {
			continue
		}
		if e.URL == url {
			return nil
		}
		return c.lacks("endpoint "+url, func() error { return endpoints.Update(ctx, identity, e.ID, endpoints.UpdateOpts{URL: url}).Err })
	}
	return c.lacks("endpoint "+url, func() error {
		return endpoints.Create(ctx, identity, endpoints.CreateOpts{Availability: kind, Region: region, URL: url, ServiceID: service}).Err
	})
}

// project returns the id of a project of the default domain.
func (c *cloud) project(ctx context.Context, identity *gophercloud.ServiceClient, name string) (id string, err error) {
	page, err := projects.List(identity, projects.ListOpts{Name: name, DomainID: "default"}).AllPages(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot find project %s: %w", name, err)
	}
	list, err := projects.ExtractProjects(page)
	if err != nil {
		return "", fmt.Errorf("cannot find project %s: %w", name, err)
	}
	if len(list) > 0 {
		return list[0].ID, nil
	}
	err = c.lacks("project "+name, func() error {
		made, err := projects.Create(ctx, identity, projects.CreateOpts{Name: name, DomainID: "default"}).Extract()
		if err == nil {
			id = made.ID
		}
		return err
	})
	return id, err
}

// user sees to a user with roles on a project.
func (c *cloud) user(ctx context.Context, identity *gophercloud.ServiceClient, name, project string, wanted ...string) error {
	page, err := users.List(identity, users.ListOpts{Name: name, DomainID: "default"}).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot find user %s: %w", name, err)
	}
	list, err := users.ExtractUsers(page)
	if err != nil {
		return fmt.Errorf("cannot find user %s: %w", name, err)
	}
	id := ""
	if len(list) > 0 {
		id = list[0].ID
	} else if err := c.lacks("user "+name, func() error {
		made, err := users.Create(ctx, identity, users.CreateOpts{Name: name, DomainID: "default", DefaultProjectID: project,
			Password: c.plan.secrets[userSecret(name)], Options: map[users.Option]any{users.IgnorePasswordExpiry: true, users.IgnoreLockoutFailureAttempts: true}}).Extract()
		if err == nil {
			id = made.ID
		}
		return err
	}); err != nil {
		return err
	}
	return c.grant(ctx, identity, id, name, project, wanted)
}

// grant gives a user roles on a project.
func (c *cloud) grant(ctx context.Context, identity *gophercloud.ServiceClient, user, name, project string, wanted []string) error {
	yes := true
	page, err := roles.ListAssignments(identity, roles.ListAssignmentsOpts{UserID: user, ScopeProjectID: project, IncludeNames: &yes}).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("cannot find roles of %s: %w", name, err)
	}
	list, err := roles.ExtractRoleAssignments(page)
	if err != nil {
		return fmt.Errorf("cannot find roles of %s: %w", name, err)
	}
	has := map[string]bool{}
	for _, a := range list {
		has[a.Role.Name] = true
	}
	for _, role := range wanted {
		if has[role] {
			continue
		}
		err := c.lacks("role "+role+" of "+name, func() error {
			page, err := roles.List(identity, roles.ListOpts{Name: role}).AllPages(ctx)
			if err != nil {
				return err
			}
			known, err := roles.ExtractRoles(page)
			if err != nil {
				return err
			}
			if len(known) == 0 {
				return errors.New("keystone has no such role")
			}
			return roles.Assign(ctx, identity, known[0].ID, roles.AssignOpts{UserID: user, ProjectID: project}).ExtractErr()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
