package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"roost/appliance/api"
)

// Enrol reports an unknown machine. The client's certificate must be of the same key as the enrolment's request.
func (c *Client) Enrol(ctx context.Context, enrolment api.Enrolment) (*api.Host, error) {
	host := &api.Host{}
	_, err := c.call(ctx, http.MethodPost, "/v1/enrolment", enrolment, host)
	return host, err
}

// AwaitGrant waits up to d for the operator's decision. It returns nil when none has been made yet.
func (c *Client) AwaitGrant(ctx context.Context, d time.Duration) (*api.Grant, error) {
	grant := &api.Grant{}
	status, err := c.call(ctx, http.MethodGet, "/v1/enrolment?wait="+wait(d), nil, grant)
	if err != nil || status == http.StatusAccepted {
		return nil, err
	}
	return grant, nil
}

// Report tells the controller the facts of this host and returns its wishes.
func (c *Client) Report(ctx context.Context, report api.Report) (*api.Orders, error) {
	orders := &api.Orders{}
	_, err := c.call(ctx, http.MethodPost, "/v1/node/report", report, orders)
	return orders, err
}

// Join asks for what this host needs of a component.
func (c *Client) Join(ctx context.Context, component string, join api.Join) (*api.Material, error) {
	out := &api.Material{}
	_, err := c.call(ctx, http.MethodPost, "/v1/node/components/"+url.PathEscape(component), join, out)
	return out, err
}

// Renew asks for a new certificate over request, a PEM certificate request; it returns the PEM chain.
func (c *Client) Renew(ctx context.Context, request string) (string, error) {
	answer := struct {
		Certificate string `json:"certificate"`
	}{}
	_, err := c.call(ctx, http.MethodPost, "/v1/node/certificate", map[string]string{"request": request}, &answer)
	return answer.Certificate, err
}
