package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"

	"roost/appliance/api"
)

// TestQuotas sets what differs, and is content when it is so.
func TestQuotas(t *testing.T) {
	have, puts := map[string]int{"cores": 20, "key_pairs": 100, "ram": 51200}, 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "10.0.0.2:8774" || r.URL.Path != "/v2.1/os-quota-sets/p" {
			http.Error(w, r.Host+r.URL.Path, http.StatusNotFound)
			return
		}
		if r.Method == http.MethodPut {
			puts++
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = json.Unmarshal(body, &struct {
					Set map[string]int `json:"quota_set"`
				}{have})
			}
			if want := `{"quota_set":{"cores":4,"key_pairs":-1}}`; err != nil || string(body) != want {
				t.Errorf("put %s, want %s, %v", body, want, err)
			}
		}
		fmt.Fprintf(w, `{"quota_set": {"id": "p", "cores": %d, "key_pairs": %d, "ram": %d}}`, have["cores"], have["key_pairs"], have["ram"])
	}))
	defer server.Close()
	client := server.Client()
	transport := client.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com"
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
	client.Transport = transport
	look := func(act bool) error {
		c := &cloud{plan: plan{wish: api.OpenStack{}, address: "10.0.0.2"}, provider: &gophercloud.ProviderClient{HTTPClient: *client}, act: act}
		return c.quota(t.Context(), quotas()[0], "p", map[string]int{"cores": 4, "key_pairs": -1, "ram": 51200})
	}
	if err := look(false); err == nil || !strings.Contains(err.Error(), "cores, key_pairs") {
		t.Errorf("got %v", err)
	}
	if err := look(true); err != nil {
		t.Fatal(err)
	}
	if err := look(false); err != nil || puts != 1 {
		t.Errorf("after %d changes: %v", puts, err)
	}
}
