package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/images"
)

// onHost makes a verb that does one thing to one host and prints the host.
func onHost(use, shortHelp string, do func(c *cobra.Command, api *client.Client, host string) (*api.Host, error)) *cobra.Command {
	v := &cobra.Command{Use: use, Short: shortHelp, Args: Exact(1)}
	format := OutputFlag(v)
	v.RunE = func(c *cobra.Command, args []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		h, err := do(c, site, args[0])
		if err != nil {
			return err
		}
		if h == nil {
			return nil
		}
		t := hostTable([]api.Host{*h})
		t.Value = h
		return t.Print(c.OutOrStdout(), *format)
	}
	return v
}

func hostTable(hosts []api.Host) Table {
	t := Table{Head: []string{"NAME", "PERSONALITY", "PHASE", "ADMINISTRATIVE", "OPERATIONAL", "AVAILABILITY", "RELEASE", "SLOT", "UPDATE", "SEEN", "FINGERPRINT", "REASON"}, Value: hosts}
	for _, h := range hosts {
		release, update := "-", "-"
		if r := h.Software.Running; r != nil {
			release = r.Name + " " + string(r.Version)
		}
		if h.Software.Phase != "" && h.Software.Phase != "idle" {
			update = fmt.Sprintf("%s %d%%", h.Software.Phase, h.Software.Progress)
		}
		if h.Software.Trial {
			release += " (trial)"
		}
		t.Rows = append(t.Rows, []string{h.Name, dash(string(h.Personality)), string(h.Phase), string(h.Administrative), string(h.Operational),
			string(h.Availability), release, dash(h.Software.Slot), update, ago(h.LastSeen), short(h.Fingerprint.Hex()), dash(h.Reason)})
	}
	return t
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func Host() *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the machines of the site and what each is doing", Args: Exact(0)}
	format := OutputFlag(list)
	watch := list.Flags().BoolP("watch", "w", false, "list again after every change, until interrupted")
	list.RunE = func(c *cobra.Command, _ []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		show := func() (int64, error) {
			hosts, revision, err := site.Hosts(c.Context())
			if err != nil {
				return 0, err
			}
			return revision, hostTable(hosts).Print(c.OutOrStdout(), *format)
		}
		revision, err := show()
		if err != nil || !*watch {
			return err
		}
		return site.Watch(c.Context(), revision, []string{"host"}, func(api.Event) error { _, err := show(); return err })
	}
	var approval api.Approval
	var wait time.Duration
	var shares resourceFlags
	approve := onHost("approve HOST", "Admit a discovered machine, or let a host be installed anew", func(c *cobra.Command, site *client.Client, host string) (*api.Host, error) {
		if c.Flags().Changed(platformFlag) || c.Flags().Changed(pagesFlag) {
			resources, err := shares.parse()
			if err != nil {
				return nil, err
			}
			approval.Resources = resources
		}
		h, err := site.Approve(c.Context(), host, approval)
		if err != nil || wait == 0 {
			return h, err
		}
		return awaitHost(c, site, h.ID, wait)
	})
	approve.Long = "Admit a discovered machine, or let a host be installed anew.\n\n" +
		"With --platform-cpus or --huge-pages the host has these resources instead of the site's; of the two, what is not given is none.\n" +
		"An empty --platform-cpus alone gives it none of the site's."
	f := approve.Flags()
	f.StringVar((*string)(&approval.Personality), "personality", "", "controller, worker, storage, all-in-one or witness (required)")
	f.StringVar(&approval.Name, "as", "", "name of the host; keep its present name when empty")
	f.StringVar((*string)(&approval.Fingerprint), "fingerprint", "", "admit only if its key has this fingerprint, as its console shows it")
	f.StringVar((*string)(&approval.Release), "release", "", "manifest digest to install; the site's current release when empty")
	f.StringVar(&approval.Disk, "disk", "", "disk to install to; the smallest sufficient one when empty")
	f.BoolVar(&approval.Wipe, "wipe", false, "install even if the disk holds something; it is lost")
	shares.define(approve)
	f.DurationVar(&wait, "wait", 0, "wait this long until the host is available")
	if err := approve.MarkFlagRequired("personality"); err != nil {
		panic(err) // the flag is defined above
	}
	var release string
	clear := onHost("clear HOST", "Let a host take a release again that failed on it", func(c *cobra.Command, site *client.Client, host string) (*api.Host, error) {
		return site.Clear(c.Context(), host, images.Digest(release))
	})
	clear.Flags().StringVar(&release, "release", "", "manifest digest; every failed release when empty")
	rollback := onHost("rollback HOST", "Return a host to the release in its other slot", func(c *cobra.Command, site *client.Client, host string) (*api.Host, error) {
		return site.Rollback(c.Context(), host)
	})
	forget := onHost("forget HOST", "Remove a host from the site; its certificate is worth nothing afterwards", func(c *cobra.Command, site *client.Client, host string) (*api.Host, error) {
		return nil, site.Forget(c.Context(), host)
	})
	return Noun("host", "Admit, watch and steer the machines of a site", list, hostShowCommand(), hostConfigCommand(), approve, rollback, clear, forget)
}

// awaitHost waits until a host is available, printing every step of its way.
func awaitHost(c *cobra.Command, site *client.Client, id string, limit time.Duration) (*api.Host, error) {
	ctx, cancel := context.WithTimeout(c.Context(), limit)
	defer cancel()
	arrived := errors.New("arrived")
	var last string
	var h *api.Host
	look := func() error {
		var err error
		if h, err = site.Host(ctx, id); err != nil {
			return err
		}
		if step := fmt.Sprintf("%s: %s, %s %s", h.Name, h.Phase, h.Availability, h.Reason); step != last {
			last = step
			fmt.Fprintln(c.ErrOrStderr(), strings.TrimSpace(step))
		}
		if h.Phase == api.InService && h.Availability == api.Available {
			return arrived
		}
		return nil
	}
	_, revision, err := site.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	if err = look(); err == nil {
		err = site.Watch(ctx, revision, []string{"host"}, func(api.Event) error { return look() })
	}
	switch {
	case errors.Is(err, arrived):
		return h, nil
	case ctx.Err() != nil && c.Context().Err() == nil:
		return nil, fmt.Errorf("cannot wait longer: after %s the host is still %s", limit, last)
	}
	return nil, err
}

func hostShowCommand() *cobra.Command {
	show := &cobra.Command{Use: "show HOST", Short: "Show one host in full: hardware, software, and the evidence of what failed", Args: Exact(1)}
	format := OutputFlag(show)
	show.RunE = func(c *cobra.Command, args []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		h, err := site.Host(c.Context(), args[0])
		if err != nil {
			return err
		}
		inventory, err := site.Inventory(c.Context(), args[0])
		if err != nil {
			return err
		}
		value := struct {
			*api.Host
			Inventory *api.Inventory `json:"inventory"`
		}{h, inventory}
		if *format == "table" { // a host in full is no table; YAML is what people read best
			*format = "yaml"
		}
		return Table{Value: value}.Print(c.OutOrStdout(), *format)
	}
	return show
}
