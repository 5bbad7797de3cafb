package command

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"roost/appliance/api"
	"roost/appliance/openstack"
)

// OpenStack holds the verbs for the site's cloud.
func OpenStack() *cobra.Command {
	credentials := &cobra.Command{
		Use:   "credentials DIR",
		Short: "Get access to the site's OpenStack for the openstack command and its like",
		Long: "Get the password of your role (admin: everything; operator: member; reader: reader, each in project admin and in those of\n" +
			"the site document) and write it to DIR, readable by you only: clouds.yaml, openrc for shells, and the certificate ca.crt\n" +
			"by which they know the site. The site records who got it.",
		Example: "  roost openstack credentials ~/edge\n  cd ~/edge && OS_CLOUD=edge openstack server list",
		Args:    Exact(1),
		RunE: func(c *cobra.Command, args []string) error {
			site, err := connect(c)
			if err != nil {
				return err
			}
			defer site.Close()
			facts, err := site.Site(c.Context())
			if err != nil {
				return err
			}
			material, err := site.Access(c.Context(), openstack.Name, api.Join{Schema: 1})
			if err != nil {
				return err
			}
			access, err := openstack.NewCredentials(facts.Name, material)
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("cannot write credentials: %w", err)
			}
			return saveCredentials(dir, access)
		},
	}
	return Noun("openstack", "Use the site's OpenStack", credentials)
}

func saveCredentials(dir string, access *openstack.Credentials) error {
	ca := filepath.Join(dir, "ca.crt")
	clouds, err := access.Clouds(ca)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot write credentials: %w", err)
	}
	for name, text := range map[string][]byte{"ca.crt": access.Root(), "clouds.yaml": clouds, "openrc": access.Shell(ca)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			return fmt.Errorf("cannot write credentials: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("cannot write credentials: %w", err)
		}
	}
	return nil
}
