// Package client is the Go client of the control plane's API, used by the roost command, by hosts toward their
// controller, and by machines that enrol.
//
// It promises that a server is believed only under the site's own root certificate (never the machine's trust store),
// that errors come back as [api.Problem], and that a watch resumes where it broke off. It does not retry other requests:
// the caller knows whether a second try is wanted.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/images"
)

// ServerName is the DNS name in every API server certificate of every site. The root certificate tells sites apart;
// addresses may then change without new certificates.
const ServerName = "controller.roost.internal"

const maxAnswer = 16 << 20 // bytes of one answer

// Config says which server to talk to and how to know it. Exactly one of Root and Pin is needed.
type Config struct {
	URL         string                                                               // base URL: https://10.77.0.2:7443
	Root        []byte                                                               // site root CA certificate, PEM
	Pin         images.Digest                                                        // SHA-256 of the site root CA certificate, DER; for machines that have not enrolled
	Certificate func() (*tls.Certificate, error)                                     // own certificate, asked for at each handshake; nil: none
	Dial        func(ctx context.Context, network, address string) (net.Conn, error) // nil: a plain dialer
}

// Client talks to one controller. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// New checks the configuration and makes a client. It does not connect.
func New(config Config) (*Client, error) {
	base, err := url.Parse(config.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("cannot use controller URL %q: want https://ADDRESS:PORT", config.URL)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: ServerName}
	switch {
	case len(config.Root) > 0:
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(config.Root) {
			return nil, errors.New("cannot use site root certificate: no PEM certificate in it")
		}
	case config.Pin != "":
		conf.InsecureSkipVerify = true // the next line verifies, against the pinned root instead of a pool
		conf.VerifyConnection = verifyPin(config.Pin)
	default:
		return nil, errors.New("cannot trust any controller: neither a root certificate nor its fingerprint is known")
	}
	if config.Certificate != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return config.Certificate() }
	}
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	transport := &http.Transport{
		TLSClientConfig: conf, DialContext: dial, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 15 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 4,
	}
	return &Client{base: strings.TrimSuffix(config.URL, "/"), http: &http.Client{Transport: transport}}, nil
}

// verifyPin accepts a chain that ends in the root certificate with the given fingerprint, which the server sends along.
func verifyPin(pin images.Digest) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		found := false
		for _, cert := range state.PeerCertificates[1:] {
			if images.DigestOf(cert.Raw) == pin {
				roots.AddCert(cert)
				found = true
			} else {
				between.AddCert(cert)
			}
		}
		if !found {
			return fmt.Errorf("cannot trust %s: it does not show the site root certificate %s", ServerName, pin)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: ServerName, Roots: roots, Intermediates: between})
		return err
	}
}

// URL returns the base URL of the controller.
func (c *Client) URL() string { return c.base }

// Transport returns the authenticated transport, for the registry beside the API.
func (c *Client) Transport() http.RoundTripper { return c.http.Transport }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call sends in (unless nil) and decodes the answer into out (unless nil).
func (c *Client) call(ctx context.Context, method, path string, in, out any) (status int, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, fmt.Errorf("cannot encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return 0, fmt.Errorf("cannot make request: %w", err)
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, fmt.Errorf("cannot reach controller: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return response.StatusCode, problem(response)
	}
	if out == nil || response.StatusCode == http.StatusNoContent || response.StatusCode == http.StatusAccepted {
		return response.StatusCode, nil
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(out); err != nil {
		return response.StatusCode, fmt.Errorf("cannot read answer to %s %s: %w", method, path, err)
	}
	return response.StatusCode, nil
}

// problem turns an error answer into an [api.Problem], also when something that is not our server gave it.
func problem(response *http.Response) error {
	p := &api.Problem{}
	b, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if json.Unmarshal(b, p) != nil || p.Detail == "" {
		return &api.Problem{Status: response.StatusCode, Detail: "cannot use controller's answer: " + response.Status}
	}
	return p
}

// list walks all pages of a collection.
func list[T any](ctx context.Context, c *Client, path string) (items []T, revision int64, err error) {
	after := ""
	for {
		query := path
		if after != "" {
			query += separator(path) + "after=" + url.QueryEscape(after)
		}
		var page api.List[T]
		if _, err := c.call(ctx, http.MethodGet, query, nil, &page); err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = page.Revision
		}
		items = append(items, page.Items...)
		if page.Next == "" {
			return items, revision, nil
		}
		after = page.Next
	}
}

func separator(path string) string {
	if strings.Contains(path, "?") {
		return "&"
	}
	return "?"
}

func wait(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }
