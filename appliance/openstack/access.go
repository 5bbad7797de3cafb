package openstack

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"roost/appliance/api"
)

// Credentials are how an operator reaches the site's OpenStack, in the forms that its clients read.
type Credentials struct {
	site, user, password, keystone, root string
}

// NewCredentials reads the site's answer to a request for access.
func NewCredentials(site string, material *api.Material) (*Credentials, error) {
	c := &Credentials{site: site, root: material.Authorities["site"]}
	for name, secret := range material.Secrets {
		if user, ok := strings.CutPrefix(name, userSecret("")); ok {
			c.user, c.password = user, string(secret)
		}
	}
	if material.Address == "" || c.root == "" || c.password == "" {
		return nil, errors.New("cannot make credentials: the site's answer lacks address, authority or password")
	}
	c.keystone = plan{address: material.Address}.keystone()
	return c, nil
}

// Root is the certificate, PEM, by which the site's OpenStack is known.
func (c *Credentials) Root() []byte { return []byte(c.root) }

// Clouds is clouds.yaml of the stock clients, with the root certificate in the file ca. JSON is YAML.
func (c *Credentials) Clouds(ca string) ([]byte, error) {
	b, err := json.MarshalIndent(map[string]any{"clouds": map[string]any{c.site: map[string]any{
		"auth": map[string]any{"auth_url": c.keystone, "username": c.user, "password": c.password, "project_name": "admin",
			"user_domain_name": "Default", "project_domain_name": "Default"},
		"cacert": ca, "identity_api_version": 3,
	}}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot make credentials: %w", err)
	}
	return append(b, '\n'), nil
}

// Shell is the same as variables for a shell to read.
func (c *Credentials) Shell(ca string) []byte {
	var b strings.Builder
	for _, pair := range [][2]string{{"AUTH_URL", c.keystone}, {"USERNAME", c.user}, {"PASSWORD", c.password}, {"PROJECT_NAME", "admin"}, {"USER_DOMAIN_NAME", "Default"},
		{"PROJECT_DOMAIN_NAME", "Default"}, {"CACERT", ca}, {"IDENTITY_API_VERSION", "3"}} {
		fmt.Fprintf(&b, "export OS_%s='%s'\n", pair[0], strings.ReplaceAll(pair[1], "'", `'\''`))
	}
	return []byte(b.String())
}
