package ceph

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
	"roost/appliance/service/servicetest"
)

// TestAuthority makes secrets once and gives each asker the keys of their own.
func TestAuthority(t *testing.T) {
	have, site := service.Secrets{}, &api.Site{Name: "edge", Controllers: []string{"https://10.77.0.2:7443"}}
	a := Authority{Signer: servicetest.NewSigner(t)}
	for _, want := range []bool{true, false} {
		if added, err := a.Found(have, site, time.Now()); added != want || err != nil {
			t.Errorf("added %v, %v", added, err)
		}
	}
	wants, not := &api.Config{Components: api.Components{Ceph: &api.Ceph{}}}, &api.Config{}
	objects := &api.Config{Components: api.Components{Ceph: &api.Ceph{Files: true, Objects: true}}}
	pods := &api.Config{Components: api.Components{Ceph: &api.Ceph{}, Kubernetes: &api.Kubernetes{}}}
	machines := &api.Config{Components: api.Components{Ceph: &api.Ceph{}, OpenStack: &api.OpenStack{}}}
	for name, test := range map[string]struct {
		by   service.Asker
		want string // names of secrets, or of the problem
	}{
		"controller":               {service.Asker{Host: &api.Host{Name: "one", Personality: "controller"}, Config: wants}, "client.admin client.bootstrap-osd client.cinder client.files client.glance client.kubernetes client.reader client.rgw.one client.volumes disks fsid mds.one mgr.one mon."},
		"worker":                   {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: wants}, "client.bootstrap-osd disks fsid"},
		"node":                     {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: pods}, "client.bootstrap-osd client.kubernetes disks fsid"},
		"hypervisor":               {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: machines}, "client.bootstrap-osd client.cinder disks fsid"},
		"another":                  {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: not}, "denied"},
		"administrator":            {service.Asker{Operator: "ann", Role: "admin", Config: wants}, "client.admin fsid"},
		"operator":                 {service.Asker{Operator: "bob", Role: "operator", Config: not}, "client.volumes fsid"},
		"reader":                   {service.Asker{Operator: "cem", Role: "reader", Config: wants}, "client.reader fsid"},
		"administrator of objects": {service.Asker{Operator: "ann", Role: "admin", Config: objects}, "client.admin fsid objects.access objects.endpoint objects.secret"},
		"operator of objects":      {service.Asker{Operator: "bob", Role: "operator", Config: objects}, "client.files client.volumes fsid objects.access objects.endpoint objects.secret"},
		"reader of objects":        {service.Asker{Operator: "cem", Role: "reader", Config: objects}, "client.reader fsid"},
		"worker of objects":        {service.Asker{Host: &api.Host{Name: "two", Personality: "worker"}, Config: objects}, "client.bootstrap-osd disks fsid"},
	} {
		test.by.Site = site
		out, err := a.Issue(have, test.by, &api.Join{Schema: 1}, time.Now())
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
			access, err := NewAccess(out, "/x")
			if err != nil || !strings.Contains(access.Files["ceph.conf"], string(have[secretFSID])) || len(access.Users) == 0 {
				t.Fatalf("%s: got %+v, %v", name, access, err)
			}
			for _, user := range access.Users {
				if !strings.Contains(access.Files["ceph."+user+".keyring"], "["+user+"]\n\tkey = AQAAAA") {
					t.Errorf("%s: got %+v", name, access)
				}
			}
			for _, line := range []string{"AWS_ENDPOINT_URL='https://10.77.0.2:7480'", "AWS_CA_BUNDLE='/x/ca.crt'", "AWS_SECRET_ACCESS_KEY='" + string(out.Secrets[secretSecret]) + "'"} {
				if strings.Contains(access.Files["s3.env"], line) != strings.Contains(test.want, "objects") {
					t.Errorf("%s: got %s", name, access.Files["s3.env"])
				}
			}
		}
		for _, value := range out.Secrets {
			if slices.Equal(value, have[secretSeed]) {
				t.Errorf("%s gets the seed", name)
			}
		}
	}
	if _, err := NewAccess(&api.Material{}, "/x"); err == nil {
		t.Error("access from nothing")
	}
}

// TestCertificate gives the gateway's certificate to the controller of a site that has a gateway, and to nobody else.
func TestCertificate(t *testing.T) {
	have, site := service.Secrets{secretSeed: []byte("seed")}, &api.Site{Name: "edge", Controllers: []string{"https://10.77.0.2:7443"}}
	a := Authority{Signer: servicetest.NewSigner(t)}
	_, request, err := service.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	one, two := &api.Host{Name: "one", Personality: "controller"}, &api.Host{Name: "two", Personality: "worker"}
	objects, blocks := &api.Config{Components: api.Components{Ceph: &api.Ceph{Objects: true}}}, &api.Config{Components: api.Components{Ceph: &api.Ceph{}}}
	for name, test := range map[string]struct {
		by      service.Asker
		name    string
		request string
		kind    api.Kind // empty: it gets one
	}{
		"controller":           {service.Asker{Host: one, Config: objects}, certGateway, request, ""},
		"under another name":   {service.Asker{Host: one, Config: objects}, "monitor", request, api.Denied},
		"nonsense":             {service.Asker{Host: one, Config: objects}, certGateway, "x", api.Invalid},
		"site without gateway": {service.Asker{Host: one, Config: blocks}, certGateway, request, api.Denied},
		"worker":               {service.Asker{Host: two, Config: objects}, certGateway, request, api.Denied},
		"administrator":        {service.Asker{Role: "admin", Config: objects}, certGateway, request, api.Denied},
	} {
		test.by.Site = site
		out, err := a.Issue(have, test.by, &api.Join{Schema: 1, Requests: map[string]string{test.name: test.request}}, time.Now())
		if test.kind != "" && !test.kind.In(err) || test.kind == "" && (err != nil || !strings.Contains(out.Certificates[certGateway], "BEGIN CERTIFICATE")) {
			t.Errorf("%s: got %+v, %v", name, out, err)
		}
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
