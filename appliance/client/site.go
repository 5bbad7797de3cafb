package client

import (
	"context"
	"net/http"
	"net/url"

	"roost/appliance/api"
	"roost/images"
)

// Site returns the site's public facts.
func (c *Client) Site(ctx context.Context) (*api.Site, error) {
	site := &api.Site{}
	_, err := c.call(ctx, http.MethodGet, "/v1/site", nil, site)
	return site, err
}

// Hosts returns every host, and the revision from which a watch continues.
func (c *Client) Hosts(ctx context.Context) ([]api.Host, int64, error) {
	return list[api.Host](ctx, c, "/v1/hosts")
}

// Host returns one host, named by its name, its id, or a unique beginning of its id or node key fingerprint.
func (c *Client) Host(ctx context.Context, host string) (*api.Host, error) {
	out := &api.Host{}
	_, err := c.call(ctx, http.MethodGet, "/v1/hosts/"+url.PathEscape(host), nil, out)
	return out, err
}

// Inventory returns the hardware of a host.
func (c *Client) Inventory(ctx context.Context, host string) (*api.Inventory, error) {
	out := &api.Inventory{}
	_, err := c.call(ctx, http.MethodGet, "/v1/hosts/"+url.PathEscape(host)+"/inventory", nil, out)
	return out, err
}

// Config returns the wanted configuration of a host.
func (c *Client) Config(ctx context.Context, host string) (*api.Config, error) {
	out := &api.Config{}
	_, err := c.call(ctx, http.MethodGet, "/v1/hosts/"+url.PathEscape(host)+"/config", nil, out)
	return out, err
}

// Configure wants another configuration of a host: one that [Client.Config] returned, with changes.
func (c *Client) Configure(ctx context.Context, host string, config *api.Config) (*api.Config, error) {
	out := &api.Config{}
	_, err := c.call(ctx, http.MethodPut, "/v1/hosts/"+url.PathEscape(host)+"/config", config, out)
	return out, err
}

// Approve admits a discovered machine, or lets a host in service be installed anew.
func (c *Client) Approve(ctx context.Context, host string, approval api.Approval) (*api.Host, error) {
	return c.act(ctx, host, "approve", approval)
}

// Rollback asks a host to return to the release in its other slot.
func (c *Client) Rollback(ctx context.Context, host string) (*api.Host, error) {
	return c.act(ctx, host, "rollback", struct{}{})
}

// Clear lets a host take a release again that failed on it; all of them when release is empty.
func (c *Client) Clear(ctx context.Context, host string, release images.Digest) (*api.Host, error) {
	return c.act(ctx, host, "clear", map[string]images.Digest{"release": release})
}

// Forget removes a host from the site; its certificate is worth nothing afterwards.
func (c *Client) Forget(ctx context.Context, host string) error {
	_, err := c.call(ctx, http.MethodDelete, "/v1/hosts/"+url.PathEscape(host), nil, nil)
	return err
}

func (c *Client) act(ctx context.Context, host, verb string, body any) (*api.Host, error) {
	out := &api.Host{}
	_, err := c.call(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(host)+"/"+verb, body, out)
	return out, err
}

// Releases returns what is on the site's shelf, newest version first.
func (c *Client) Releases(ctx context.Context) ([]api.Release, error) {
	items, _, err := list[api.Release](ctx, c, "/v1/releases")
	return items, err
}

// SetCurrent chooses the release that new machines are installed with.
func (c *Client) SetCurrent(ctx context.Context, release images.Digest) (*api.Site, error) {
	site := &api.Site{}
	_, err := c.call(ctx, http.MethodPut, "/v1/site/current", map[string]images.Digest{"release": release}, site)
	return site, err
}

// PruneReleases takes from the shelf what nothing uses. Keep and Dry are read.
func (c *Client) PruneReleases(ctx context.Context, want api.Prune) (*api.Prune, error) {
	out := &api.Prune{}
	_, err := c.call(ctx, http.MethodPost, "/v1/releases/prune", want, out)
	return out, err
}

// StartUpdate begins a rollout. Of update, Release.Digest (or Name and Version), Parallelism, Only and Force are read.
func (c *Client) StartUpdate(ctx context.Context, update api.Update) (*api.Update, error) {
	out := &api.Update{}
	_, err := c.call(ctx, http.MethodPost, "/v1/updates", update, out)
	return out, err
}

// Updates returns all updates, newest first.
func (c *Client) Updates(ctx context.Context) ([]api.Update, int64, error) {
	return list[api.Update](ctx, c, "/v1/updates")
}

// Update returns one update; "latest" names the newest.
func (c *Client) Update(ctx context.Context, id string) (*api.Update, error) {
	out := &api.Update{}
	_, err := c.call(ctx, http.MethodGet, "/v1/updates/"+url.PathEscape(id), nil, out)
	return out, err
}

// ResumeUpdate continues a paused update; hosts that failed are tried again if their failure was cleared, else skipped.
func (c *Client) ResumeUpdate(ctx context.Context, id string) (*api.Update, error) {
	return c.steer(ctx, id, "resume")
}

// AbortUpdate ends an update. A host that is in its trial finishes it; no further host starts.
func (c *Client) AbortUpdate(ctx context.Context, id string) (*api.Update, error) {
	return c.steer(ctx, id, "abort")
}

func (c *Client) steer(ctx context.Context, id, verb string) (*api.Update, error) {
	out := &api.Update{}
	_, err := c.call(ctx, http.MethodPost, "/v1/updates/"+url.PathEscape(id)+"/"+verb, struct{}{}, out)
	return out, err
}

// Access asks for what an operator needs to use a component.
func (c *Client) Access(ctx context.Context, component string, join api.Join) (*api.Material, error) {
	out := &api.Material{}
	_, err := c.call(ctx, http.MethodPost, "/v1/components/"+url.PathEscape(component)+"/access", join, out)
	return out, err
}

// Audit returns the audit record, oldest first.
func (c *Client) Audit(ctx context.Context) ([]api.Record, int64, error) {
	return list[api.Record](ctx, c, "/v1/audit")
}
