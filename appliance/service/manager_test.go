package service

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
)

// vault is an authority with one secret, which it gives to hosts that want Kubernetes.
type vault struct{ made *int }

func (vault) Name() string { return "vault" }

func (v vault) Found(have Secrets, _ *api.Site, _ time.Time) (bool, error) {
	if have["key"] != nil {
		return false, nil
	}
	*v.made++
	have["key"] = []byte("hush-hush")
	return true, nil
}

func (vault) Issue(have Secrets, by Asker, join *api.Join, _ time.Time) (*api.Material, error) {
	if by.Host == nil && by.Role != "admin" || by.Host != nil && by.Config.Kubernetes == nil {
		return nil, api.Denied.Errorf("cannot have it")
	}
	return &api.Material{Schema: 1, Address: by.Site.Name, Secrets: map[string][]byte{"key": have["key"]}}, nil
}

// TestManager makes secrets once, survives a restart with them, and gives them to those alone who may have them.
func TestManager(t *testing.T) {
	dir, made := t.TempDir(), 0
	open := func() (*store.Store, *Manager) {
		s, err := store.Open(t.Context(), store.Config{Dir: dir, Name: "one"})
		if err != nil {
			t.Fatal(err)
		}
		return s, New(Config{Store: s, Authorities: []Authority{vault{&made}}})
	}
	s, m := open()
	if _, err := m.Secrets(t.Context(), "vault"); !api.NotFound.In(err) {
		t.Errorf("without a site: %v", err)
	}
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Sites().Put(tx, &api.Site{Schema: 1, Name: "edge"})
		for id, config := range map[string]*api.Config{"h1": {Components: api.Components{Kubernetes: &api.Kubernetes{}}}, "h2": {}} {
			store.Hosts().Put(tx, &api.Host{Schema: 1, ID: id, Name: id})
			store.Configs().PutAs(tx, id, config)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	join := &api.Join{Schema: 1, Requests: map[string]string{"b": "request of b", "a": "request of a"}}
	by := store.Actor{Name: "operator/ann", Source: "10.0.0.1"}
	for name, test := range map[string]struct {
		do   func() (*api.Material, error)
		kind api.Kind // empty: it works
	}{
		"host":                  {func() (*api.Material, error) { return m.Join(t.Context(), "h1", "vault", join) }, ""},
		"host without the wish": {func() (*api.Material, error) { return m.Join(t.Context(), "h2", "vault", join) }, api.Denied},
		"host that left":        {func() (*api.Material, error) { return m.Join(t.Context(), "h3", "vault", join) }, api.Gone},
		"unknown component":     {func() (*api.Material, error) { return m.Join(t.Context(), "h1", "x", join) }, api.NotFound},
		"another schema":        {func() (*api.Material, error) { return m.Join(t.Context(), "h1", "vault", &api.Join{}) }, api.Invalid},
		"administrator":         {func() (*api.Material, error) { return m.Access(t.Context(), by, "admin", "vault", join) }, ""},
		"reader":                {func() (*api.Material, error) { return m.Access(t.Context(), by, "reader", "vault", join) }, api.Denied},
	} {
		out, err := test.do()
		switch {
		case test.kind == "" && (err != nil || string(out.Secrets["key"]) != "hush-hush" || out.Address != "edge"):
			t.Errorf("%s: got %+v, %v", name, out, err)
		case test.kind != "" && !test.kind.In(err):
			t.Errorf("%s: got %v, want kind %s", name, err, test.kind)
		}
	}
	s.Close()
	before := made // what was made for one who was denied is not kept, so this may be more than once
	s, m = open()
	defer s.Close()
	have, err := m.Secrets(t.Context(), "vault")
	if err != nil || string(have["key"]) != "hush-hush" || made != before {
		t.Errorf("after a restart %q, made %d times, before it %d, %v", have, made, before, err)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		b, err := json.Marshal(store.Records().List(tx))
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "hush") || !strings.Contains(string(b), `"detail":"a b"`) {
			t.Errorf("audit record: %s", b)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
