package ceph

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// TestAuthority makes secrets once and gives each asker the keys of their own.
func TestAuthority(t *testing.T) {
	have, site := service.Secrets{}, &api.Site{Name: "edge", Controllers: []string{"https://10.77.0.2:7443"}}
	for _, want := range []bool{true, false} {
		if added, err := (Authority{}).Found(have, site, time.Now()); added != want || err != nil {
			t.Errorf("added %v, %v", added, err)
		}
	}
	wants, not := &api.Config{Components: api.Components{Ceph: &api.Ceph{}}}, &api.Config{}
	pods := &api.Config{Components: api.Components{Ceph: &api.Ceph{}, Kubernetes: &api.Kubernetes{}}}
	machines := &api.Config{Components: api.Components{Ceph: &api.Ceph{}, OpenStack: &api.OpenStack{}}}
	for name, test := range map[string]struct {
		by   service.Asker
		want string // names of secrets, or of the problem
	}{
		"controller":    {service.Asker{Host: &api.Host{Name: "one", Personality: "controller"}, Config: wants}, "client.admin client.bootstrap-osd client.cinder client.glance client.kubernetes client.reader client.volumes disks fsid mgr.one mon."},
		"worker":        {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: wants}, "client.bootstrap-osd disks fsid"},
		"node":          {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: pods}, "client.bootstrap-osd client.kubernetes disks fsid"},
		"hypervisor":    {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: machines}, "client.bootstrap-osd client.cinder disks fsid"},
		"another":       {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: not}, "denied"},
		"administrator": {service.Asker{Operator: "ann", Role: "admin"}, "client.admin fsid"},
		"operator":      {service.Asker{Operator: "bob", Role: "operator"}, "client.volumes fsid"},
		"reader":        {service.Asker{Operator: "cem", Role: "reader"}, "client.reader fsid"},
	} {
		test.by.Site = site
		out, err := Authority{}.Issue(have, test.by, &api.Join{Schema: 1}, time.Now())
		if err != nil {
			if test.want != "denied" || !api.Denied.In(err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if got := strings.Join(sorted(out.Secrets), " "); got != test.want || out.Address != "[v2:10.77.0.2:3300/0,v1:10.77.0.2:6789/0]" {
			t.Errorf("%s: got %s at %s", name, got, out.Address)
		}
		if test.by.Host == nil {
			access, err := NewAccess(out)
			if err != nil || !strings.Contains(access.Config, string(have[secretFSID])) || !strings.Contains(access.Keyring, "["+access.User+"]\n\tkey = AQAAAA") {
				t.Errorf("%s: got %+v, %v", name, access, err)
			}
		}
		for _, value := range out.Secrets {
			if slices.Equal(value, have[secretSeed]) {
				t.Errorf("%s gets the seed", name)
			}
		}
	}
	request := &api.Join{Schema: 1, Requests: map[string]string{"x": "y"}}
	if _, err := (Authority{}).Issue(have, service.Asker{Role: "admin", Site: site}, request, time.Now()); !api.Invalid.In(err) {
		t.Errorf("a certificate: %v", err)
	}
	if _, err := NewAccess(&api.Material{}); err == nil {
		t.Error("access from nothing")
	}
}

// TestKey is of the form that Ceph reads.
func TestKey(t *testing.T) {
	a, b := keyOf([]byte("seed"), "client.a"), keyOf([]byte("seed"), "client.b")
	raw, err := base64.StdEncoding.DecodeString(a)
	if err != nil || len(raw) != 28 || raw[0] != 1 || raw[10] != 16 || a == b || a != keyOf([]byte("seed"), "client.a") {
		t.Errorf("got %x and %s, %v", raw, b, err)
	}
}

// TestPools has a pool for each use that other components make of Ceph, whatever pools the site names.
func TestPools(t *testing.T) {
	kubernetes, openstack := &api.Kubernetes{}, &api.OpenStack{}
	for _, test := range []struct {
		named []string
		more  api.Components
		want  string
	}{
		{nil, api.Components{}, "volumes"},
		{nil, api.Components{Kubernetes: kubernetes}, "volumes kubernetes"},
		{[]string{"vms"}, api.Components{Kubernetes: kubernetes}, "vms kubernetes"},
		{[]string{"vms", "kubernetes"}, api.Components{Kubernetes: kubernetes}, "vms kubernetes"},
		{nil, api.Components{OpenStack: openstack}, "volumes cinder glance"},
		{[]string{"glance"}, api.Components{Kubernetes: kubernetes, OpenStack: openstack}, "glance kubernetes cinder"},
	} {
		test.more.Ceph = &api.Ceph{Pools: test.named}
		if got := strings.Join(poolsOf(&api.Config{Components: test.more}), " "); got != test.want {
			t.Errorf("pools %s, want %s", got, test.want)
		}
	}
}

// TestRights lets each user of pools into its own alone, and cinder read the images that volumes are cloned from.
func TestRights(t *testing.T) {
	pools := []string{poolKubernetes, poolCinder, poolGlance, "volumes"}
	for user, want := range map[string]string{
		userKubernetes: "profile rbd pool=kubernetes", userGlance: "profile rbd pool=glance",
		userCinder: "profile rbd pool=cinder, profile rbd-read-only pool=glance",
	} {
		if got := rights(user, pools); got[1][1] != "profile rbd" || got[2] != [2]string{"osd", want} {
			t.Errorf("%s may %q, want %s", user, got, want)
		}
	}
}
