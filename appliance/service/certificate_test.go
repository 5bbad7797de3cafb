package service_test

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/appliance/service/servicetest"
)

// TestUsable tells certificates that serve from those that do not.
func TestUsable(t *testing.T) {
	site, other, now := servicetest.NewSigner(t), servicetest.NewSigner(t), time.Now()
	key, request, err := service.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	another, _, err := service.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := site.Service(request, "one", []net.IP{net.IPv4(10, 0, 0, 2)}, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		chain, root string
		key         []byte
		address     string
		now         time.Time
		says        string // empty: it serves
	}{
		"good":              {chain, site.RootPEM(), key, "10.0.0.2", now, ""},
		"none":              {"", site.RootPEM(), nil, "10.0.0.2", now, "no certificate yet"},
		"another's key":     {chain, site.RootPEM(), another, "10.0.0.2", now, "no certificate yet"},
		"another site's":    {chain, other.RootPEM(), key, "10.0.0.2", now, "unknown authority"},
		"another address":   {chain, site.RootPEM(), key, "10.0.0.3", now, "10.0.0.3"},
		"soon at its end":   {chain, site.RootPEM(), key, "10.0.0.2", now.Add(25 * time.Minute), "two thirds"},
		"long at its end":   {chain, site.RootPEM(), key, "10.0.0.2", now.Add(2 * time.Hour), "expired"},
		"without authority": {chain, "", key, "10.0.0.2", now, "unknown authority"},
	} {
		err := service.Usable([]byte(test.chain), test.key, []byte(test.root), test.address, test.now)
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAddresses lists each address once, whatever form it has.
func TestAddresses(t *testing.T) {
	by := service.Asker{Host: &api.Host{Addresses: []string{"10.0.0.2", "fd00::1", "not one"}},
		Config: &api.Config{Interfaces: []api.Interface{{Addresses: []string{"10.0.0.2/24", "bad", "fd00:0::1/64"}}, {Addresses: []string{"10.1.0.2/24"}}}}}
	var got []string
	for _, ip := range by.Addresses() {
		got = append(got, ip.String())
	}
	if !slices.Equal(got, []string{"10.0.0.2", "fd00::1", "10.1.0.2"}) {
		t.Errorf("got %q", got)
	}
}
