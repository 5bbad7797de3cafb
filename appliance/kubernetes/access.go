package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"

	"roost/appliance/api"
)

// NewAccess makes a key for an operator and the request that has the site certify it.
func NewAccess() (key []byte, join api.Join, err error) {
	if key, err = newKey(); err != nil {
		return nil, join, err
	}
	request, err := newRequest(key)
	return key, api.Join{Schema: 1, Requests: map[string]string{certOperator: request}}, err
}

// Kubeconfig is what kubectl and its like need to reach the cluster of a site: address, authority, certificate and key in one
// file (kubectl config).
func Kubeconfig(site string, material *api.Material, key []byte) ([]byte, error) {
	authority, cert := material.Authorities[clusterCA], material.Certificates[certOperator]
	if material.Address == "" || authority == "" || cert == "" {
		return nil, errors.New("cannot make kubeconfig: the site's answer lacks address, authority or certificate")
	}
	b, err := json.MarshalIndent(object{
		"apiVersion": "v1", "kind": "Config", "current-context": site,
		"clusters": []any{object{"name": site, "cluster": object{"server": material.Address, "certificate-authority-data": []byte(authority)}}},
		"users":    []any{object{"name": site, "user": object{"client-certificate-data": []byte(cert), "client-key-data": key}}},
		"contexts": []any{object{"name": site, "context": object{"cluster": site, "user": site}}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot make kubeconfig: %w", err)
	}
	return append(b, '\n'), nil
}
