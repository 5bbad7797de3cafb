package config

import (
	"testing"

	"roost/appliance/api"
	"roost/appliance/store"
)

// TestChange gives a host another configuration, unless it was made from one that no longer stands.
func TestChange(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Update(t.Context(), func(tx *store.Tx) error {
		for _, id := range []string{"h1", "h2"} {
			store.Hosts().Put(tx, &api.Host{Schema: 1, ID: id, Name: "host-" + id})
		}
		store.Configs().PutAs(tx, "h1", &api.Config{Schema: 1, Hostname: "host-h1"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	by := store.Actor{Name: "operator/ann"}
	first, err := Show(t.Context(), s, "host-h1")
	if err != nil || first.Revision == 0 {
		t.Fatalf("got %+v, %v", first, err)
	}
	with := func(change func(*api.Config)) *api.Config {
		c := *first
		change(&c)
		return &c
	}
	for _, test := range []struct {
		what, host string
		want       *api.Config
		kind       api.Kind // empty: it is taken
	}{
		{"a name server that is none", "h1", with(func(c *api.Config) { c.DNS = []string{"x"} }), api.Invalid},
		{"a disk that is none", "h1", with(func(c *api.Config) { c.Ceph = &api.Ceph{Copies: 1, Disks: []api.CephDisk{{Path: "x"}}} }), api.Invalid},
		{"another name", "h1", with(func(c *api.Config) { c.Hostname = "other" }), api.Invalid},
		{"a name server", "h1", with(func(c *api.Config) { c.DNS = []string{"10.0.0.1"} }), ""},
		{"from the first again", "h1", with(func(c *api.Config) { c.DNS = nil }), api.Conflict},
		{"from whatever there is", "h1", with(func(c *api.Config) { c.DNS, c.Revision = nil, 0 }), ""},
		{"a host that was not admitted", "h2", first, api.NotFound},
		{"no host", "h3", first, api.NotFound},
	} {
		got, err := Change(t.Context(), s, by, test.host, test.want)
		if test.kind == "" && (err != nil || got.Revision <= first.Revision || len(got.DNS) != len(test.want.DNS)) || test.kind != "" && !test.kind.In(err) {
			t.Errorf("%s: got %+v, %v", test.what, got, err)
		}
	}
}
