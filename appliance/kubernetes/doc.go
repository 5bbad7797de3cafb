// Package kubernetes is what knows Kubernetes: what a site has of it once ([Authority]), how a host comes to run it ([Host]),
// and how its network policies are enforced ([Enforcer]).
//
// A controller runs the API server, the controller manager and the scheduler as systemd services; every host that wants
// Kubernetes runs containerd, the kubelet and kube-proxy. All are the stock programs with settings of ours; [Host] writes their
// units and settings to /run at every start of the machine, from the host's configuration, so nothing of an older release or
// configuration is ever in force. Units that need no rights have none: a throw-away user, and only the keys of their own, handed
// over by systemd.
//
// Keys are made where they are used and never leave: hosts send certificate requests, the site signs them as its authority for
// the cluster. The authorities' own keys are in the site's store and nowhere else; no file holds them, not even on a
// controller. Hence the controller manager signs no certificate requests: hosts renew theirs through Roost.
//
// Pods of a node are routed, not bridged (plugin ptp), so every packet between pods passes the forward hook, where the
// policies are: one nftables table, written as a whole in one transaction from a pure function of pods, namespaces and
// policies.
//
// On a host whose configuration says which processors are the platform's, the kubelet keeps to them with all other services, and
// gives a pod that asks for whole processors some of the others for itself (its static policy). Which pod has which is state of
// the kubelet that outlives it; it is dropped when the division changes, else the kubelet would not start.
//
// The control plane's store is the site's own, through a door that opens one prefix (package store).
//
// Rejected: keeping all other pods off the platform's processors too (strict-cpu-reservation: when every processor is given away
// they would run on those); kubeadm (it is made for people and joins by tokens; we have an enrolment), static pods (images would have to be
// there before anything can start, and the units are simpler to look at), kubectl to apply manifests (a process and 100 MB for
// one HTTP request), bridge with br_netfilter (a module and two settings away from no policy at all), the policy controllers
// that exist (none is published as Go module that can be built here, and those with queues to user space stop traffic when
// they stop).
package kubernetes

import (
	"fmt"
	"net/netip"
	"net/url"

	"roost/appliance/api"
)

// name is that of the component everywhere.
const name = "kubernetes"

const (
	apiPort   = 6443
	StorePort = 2379 // on the loopback interface, where the control plane reaches the site's store
	// StorePrefix is the part of the site's store that is Kubernetes' own.
	StorePrefix = "/kubernetes/"
)

// Server is where the API server of the site is reached by others than itself: on the first controller.
func Server(site *api.Site) (string, error) {
	if len(site.Controllers) == 0 {
		return "", fmt.Errorf("cannot reach Kubernetes: the site has no controller")
	}
	return serverAt(site.Controllers[0])
}

// serverAt is the API server beside the controller at url.
func serverAt(controller string) (string, error) {
	u, err := url.Parse(controller)
	if err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("cannot reach Kubernetes: controller %q has no address", controller)
	}
	if address, err := netip.ParseAddr(u.Hostname()); err == nil && address.Is6() {
		return fmt.Sprintf("https://[%s]:%d", address, apiPort), nil
	}
	return fmt.Sprintf("https://%s:%d", u.Hostname(), apiPort), nil
}

// nth is the n-th address of a network.
func nth(network string, n int) (netip.Addr, error) {
	prefix, err := netip.ParsePrefix(network)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot use network %q: %w", network, err)
	}
	address := prefix.Masked().Addr()
	for range n {
		address = address.Next()
	}
	return address, nil
}
