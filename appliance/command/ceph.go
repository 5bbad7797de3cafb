package command

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"roost/appliance/api"
	"roost/appliance/ceph"
)

// Ceph holds the verbs for the site's storage.
func Ceph() *cobra.Command {
	var dir string
	access := &cobra.Command{
		Use:   "access",
		Short: "Get access to the site's Ceph for ceph, rados, rbd and clients of S3",
		Long: "Write ceph.conf and the keyrings of users with the rights of your role there (admin: client.admin, everything; operator:\n" +
			"client.volumes, the pools of block devices, and client.files, the file system; reader: client.reader, look). Where the site has\n" +
			"a gateway, s3.env has the keys of its first user as variables for a shell, and ca.crt is the certificate to know it by. The\n" +
			"keys are good until the site's Ceph is made anew.",
		Example: "  roost ceph access --dir edge-ceph\n  ceph --conf edge-ceph/ceph.conf --keyring edge-ceph/ceph.client.admin.keyring status\n" +
			"  . edge-ceph/s3.env && aws s3 ls",
		Args: Exact(0),
	}
	access.Flags().StringVar(&dir, "dir", ".", "directory for the files; keys are readable by you only")
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
		if dir, err = filepath.Abs(dir); err != nil {
			return fmt.Errorf("cannot write access to Ceph: %w", err)
		}
		files, err := ceph.NewAccess(material, dir)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot write access to Ceph: %w", err)
		}
		for name, text := range files.Files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				return fmt.Errorf("cannot write access to Ceph: %w", err)
			}
		}
		fmt.Fprintf(c.OutOrStdout(), "You are %s; the keys are in %s.\n", strings.Join(files.Users, " and "), dir)
		return nil
	}
	return Noun("ceph", "Use the site's Ceph", access)
}
