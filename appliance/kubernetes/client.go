package kubernetes

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
	"strings"
	"time"
)

// remote is the API of the cluster, as much of it as a bring-up needs. client-go would be 30 MB of every roostd.
type remote struct {
	base string
	http *http.Client
}

// errAbsent says that an object is not there.
var errAbsent = errors.New("not found")

// dial makes a client that shows the certificate and believes the authority, all PEM.
func dial(base string, authority, cert, key []byte, reach func(ctx context.Context, network, address string) (net.Conn, error)) (*remote, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot reach Kubernetes: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("cannot reach Kubernetes: no certificate of its authority")
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}},
		DialContext:     reach, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second,
	}
	return &remote{base: base, http: &http.Client{Transport: transport}}, nil
}

func (r *remote) close() { r.http.CloseIdleConnections() }

// ask makes one request and decodes the answer into out, unless that is nil.
func (r *remote) ask(ctx context.Context, method, path, kind string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := r.begin(ctx, method, path, kind, body)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, answer.Body)
	} else {
		err = json.NewDecoder(answer.Body).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("cannot read answer of Kubernetes to %s %s: %w", method, path, err)
	}
	return nil
}

func (r *remote) begin(ctx context.Context, method, path, kind string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("cannot ask Kubernetes: %w", err)
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	answer, err := r.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot ask Kubernetes: %w", err)
	}
	if answer.StatusCode < 300 {
		return answer, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	status := struct{ Message string }{}
	if json.Unmarshal(text, &status) != nil || status.Message == "" {
		status.Message = strings.TrimSpace(string(text))
	}
	if answer.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("cannot find %s in Kubernetes: %w", path, errAbsent)
	}
	return nil, fmt.Errorf("cannot %s %s in Kubernetes: %d %s", method, path, answer.StatusCode, status.Message)
}

// ready asks whether the API server can serve.
func (r *remote) ready(ctx context.Context) error {
	return r.ask(ctx, http.MethodGet, "/readyz", "", nil, nil)
}

func (r *remote) get(ctx context.Context, path string, out any) error {
	return r.ask(ctx, http.MethodGet, path, "", nil, out)
}

// apply makes an object as wished, by server-side apply: what others set in it stays. dry only asks what it would be.
func (r *remote) apply(ctx context.Context, o object) error {
	path, err := pathOf(o)
	if err != nil {
		return err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("cannot apply %s: %w", path, err)
	}
	return r.ask(ctx, http.MethodPatch, path+"?fieldManager=roost&force=true", "application/apply-patch+yaml", body, nil)
}

// pathOf is where an object lies in the API.
func pathOf(o object) (string, error) {
	version, _ := o["apiVersion"].(string)
	kind, _ := o["kind"].(string)
	meta, _ := o["metadata"].(object)
	name, _ := meta["name"].(string)
	namespace, _ := meta["namespace"].(string)
	if version == "" || kind == "" || name == "" {
		return "", fmt.Errorf("cannot apply object %v: it lacks apiVersion, kind or name", meta)
	}
	base := "/apis/" + version
	if !strings.Contains(version, "/") {
		base = "/api/" + version
	}
	if namespace != "" {
		base += "/namespaces/" + url.PathEscape(namespace)
	}
	return base + "/" + plural(kind) + "/" + url.PathEscape(name), nil
}

// plural is the name of a kind's collection, for the kinds of our manifests.
func plural(kind string) string {
	lower := strings.ToLower(kind)
	if strings.HasSuffix(lower, "ss") {
		return lower + "es"
	}
	return lower + "s"
}
