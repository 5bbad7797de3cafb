package ceph

import (
	"errors"
	"fmt"
	"strings"

	"roost/appliance/api"
)

// Access is what the ceph, rados and rbd programs need to use the Ceph of a site.
type Access struct {
	Config  string // ceph.conf
	User    string // client.admin, client.volumes or client.reader
	Keyring string // text of the file ceph.USER.keyring
}

// NewAccess makes the files from the site's answer to an operator.
func NewAccess(material *api.Material) (*Access, error) {
	out := &Access{Config: fmt.Sprintf("[global]\nfsid = %s\nmon_host = %s\n", material.Secrets[secretFSID], material.Address)}
	for user, key := range material.Secrets {
		if strings.HasPrefix(user, "client.") {
			out.User, out.Keyring = user, keyring(user, string(key), nil)
		}
	}
	if out.User == "" || material.Address == "" || material.Secrets[secretFSID] == nil {
		return nil, errors.New("cannot use Ceph: the site's answer lacks address, cluster or key")
	}
	return out, nil
}
