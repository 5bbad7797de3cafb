package kubernetes

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// The authorities of a cluster. They are apart so that a certificate is good for one thing only: a node's own server, say, is
// nobody whom a client of the API server trusts.
const (
	clusterCA = "cluster-ca" // clients of the API server, and the API server
	proxyCA   = "proxy-ca"   // the API server toward its extensions
	nodeCA    = "node-ca"    // the kubelets' servers
	storeCA   = "store-ca"   // the control plane toward the site's store, and that store
)

// The secrets that controllers have in common.
const (
	accountKey    = "accounts.key"   // signs the tokens of service accounts
	encryptionKey = "encryption.key" // 32 bytes; of Kubernetes' secrets in the store

	encryptionFile = "encryption.json" // the key as the API server reads it
)

// Authority is what a site has once of Kubernetes.
type Authority struct{}

// Name is that of the component.
func (Authority) Name() string { return name }

// Found makes the authorities and the common secrets of a cluster.
func (Authority) Found(have service.Secrets, site *api.Site, now time.Time) (added bool, err error) {
	for _, ca := range []string{clusterCA, proxyCA, nodeCA, storeCA} {
		if have[ca+".crt"] != nil && have[ca+".key"] != nil {
			continue
		}
		added = true
		if have[ca+".crt"], have[ca+".key"], err = newAuthority("Kubernetes "+ca, site.Name, now); err != nil {
			return false, err
		}
	}
	if have[accountKey] == nil {
		added = true
		if have[accountKey], err = newKey(); err != nil {
			return false, err
		}
	}
	if have[encryptionKey] == nil {
		added = true
		have[encryptionKey] = make([]byte, 32)
		rand.Read(have[encryptionKey]) // never fails
	}
	return added, nil
}

// certificate is one that hosts or operators may ask for.
type certificate struct {
	ca      string
	control bool // only controllers may have it
	subject func(service.Asker) (subject, error)
}

func client(name, group string) func(service.Asker) (subject, error) {
	return func(service.Asker) (subject, error) { return subject{name: name, group: group}, nil }
}

// The names of certificates, which are those of their files too.
const (
	certServer     = "apiserver"
	certKubelet    = "kubelet"
	certNode       = "node"
	certProxy      = "kube-proxy"
	certController = "controller-manager"
	certScheduler  = "scheduler"
	certToKubelet  = "to-kubelet"
	certToStore    = "to-store"
	certFront      = "front-proxy"
	certRoost      = "roost"
	certOperator   = "operator"
	certPolicy     = "policy"
	certVolumes    = "volumes"
)

// hostCertificates are those that hosts may have, by name.
func hostCertificates() map[string]certificate {
	return map[string]certificate{
		certServer:     {clusterCA, true, serverSubject},
		certController: {clusterCA, true, client("system:kube-controller-manager", "")},
		certScheduler:  {clusterCA, true, client("system:kube-scheduler", "")},
		certToKubelet:  {clusterCA, true, client(userServer, "")},
		certVolumes:    {clusterCA, true, client(userVolumes, "")},
		certRoost:      {clusterCA, true, client("roost:controller", "system:masters")},
		certFront:      {proxyCA, true, client("front-proxy-client", "")},
		certToStore:    {storeCA, true, client(name, "")},
		certProxy:      {clusterCA, false, client("system:kube-proxy", "")},
		certNode:       {nodeCA, false, nodeSubject},
		certKubelet: {clusterCA, false, func(by service.Asker) (subject, error) {
			return subject{name: "system:node:" + by.Host.Name, group: "system:nodes"}, nil
		}},
		certPolicy: {clusterCA, false, client(userPolicy, "")},
	}
}

// Issue answers hosts whose configuration wants Kubernetes, and operators.
func (Authority) Issue(have service.Secrets, by service.Asker, join *api.Join, now time.Time) (*api.Material, error) {
	server, err := Server(by.Site)
	if err != nil {
		return nil, err
	}
	out := &api.Material{Schema: 1, Address: server, Certificates: map[string]string{}, Authorities: map[string]string{clusterCA: string(have[clusterCA+".crt"])}}
	known := map[string]certificate{certOperator: {clusterCA, false, operatorSubject}}
	control := false
	if by.Host != nil {
		if by.Config.Kubernetes == nil {
			return nil, api.Denied.Errorf("cannot join Kubernetes: the configuration of host %s does not want it", by.Host.Name)
		}
		known, control = hostCertificates(), by.Host.Personality.Controls()
	}
	for name, request := range join.Requests {
		kind, ok := known[name]
		if !ok || kind.control && !control {
			return nil, api.Denied.Errorf("cannot issue certificate %q of Kubernetes: not for who asks", name)
		}
		subject, err := kind.subject(by)
		if err != nil {
			return nil, err
		}
		if out.Certificates[name], err = answer(request, subject, have[kind.ca+".crt"], have[kind.ca+".key"], now); err != nil {
			return nil, api.Invalid.Errorf("cannot issue certificate %q of Kubernetes: %v", name, err)
		}
		out.Authorities[kind.ca] = string(have[kind.ca+".crt"])
	}
	if control {
		out.Secrets = map[string][]byte{accountKey: have[accountKey], encryptionKey: have[encryptionKey]}
	}
	return out, nil
}

// operatorSubject gives an operator the rights of their role, for a day.
func operatorSubject(by service.Asker) (subject, error) {
	return subject{name: by.Operator, group: groupOf(by.Role), life: lifeOperator}, nil
}

// serverSubject is the API server on a controller, under all names that clients call it by.
func serverSubject(by service.Asker) (subject, error) {
	wish := by.Config.Kubernetes.Defaults()
	first, err := nth(wish.Services, 1)
	if err != nil {
		return subject{}, err
	}
	out := subject{name: "kube-apiserver", server: true, names: []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + wish.Domain, "localhost", by.Host.Name,
	}}
	out.addresses = append(by.Addresses(), first.AsSlice(), net.IPv4(127, 0, 0, 1))
	for _, controller := range by.Site.Controllers {
		u, err := url.Parse(controller)
		if err != nil {
			continue
		}
		if address, err := netip.ParseAddr(u.Hostname()); err == nil {
			out.addresses = append(out.addresses, address.AsSlice())
		} else if !slices.Contains(out.names, u.Hostname()) {
			out.names = append(out.names, u.Hostname())
		}
	}
	return out, nil
}

func nodeSubject(by service.Asker) (subject, error) {
	return subject{name: "system:node:" + by.Host.Name, group: "system:nodes", server: true, names: []string{by.Host.Name}, addresses: by.Addresses()}, nil
}

// Door returns the TLS settings with which the site's store serves the control plane on this controller: to holders of a
// certificate of the cluster's authority for the store, and nobody else.
func Door(have service.Secrets, now time.Time) (*tls.Config, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	request, err := newRequest(key)
	if err != nil {
		return nil, err
	}
	self := subject{name: "store", server: true, names: []string{"localhost"}, addresses: []net.IP{net.IPv4(127, 0, 0, 1)}, life: lifeAuthority}
	cert, err := answer(request, self, have[storeCA+".crt"], have[storeCA+".key"], now)
	if err != nil {
		return nil, fmt.Errorf("cannot open the store to Kubernetes: %w", err)
	}
	pair, err := tls.X509KeyPair([]byte(cert), key)
	if err != nil {
		return nil, fmt.Errorf("cannot open the store to Kubernetes: %w", err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(have[storeCA+".crt"])
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}, nil
}
