package api

import (
	"strings"
	"testing"
)

func TestKubernetesValidate(t *testing.T) {
	in := []Interface{{MAC: "52:54:00:00:00:01", Addresses: []string{"10.77.0.2/24"}}}
	for _, test := range []struct {
		wish Kubernetes
		want string // of the error; empty: none
	}{
		{Kubernetes{}, ""},
		{Kubernetes{Pods: "172.16.0.0/16", Services: "172.17.0.0/20", Domain: "edge.example"}, ""},
		{Kubernetes{Pods: "10.244.0.0/23"}, "/22 or larger"},
		{Kubernetes{Pods: "10.244.0.1/16"}, "network of pods"},
		{Kubernetes{Pods: "2001:db8::/48"}, "network of pods"},
		{Kubernetes{Pods: "x"}, "network of pods"},
		{Kubernetes{Services: "10.0.0.0/8"}, "network of services"},
		{Kubernetes{Services: "10.96.0.0/25"}, "network of services"},
		{Kubernetes{Pods: "10.96.0.0/16"}, "overlap"},
		{Kubernetes{Pods: "10.64.0.0/12"}, "the host itself is in 10.77.0.0/24"},
		{Kubernetes{Services: "10.77.0.0/24"}, "the host itself is in 10.77.0.0/24"},
		{Kubernetes{Domain: "a..b"}, "cluster domain"},
		{Kubernetes{Domain: "Cluster"}, "cluster domain"},
		{Kubernetes{Domain: "a b"}, "cluster domain"},
		{Kubernetes{Domain: "x\n  forward . 192.0.2.1"}, "cluster domain"},
	} {
		err := test.wish.Validate(in)
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || !Invalid.In(err)) {
			t.Errorf("%+v: got %v, want %q", test.wish, err, test.want)
		}
	}
}
