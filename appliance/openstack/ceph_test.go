package openstack

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/appliance/service/servicetest"
	"roost/images"
)

// withCeph is a controller whose site has Ceph, and what it asked of it.
func withCeph(t *testing.T, keys keep) (h *Controller, config *api.Config, m *machine) {
	config, m = controller().Config, &machine{running: map[string]time.Time{}}
	config.Ceph = &api.Ceph{}
	h = &Controller{Control: true, Host: Host{Root: t.TempDir(), Machine: m, Keys: keys, Node: "controller-0", Now: time.Now, Image: []images.Component{{Name: cephPart}},
		Ceph: func(context.Context, api.Join) (*api.Material, error) {
			return &api.Material{Address: "[v2:10.0.0.2:3300/0,v1:10.0.0.2:6789/0]", Secrets: map[string][]byte{
				"fsid": []byte("6f7c"), "client.cinder": []byte("cinder's"), "client.glance": []byte("glance's"), "client.admin": []byte("the administrator's")}}, nil
		}}}
	return h, config, m
}

func names(steps []service.Step) (list []string) {
	for _, s := range steps {
		list = append(list, s.Name)
	}
	return list
}

// TestCephWish has images and volumes in Ceph where the site has it and the release can, and nowhere else.
func TestCephWish(t *testing.T) {
	h, config, _ := withCeph(t, keep{})
	for name, test := range map[string]struct {
		change func()
		want   bool
	}{
		"both":             {func() {}, true},
		"an older release": {func() { h.Image = nil }, false},
		"no Ceph":          {func() { h.Image, config.Ceph = []images.Component{{Name: cephPart}}, nil }, false},
	} {
		h, config, _ = withCeph(t, keep{})
		test.change()
		list := names(h.Steps(config))
		if slices.Contains(list, "access to Ceph") != test.want || slices.Contains(list, "volumes") != test.want || slices.Contains(list, "images in Ceph") != test.want {
			t.Errorf("%s: steps %q", name, list)
		}
	}
}

// TestCephAccess keeps of Ceph what services need and no more, and writes it where each finds its own.
func TestCephAccess(t *testing.T) {
	keys := keep{}
	h, config, _ := withCeph(t, keys)
	a, have := Authority{Signer: servicetest.NewSigner(t)}, service.Secrets{}
	if _, err := a.Found(have, site(), time.Now()); err != nil {
		t.Fatal(err)
	}
	h.Join = func(_ context.Context, join api.Join) (*api.Material, error) {
		return a.Issue(have, controller(), &join, time.Now())
	}
	steps := h.Steps(config)
	if got := names(steps)[:3]; !slices.Equal(got, []string{"keys", "access to Ceph", "settings"}) {
		t.Fatalf("got %q", got)
	}
	for _, step := range steps[:3] {
		if err := step.Make(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := step.Holds(t.Context()); err != nil {
			t.Errorf("%s: %v", step.Name, err)
		}
	}
	if strings.Contains(string(keys[cephFile]), "administrator") {
		t.Errorf("keeps %s", keys[cephFile])
	}
	for path, want := range map[string]string{
		cephConf:                    "[client.cinder]\nkeyring = /run/credentials/openstack-cinder-volume.service/cinder.keyring\n",
		cephKeyring("glance"):       "[client.glance]\n\tkey = glance's\n",
		runDir + "/glance-api.conf": "enabled_backends = local:file,ceph:rbd\n",
		runDir + "/cinder.conf":     "rbd_secret_uuid = 6f7c\n",
		unitDir + "/" + unitVolume:  "LoadCredential=cinder.keyring:/" + cephKeyring("cinder"),
	} {
		text, err := os.ReadFile(filepath.Join(h.Root, path))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s, %v: %s", path, err, text)
		}
	}
	h.Ceph = func(context.Context, api.Join) (*api.Material, error) {
		return &api.Material{Address: "x", Secrets: map[string][]byte{"fsid": []byte("6f7c")}}, nil
	}
	if err := steps[1].Make(t.Context()); err == nil {
		t.Error("is content without a key")
	}
	if err := h.Steps(config)[1].Holds(t.Context()); err != nil {
		t.Errorf("what was there is lost: %v", err)
	}
	// And Ceph goes from the site.
	config.Ceph = nil
	b := &bringUp{part: part{Host: &h.Host}, controller: h}
	stop := b.volumeLane()[0]
	if stop.Holds(t.Context()) == nil {
		t.Error("cinder-volume is not there")
	}
	if err := stop.Make(t.Context()); err != nil {
		t.Error(err)
	}
	if err := stop.Holds(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDear asks again what held a minute ago, or of another plan; one step does not make another forgotten.
func TestDear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, m := withCeph(t, keep{})
		look := func(p plan) {
			t.Helper()
			b := &bringUp{part: part{Host: &h.Host, plan: p}, controller: h}
			for _, user := range poolUsers() {
				if err := b.pool(user).Holds(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		for _, want := range []int{2, 2} {
			if look(plan{}); len(m.ran) != want {
				t.Errorf("asked %q", m.ran)
			}
		}
		if look(plan{address: "10.0.0.3"}); len(m.ran) != 4 {
			t.Errorf("of another plan asked %q", m.ran)
		}
		time.Sleep(time.Minute)
		if look(plan{address: "10.0.0.3"}); len(m.ran) != 6 {
			t.Errorf("a minute later asked %q", m.ran)
		}
		m.broken = "rados"
		time.Sleep(time.Minute)
		if err := (&bringUp{part: part{Host: &h.Host}, controller: h}).pool("glance").Holds(t.Context()); err == nil || !strings.Contains(err.Error(), "pool glance of Ceph cannot be written") {
			t.Errorf("got %v", err)
		}
	})
}
