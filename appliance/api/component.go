package api

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// States of a component's bring-up. A component that cannot go on is Failed, and tried again.
const (
	Starting State = "starting"
	Ready    State = "ready"
)

// Component is how far one component of a host is: Kubernetes, Ceph, OpenStack.
type Component struct {
	Name   string    `json:"name"`
	State  State     `json:"state"`            // Starting, Ready or Failed
	Step   string    `json:"step,omitempty"`   // of its bring-up that is under way, or failed
	Done   int       `json:"done"`             // steps before it, which hold
	Steps  int       `json:"steps"`            // of the bring-up in all
	Reason string    `json:"reason,omitempty"` // why the step does not hold; one sentence
	Since  time.Time `json:"since,omitzero"`   // of the state
}

// Components is which components a configuration wants. All hosts of a site have the same.
type Components struct {
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"` // nil: the host runs none
	Ceph       *Ceph       `json:"ceph,omitempty"`       // likewise
	OpenStack  *OpenStack  `json:"openstack,omitempty"`  // likewise
}

// Validate checks every wish, on a host with these interfaces.
func (c *Components) Validate(interfaces []Interface) error {
	if c.Kubernetes != nil {
		if err := c.Kubernetes.Validate(interfaces); err != nil {
			return err
		}
	}
	if c.Ceph != nil {
		if err := c.Ceph.Validate(); err != nil {
			return err
		}
	}
	if c.OpenStack != nil {
		return c.OpenStack.Validate()
	}
	return nil
}

// Kubernetes is the wish that a host runs Kubernetes: controllers its control plane too, every host pods.
type Kubernetes struct {
	Pods     string `json:"pods,omitempty"`     // network of the pods, each node gets a /24 of it; 10.244.0.0/16 when empty
	Services string `json:"services,omitempty"` // network of the services; 10.96.0.0/16 when empty
	Domain   string `json:"domain,omitempty"`   // DNS domain of the cluster; cluster.local when empty
}

// Defaults returns the wish with what it leaves out filled in.
func (k Kubernetes) Defaults() Kubernetes {
	for _, d := range []struct {
		field *string
		value string
	}{{&k.Pods, "10.244.0.0/16"}, {&k.Services, "10.96.0.0/16"}, {&k.Domain, "cluster.local"}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	return k
}

// Validate checks that the networks are apart from each other and from those that the host is in, and large enough.
func (k Kubernetes) Validate(interfaces []Interface) error {
	k = k.Defaults()
	pods, err := netip.ParsePrefix(k.Pods)
	if err != nil || !pods.Addr().Is4() || pods.Masked() != pods || pods.Bits() > 22 {
		return Invalid.Errorf("cannot use network of pods %q: want an IPv4 network of /22 or larger, each node gets a /24 of it", k.Pods)
	}
	services, err := netip.ParsePrefix(k.Services)
	if err != nil || !services.Addr().Is4() || services.Masked() != services || services.Bits() > 24 || services.Bits() < 12 {
		return Invalid.Errorf("cannot use network of services %q: want an IPv4 network between /12 and /24", k.Services)
	}
	if pods.Overlaps(services) {
		return Invalid.Errorf("cannot use networks %s and %s: pods and services overlap", pods, services)
	}
	for _, i := range interfaces {
		for _, a := range i.Addresses {
			host, err := netip.ParsePrefix(a)
			if err == nil && (host.Overlaps(pods) || host.Overlaps(services)) {
				return Invalid.Errorf("cannot use networks %s and %s: the host itself is in %s (interface %s)", pods, services, host.Masked(), i.MAC)
			}
		}
	}
	for _, label := range strings.Split(k.Domain, ".") {
		name := Approval{Personality: "worker", Name: label}
		if label == "" || name.Validate() != nil {
			return Invalid.Errorf("cannot use cluster domain %q: want labels of a-z, 0-9 and inner hyphens", k.Domain)
		}
	}
	return nil
}

// Join is what a host, or an operator, asks of the site for one component: certificates over keys that it made itself.
// What else is in the certificates the site decides by their names and by who asks.
type Join struct {
	Schema   int               `json:"schema"`             // 1
	Requests map[string]string `json:"requests,omitempty"` // name of the certificate: request, PEM
}

// Material is the answer to a [Join].
type Material struct {
	Schema       int               `json:"schema"`                 // 1
	Address      string            `json:"address,omitempty"`      // where the component's service of the site is reached
	Certificates map[string]string `json:"certificates,omitempty"` // for every request, PEM
	Authorities  map[string]string `json:"authorities,omitempty"`  // whom to trust for what, PEM
	Secrets      map[string][]byte `json:"secrets,omitempty"`      // what the hosts that run the component have in common
}

// Component returns the named component's state; nil when the host does not speak of it.
func (h *Host) Component(name string) *Component {
	if i := slices.IndexFunc(h.Components, func(c Component) bool { return c.Name == name }); i >= 0 {
		return &h.Components[i]
	}
	return nil
}
