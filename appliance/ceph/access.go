package ceph

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"roost/appliance/api"
)

// Access is what the stock clients need to use the Ceph of a site.
type Access struct {
	Users []string          // client.admin, client.volumes, client.files or client.reader
	Files map[string]string // text by name: ceph.conf, and of each user ceph.USER.keyring; with a gateway, s3.env and ca.crt
}

// NewAccess makes the files, which are to be in a directory, from the site's answer to an operator.
func NewAccess(material *api.Material, dir string) (*Access, error) {
	config := fmt.Sprintf("[global]\nfsid = %s\nmon_host = %s\n", material.Secrets[secretFSID], material.Address)
	out := &Access{Files: map[string]string{"ceph.conf": config}}
	for _, user := range sorted(material.Secrets) {
		if strings.HasPrefix(user, "client.") {
			out.Users = append(out.Users, user)
			out.Files["ceph."+user+".keyring"] = keyring(user, string(material.Secrets[user]), nil)
		}
	}
	if len(out.Users) == 0 || material.Address == "" || material.Secrets[secretFSID] == nil {
		return nil, errors.New("cannot use Ceph: the site's answer lacks address, cluster or key")
	}
	if endpoint := material.Secrets[secretEndpoint]; endpoint != nil {
		out.Files["ca.crt"] = material.Authorities["site"]
		out.Files["s3.env"] = environment(string(endpoint), material, path.Join(dir, "ca.crt"))
	}
	return out, nil
}

// environment is the gateway's first user as variables for a shell to read, by the names that clients of S3 know.
func environment(endpoint string, material *api.Material, ca string) (text string) {
	for _, pair := range [][2]string{{"ENDPOINT_URL", endpoint}, {"REGION", "default"}, {"ACCESS_KEY_ID", string(material.Secrets[secretAccess])},
		{"SECRET_ACCESS_KEY", string(material.Secrets[secretSecret])}, {"CA_BUNDLE", ca}} {
		text += fmt.Sprintf("export AWS_%s='%s'\n", pair[0], strings.ReplaceAll(pair[1], "'", `'\''`))
	}
	return text
}
