package openstack

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/service"
)

// Name is that of the component for the site as a whole; its parts on hosts are components of their own.
const Name = "openstack"

// The secrets of a site.
const (
	secretQueue    = "queue"    // password of the services in RabbitMQ
	secretCookie   = "cookie"   // of Erlang's nodes
	secretMetadata = "metadata" // between neutron's and nova's metadata services
	secretSession  = "session"  // signs horizon's cookies
	secretCache    = "cache"    // encrypts tokens in memcached
)

// userSecret is the name of the secret that is the password of a user of keystone.
func userSecret(user string) string { return "user." + user }

// The users of people, one for each role of operators, each with the role of the same rights in keystone.
func people() map[string]string {
	return map[string]string{"admin": "admin", "operator": "member", "reader": "reader"}
}

// machineUsers are the users that services are in keystone.
func machineUsers() []string { return []string{"cinder", "glance", "neutron", "nova", "placement"} }

// passwords are the names of all secrets that are random words.
func passwords() []string {
	list := []string{secretQueue, secretCookie, secretMetadata, secretSession, secretCache}
	for user := range people() {
		list = append(list, userSecret(user))
	}
	for _, user := range machineUsers() {
		list = append(list, userSecret(user))
	}
	return list
}

// Authority is what a site has once of OpenStack.
type Authority struct {
	Signer service.Signer
}

// Name is that of the component.
func (Authority) Name() string { return Name }

// Found makes the passwords and keys of a site, and a new key for tokens when it is time.
func (Authority) Found(have service.Secrets, _ *api.Site, now time.Time) (added bool, err error) {
	make32 := func(name string, encode func([]byte) string) {
		if len(have[name]) > 0 {
			return
		}
		b := make([]byte, 32)
		rand.Read(b) // never fails
		have[name], added = []byte(encode(b)), true
	}
	for _, name := range passwords() {
		make32(name, hex.EncodeToString)
	}
	key := func(name string) { make32(name, base64.URLEncoding.EncodeToString) } // as keystone-manage writes them (Fernet specification)
	for _, name := range credentialKeys() {
		key(name)
	}
	changeTokenKeys(have, now, key)
	return added, nil
}

// certServer is the certificate of the APIs.
const certServer = "server"

// Issue answers controllers whose configuration wants OpenStack with all secrets and a certificate, and operators with the
// password of their role.
func (a Authority) Issue(have service.Secrets, by service.Asker, join *api.Join, now time.Time) (*api.Material, error) {
	address, err := addressOf(by.Site)
	if err != nil {
		return nil, err
	}
	out := &api.Material{Schema: 1, Address: address, Authorities: map[string]string{"site": a.Signer.RootPEM()}, Secrets: map[string][]byte{}}
	if by.Host == nil {
		if len(join.Requests) > 0 {
			return nil, api.Denied.Errorf("cannot give access to OpenStack: it knows people by passwords, not by certificates")
		}
		if people()[by.Role] == "" {
			return nil, api.Denied.Errorf("cannot give access to OpenStack: role %q has none", by.Role)
		}
		name := userSecret(by.Role)
		out.Secrets[name] = have[name]
		return out, nil
	}
	if by.Config.OpenStack == nil || !by.Host.Personality.Controls() {
		return nil, api.Denied.Errorf("cannot join OpenStack: host %s does not run its control plane", by.Host.Name)
	}
	for name, secret := range have {
		out.Secrets[name] = secret
	}
	for name, request := range join.Requests {
		if name != certServer {
			return nil, api.Denied.Errorf("cannot issue certificate %q of OpenStack: there is none of that name", name)
		}
		chain, err := a.Signer.Service(request, by.Host.Name, by.Addresses(), now)
		if err != nil {
			return nil, err
		}
		out.Certificates = map[string]string{name: chain}
	}
	return out, nil
}

// addressOf is where the site's OpenStack is reached: on the first controller.
func addressOf(site *api.Site) (string, error) {
	if len(site.Controllers) == 0 {
		return "", errors.New("cannot reach OpenStack: the site has no controller")
	}
	host := strings.TrimPrefix(site.Controllers[0], "https://")
	host, _, err := net.SplitHostPort(host)
	if err != nil {
		return "", fmt.Errorf("cannot reach OpenStack: controller %q has no address", site.Controllers[0])
	}
	return host, nil
}
