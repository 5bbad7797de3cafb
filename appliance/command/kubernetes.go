package command

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"roost/appliance/kubernetes"
)

// Kubernetes holds the verbs for the site's cluster.
func Kubernetes() *cobra.Command {
	var file string
	config := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Get access to the site's Kubernetes for kubectl and its like",
		Long: "Make a key, have the site certify it for a day with the rights of your role there (admin: everything; operator: edit;\n" +
			"reader: view), and write both as a kubeconfig. The key does not leave this computer.",
		Example: "  roost kubernetes kubeconfig --file edge.kubeconfig\n  kubectl --kubeconfig edge.kubeconfig get nodes",
		Args:    Exact(0),
	}
	config.Flags().StringVar(&file, "file", "", "write it to this file, readable by you only; it is printed when empty")
	config.RunE = func(c *cobra.Command, _ []string) error {
		api, err := connect(c)
		if err != nil {
			return err
		}
		defer api.Close()
		site, err := api.Site(c.Context())
		if err != nil {
			return err
		}
		key, join, err := kubernetes.NewAccess()
		if err != nil {
			return err
		}
		material, err := api.Access(c.Context(), "kubernetes", join)
		if err != nil {
			return err
		}
		text, err := kubernetes.Kubeconfig(site.Name, material, key)
		if err != nil {
			return err
		}
		if file == "" {
			_, err = c.OutOrStdout().Write(text)
			return err
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return fmt.Errorf("cannot write kubeconfig: %w", err)
		}
		return nil
	}
	return Noun("kubernetes", "Use the site's Kubernetes", config)
}
