package command

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"roost/appliance/api"
	"roost/images"
	"roost/images/depot"
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
	return Noun("release", "Publish releases and see what a site has", list, push(), copyVerb(), use(), prune())
}

// push copies a release to the registry of the site.
func push() *cobra.Command {
	var which string
	var current, replace bool
	c := &cobra.Command{
		Use: "push DEPOT", Short: "Copy a release from a depot to the site's shelf", Args: Exact(1),
		Long: "Copy a release from a depot to the site's shelf. What the site has already is not sent again; an interrupted push\n" +
			"continues where it stopped.",
	}
	c.Flags().StringVar(&which, "release", "", "which release of the depot: digest, version or NAME:VERSION; the newest when empty")
	c.Flags().BoolVar(&replace, "replace", false, "let a version that the site has name this release instead")
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
		copied, err := depot.Copy(c.Context(), r, to, depot.CopyOptions{Progress: transferred(c.ErrOrStderr()), Replace: replace})
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

// copyVerb copies a release between depots, with no site in between.
func copyVerb() *cobra.Command {
	var which string
	var plain, replace bool
	c := &cobra.Command{
		Use: "copy FROM TO", Short: "Copy a release, with all that is attached to it, from one depot to another", Args: Exact(2),
		Long: "Copy a release, with its signatures, SBOM and provenance, from one depot to another. A depot is a layout directory\n" +
			"(oci:DIR), a single file to carry about (archive:FILE), or any OCI registry (docker://HOST/REPOSITORY). What TO has already\n" +
			"is not sent again; an interrupted copy continues where it stopped. Registry credentials are those of docker login.",
		Example: "  roost release copy out/depot archive:edge.roost\n  roost release copy archive:edge.roost docker://registry.example/os/edge",
	}
	c.Flags().StringVar(&which, "release", "", "which release of FROM: digest, version or NAME:VERSION; the newest when empty")
	c.Flags().BoolVar(&replace, "replace", false, "let a version that TO has name this release instead")
	c.Flags().BoolVar(&plain, "plain-http", false, "speak HTTP without TLS to registries on other machines")
	c.RunE = func(c *cobra.Command, args []string) error {
		options := depot.Options{Keychain: authn.DefaultKeychain, PlainHTTP: plain}
		from, err := depot.Open(c.Context(), args[0], options)
		if err != nil {
			return err
		}
		defer from.Close()
		r, err := from.Get(c.Context(), which)
		if err != nil {
			return err
		}
		if err := copyTo(c, r, args[1], options, replace); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s %s is in %s: %s\n", r.Document.Name, r.Document.Version, args[1], r.Manifest.Digest)
		return err
	}
	return c
}

func copyTo(c *cobra.Command, r *depot.Release, ref string, o depot.Options, replace bool) error {
	progress := depot.CopyOptions{Progress: transferred(c.ErrOrStderr()), Replace: replace}
	to, err := depot.ParseReference(ref)
	if err != nil {
		return err
	}
	if to.Kind == depot.KindArchive { // written in one go, never changed
		return depot.Export(c.Context(), to.Path, progress, r)
	}
	o.Create = true
	d, err := depot.Open(c.Context(), ref, o)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = depot.Copy(c.Context(), r, d, progress)
	return err
}

// transferred shows on a terminal how far a copy is, and elsewhere nothing.
func transferred(w io.Writer) func(depot.Progress) {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	last := time.Time{}
	return func(p depot.Progress) {
		done := p.Done == p.Total
		if !done && time.Since(last) < 100*time.Millisecond {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "\r\033[K%s of %s  %s", megabytes(p.Done), megabytes(p.Total), p.What)
		if done {
			fmt.Fprint(w, "\r\033[K")
		}
	}
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

func prune() *cobra.Command {
	var want api.Prune
	c := &cobra.Command{
		Use: "prune", Short: "Take releases off the site's shelf that nothing uses", Args: Exact(0),
		Long: "Take releases off the site's shelf that nothing uses. What a host runs, could fall back to or is being given stays, and\n" +
			"so do the newest of each name and what came within a day. A controller does this daily by itself.",
	}
	c.Flags().IntVar(&want.Keep, "keep", 3, "how many of the newest of each name stay, though unused")
	c.Flags().BoolVar(&want.Dry, "dry-run", false, "only tell what would go")
	format := OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if want.Keep < 1 {
			return fmt.Errorf("cannot prune releases: --keep %d, want 1 or more", want.Keep)
		}
		site, err := connect(c)
		if err != nil {
			return err
		}
		done, err := site.PruneReleases(c.Context(), want)
		if err != nil {
			return err
		}
		t := Table{Head: []string{"NAME", "VERSION", "SIZE", "DIGEST"}, Value: done}
		for _, r := range done.Removed {
			t.Rows = append(t.Rows, []string{r.Name, string(r.Version), megabytes(r.Size), string(r.Digest)})
		}
		return t.Print(c.OutOrStdout(), *format)
	}
	return c
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
