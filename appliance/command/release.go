package command

import (
	"fmt"
	"net/url"
	"time"

	"roost/images"
	"roost/images/depot"

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
	return Noun("release", "Publish releases and see what a site has", list, push(), use())
}

// push copies a release to the registry of the site.
func push() *cobra.Command {
	var which string
	var current bool
	c := &cobra.Command{
		Use: "push DEPOT", Short: "Copy a release from a depot to the site's shelf", Args: Exact(1),
		Long: "Copy a release from a depot to the site's shelf. What the site has already is not sent again; an interrupted push\n" +
			"continues where it stopped.",
	}
	c.Flags().StringVar(&which, "release", "", "which release of the depot: digest, version or NAME:VERSION; the newest when empty")
	c.Flags().BoolVar(&current, "current", false, "install new machines with it from now on")
	c.RunE = func(c *cobra.Command, args []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		from, err := depot.Open(c.Context(), args[0], depot.Options{})
		if err != nil {
			return err
		}
		defer from.Close()
		r, err := from.Get(c.Context(), which)
		if err != nil {
			return err
		}
		u, err := url.Parse(site.URL())
		if err != nil {
			return err
		}
		to, err := depot.Open(c.Context(), "docker://"+u.Host, depot.Options{Transport: site.Transport()})
		if err != nil {
			return err
		}
		defer to.Close()
		copied, err := depot.Copy(c.Context(), r, to, depot.CopyOptions{})
		if err != nil {
			return err
		}
		if current {
			if _, err := site.SetCurrent(c.Context(), copied.Manifest.Digest); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s %s is on the shelf of the site: %s\n", copied.Document.Name, copied.Document.Version, copied.Manifest.Digest)
		return err
	}
	return c
}

func use() *cobra.Command {
	return &cobra.Command{
		Use: "use DIGEST", Short: "Install new machines with this release of the site's shelf from now on", Args: Exact(1),
		RunE: func(c *cobra.Command, args []string) error {
			site, err := connect(c)
			if err != nil {
				return err
			}
			digest, err := images.ParseDigest(args[0])
			if err != nil {
				return err
			}
			_, err = site.SetCurrent(c.Context(), digest)
			return err
		},
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
