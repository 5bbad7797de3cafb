package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/images"
)

func Update() *cobra.Command {
	var wish api.Update
	var wait bool
	start := &cobra.Command{
		Use: "start NAME:VERSION|DIGEST", Short: "Roll a release out to the site: workers first, the active controller last", Args: Exact(1),
	}
	startFormat := OutputFlag(start)
	f := start.Flags()
	f.IntVar(&wish.Parallelism, "parallelism", 1, "workers that may be out of service at once")
	f.StringSliceVar(&wish.Only, "only", nil, "hosts to update; every installed host when empty")
	f.BoolVar(&wish.Force, "force", false, "allow an older version")
	f.BoolVar(&wait, "wait", false, "wait until the update is done or paused, and fail if it did not reach every host")
	start.RunE = func(c *cobra.Command, args []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		if name, version, ok := strings.Cut(args[0], ":"); ok && name != "sha256" {
			wish.Release = api.Release{Name: name, Version: images.Version(version)}
		} else {
			wish.Release = api.Release{Digest: images.Digest(args[0])}
		}
		u, err := site.StartUpdate(c.Context(), wish)
		if err != nil {
			return err
		}
		if wait {
			if u, err = awaitUpdate(c, site, u.ID); err != nil {
				return err
			}
		}
		if err := updateTable(u).Print(c.OutOrStdout(), *startFormat); err != nil {
			return err
		}
		if wait && !everyHost(u) {
			return unfinished(u)
		}
		return nil
	}
	status := &cobra.Command{Use: "status [UPDATE]", Short: "Show an update, the newest when none is named", Args: cobra.MaximumNArgs(1)}
	statusFormat := OutputFlag(status)
	status.RunE = func(c *cobra.Command, args []string) error {
		return steerUpdate(c, args, *statusFormat, (*client.Client).Update)
	}
	resume := &cobra.Command{Use: "resume [UPDATE]", Short: "Go on with a paused update", Args: cobra.MaximumNArgs(1)}
	resume.RunE = func(c *cobra.Command, args []string) error {
		return steerUpdate(c, args, "table", (*client.Client).ResumeUpdate)
	}
	abort := &cobra.Command{Use: "abort [UPDATE]", Short: "End an update; no further host starts", Args: cobra.MaximumNArgs(1)}
	abort.RunE = func(c *cobra.Command, args []string) error {
		return steerUpdate(c, args, "table", (*client.Client).AbortUpdate)
	}
	return Noun("update", "Roll releases out over the air", start, status, resume, abort)
}

// everyHost reports whether an update has reached every host it was meant for.
func everyHost(u *api.Update) bool {
	return u.State == api.Done && !slices.ContainsFunc(u.Hosts, func(h api.HostUpdate) bool { return h.State != "done" })
}

// unfinished says why an update has not reached every host, and what to do next.
func unfinished(u *api.Update) error {
	if u.State != api.Paused {
		return fmt.Errorf("update %s is %s: %s", u.ID, u.State, u.Reason)
	}
	name := ""
	if i := slices.IndexFunc(u.Hosts, func(h api.HostUpdate) bool { return h.State == "failed" }); i >= 0 {
		name = u.Hosts[i].Name
	}
	return fmt.Errorf("update %s is paused: %s\n  roost host show %s       tells all that is known\n  roost update resume %s   tries again, or skips a host that refuses the release now\n"+
		"  roost update abort %s    gives up; hosts that are done stay updated", u.ID, u.Reason, name, u.ID, u.ID)
}

func steerUpdate(c *cobra.Command, args []string, format string, do func(*client.Client, context.Context, string) (*api.Update, error)) error {
	site, err := connect(c)
	if err != nil {
		return err
	}
	u, err := do(site, c.Context(), append(args, "latest")[0])
	if err != nil {
		return err
	}
	return updateTable(u).Print(c.OutOrStdout(), format)
}

func updateTable(u *api.Update) Table {
	t := Table{Head: []string{"UPDATE", "RELEASE", "STATE", "HOST", "HOST STATE", "PHASE", "FAILURE"}, Value: u}
	for _, h := range u.Hosts {
		failure := dash(h.Note)
		if h.Failure != nil {
			failure = h.Failure.Reason
		}
		t.Rows = append(t.Rows, []string{u.ID, u.Release.Name + " " + string(u.Release.Version), string(u.State), h.Name, h.State, dash(h.Phase), failure})
	}
	return t
}

// awaitUpdate waits until an update is done or paused, printing every step of every host.
func awaitUpdate(c *cobra.Command, site *client.Client, id string) (*api.Update, error) {
	settled := errors.New("settled")
	shown := map[string]string{}
	var u *api.Update
	look := func() error {
		var err error
		if u, err = site.Update(c.Context(), id); err != nil {
			return err
		}
		for _, h := range u.Hosts {
			step := h.State + " " + h.Phase
			if h.Note != "" {
				step = h.State + ", tried again: " + h.Note
			}
			if shown[h.Host] != step {
				shown[h.Host] = step
				fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", h.Name, step)
			}
		}
		if u.State != api.Running {
			return settled
		}
		return nil
	}
	_, revision, err := site.Updates(c.Context())
	if err != nil {
		return nil, err
	}
	if err = look(); err == nil {
		err = site.Watch(c.Context(), revision, []string{"update"}, func(api.Event) error { return look() })
	}
	if errors.Is(err, settled) {
		return u, nil
	}
	return nil, err
}

func Audit() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Show who did what on the site", Args: Exact(0)}
	format := OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		site, err := connect(c)
		if err != nil {
			return err
		}
		records, _, err := site.Audit(c.Context())
		if err != nil {
			return err
		}
		t := Table{Head: []string{"TIME", "ACTOR", "SOURCE", "ACTION", "SUBJECT", "RESULT", "DETAIL"}, Value: records}
		for _, r := range records {
			t.Rows = append(t.Rows, []string{r.Time.Format(time.RFC3339), r.Actor, dash(r.Source), r.Action, r.Subject, r.Result, dash(r.Detail)})
		}
		return t.Print(c.OutOrStdout(), *format)
	}
	return c
}
