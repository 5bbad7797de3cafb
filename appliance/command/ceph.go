package command

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"roost/appliance/api"
	"roost/appliance/ceph"
)

// Ceph holds the verbs for the site's storage.
func Ceph() *cobra.Command {
	var dir string
	access := &cobra.Command{
		Use:   "access",
		Short: "Get access to the site's Ceph for ceph, rados and rbd",
		Long: "Write ceph.conf and the keyring of a user with the rights of your role there (admin: client.admin, everything; operator:\n" +
			"client.volumes, the pools of block devices; reader: client.reader, look). The key is good until the site's Ceph is made anew.",
		Example: "  roost ceph access --dir edge-ceph\n  ceph --conf edge-ceph/ceph.conf --keyring edge-ceph/ceph.client.admin.keyring status",
		Args:    Exact(0),
	}
	access.Flags().StringVar(&dir, "dir", ".", "directory for the two files; the keyring is readable by you only")
	access.RunE = func(c *cobra.Command, _ []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		defer site.Close()
		material, err := site.Access(c.Context(), "ceph", api.Join{Schema: 1})
		if err != nil {
			return err
		}
		files, err := ceph.NewAccess(material)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot write access to Ceph: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ceph.conf"), []byte(files.Config), 0o644); err != nil {
			return fmt.Errorf("cannot write access to Ceph: %w", err)
		}
		path := filepath.Join(dir, "ceph."+files.User+".keyring")
		if err := os.WriteFile(path, []byte(files.Keyring), 0o600); err != nil {
			return fmt.Errorf("cannot write access to Ceph: %w", err)
		}
		fmt.Fprintf(c.OutOrStdout(), "You are %s; the key is in %s.\n", files.User, path)
		return nil
	}
	return Noun("ceph", "Use the site's Ceph", access)
}
