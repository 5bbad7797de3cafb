package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func Release() *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the releases on the site's shelf", Args: Exact(0)}
	format := OutputFlag(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		releases, err := site.Releases(c.Context())
		if err != nil {
			return err
		}
		t := Table{Head: []string{"NAME", "VERSION", "ARCHITECTURE", "KERNEL", "SIZE", "CREATED", "CURRENT", "DIGEST"}, Value: releases}
		for _, r := range releases {
			current := ""
			if r.Current {
				current = "yes"
			}
			t.Rows = append(t.Rows, []string{r.Name, string(r.Version), r.Architecture, r.Kernel, megabytes(r.Size), r.Created.Format(time.DateOnly), dash(current), string(r.Digest)})
		}
		return t.Print(c.OutOrStdout(), *format)
	}
	return Noun("release", "Publish releases and see what a site has", list)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
