package software

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"roost/appliance/api"
)

// States of a host in an update.
const (
	waiting = "waiting"
	running = "running"
	done    = "done"
	failed  = "failed"
	skipped = "skipped"
)

// wish is a change to what a host is asked to run: the update's release, or what it has.
type wish struct {
	host   string
	wanted bool
}

// step decides how an update goes on, given what its hosts are now. It returns a new update and the wishes to write;
// called again with the same hosts and the wishes written it returns the same update and no wish.
func step(u *api.Update, hosts map[string]*api.Host, now time.Time, limit time.Duration) (*api.Update, []wish) {
	next := *u
	next.Hosts = slices.Clone(u.Hosts)
	var wishes []wish
	var fault string
	for i := range next.Hosts {
		w, why := observe(&next.Hosts[i], hosts[next.Hosts[i].Host], &next, now, limit)
		wishes = append(wishes, w...)
		if why != "" && fault == "" {
			fault = why
		}
	}
	if next.State == api.Running && fault != "" {
		next.State, next.Reason = api.Paused, fault
	}
	if next.State != api.Running {
		return &next, wishes
	}
	started, blocked := start(&next, hosts, now)
	wishes = append(wishes, started...)
	switch {
	case finished(&next):
		next.State, next.Finished, next.Reason = api.Done, now, ""
		if !everywhere(&next) {
			next.Reason = summary(&next)
		}
	default:
		next.Reason = blocked // it goes on by itself when that host is back
	}
	return &next, wishes
}

// observe moves one running host on by its facts. A host that failed gives a reason to pause.
func observe(hu *api.HostUpdate, h *api.Host, u *api.Update, now time.Time, limit time.Duration) (wishes []wish, fault string) {
	if hu.State != running {
		return nil, ""
	}
	if h == nil {
		hu.State, hu.Finished = skipped, now
		return nil, ""
	}
	hu.Phase, hu.Progress, hu.Note = h.Software.Phase, h.Software.Progress, ""
	refused := slices.IndexFunc(h.Software.Failures, func(f api.Failure) bool {
		return f.Release == u.Release.Digest && !slices.Contains(h.Software.Cleared, f.Release)
	})
	answered := h.Software.Attempt != "" && h.Software.Attempted == h.Software.Attempt
	switch {
	case answered && refused >= 0 && !moving(h.Software.Phase):
		failure := h.Software.Failures[refused]
		hu.Failure = &failure
		fault = fmt.Sprintf("host %s does not hold %s: %s%s", h.Name, u.Release.Version, failure.Reason, stillRuns(h))
	case runs(h, u) && !h.Software.Trial && h.Availability == api.Available:
		hu.State, hu.Finished, hu.Phase, hu.Progress = done, now, "committed", 100
		return []wish{{hu.Host, false}}, ""
	case answered && (h.Software.Phase == "refused" || h.Software.Phase == "failed"):
		hu.Failure = &api.Failure{Release: u.Release.Digest, Version: u.Release.Version, Reason: h.Software.Error, Time: now}
		fault = fmt.Sprintf("host %s does not take %s: %s%s", h.Name, u.Release.Version, h.Software.Error, stillRuns(h))
	case now.Sub(hu.Started) > limit:
		why := fmt.Sprintf("no result after %s, last phase %s", limit, orNone(hu.Phase))
		if !answered && h.Software.Error != "" {
			why = fmt.Sprintf("not begun after %s: %s", limit, h.Software.Error)
		}
		hu.Failure = &api.Failure{Release: u.Release.Digest, Version: u.Release.Version, Reason: why, Time: now}
		fault = fmt.Sprintf("host %s: %s", h.Name, why)
	default:
		if !answered {
			hu.Note = h.Software.Error
		}
		return nil, ""
	}
	hu.State, hu.Finished = failed, now
	return []wish{{hu.Host, false}}, fault
}

// stillRuns tells what became of a host that did not take a release.
func stillRuns(h *api.Host) string {
	if h.Software.Running == nil {
		return ""
	}
	return "; it runs " + string(h.Software.Running.Version)
}

// start lets waiting hosts begin while there is room. Controllers wait for all others and go one by one. blocked says which
// host is waited for.
func start(u *api.Update, hosts map[string]*api.Host, now time.Time) (wishes []wish, blocked string) {
	for i := range u.Hosts {
		hu := &u.Hosts[i]
		h := hosts[hu.Host]
		if hu.State != waiting {
			continue
		}
		switch {
		case h == nil:
			hu.State, hu.Finished = skipped, now
			continue
		case runs(h, u) && !h.Software.Trial:
			hu.State, hu.Started, hu.Finished, hu.Phase, hu.Progress = done, now, now, "committed", 100
			continue
		}
		if count(u, running) >= room(u, h, hosts) || h.Personality.Controls() && others(u, hosts) {
			return wishes, blocked
		}
		if h.Availability != api.Available || h.Software.Trial {
			if blocked == "" {
				blocked = fmt.Sprintf("waits for host %s, which is %s", h.Name, orNone(string(h.Availability)))
			}
			if h.Personality.Controls() {
				return wishes, blocked
			}
			continue
		}
		hu.State, hu.Started, hu.Finished, hu.Failure, hu.Phase, hu.Progress = running, now, time.Time{}, nil, "", 0
		wishes = append(wishes, wish{hu.Host, true})
	}
	return wishes, blocked
}

// room is how many hosts may be out of service while h begins.
func room(u *api.Update, h *api.Host, hosts map[string]*api.Host) int {
	if h.Personality.Controls() {
		return 1
	}
	return max(1, u.Parallelism)
}

// others reports whether hosts that are not controllers still wait or run.
func others(u *api.Update, hosts map[string]*api.Host) bool {
	return slices.ContainsFunc(u.Hosts, func(hu api.HostUpdate) bool {
		h := hosts[hu.Host]
		return h != nil && !h.Personality.Controls() && (hu.State == waiting || hu.State == running)
	})
}

// moving reports whether the host's update engine is still on its way back, so that its evidence is not complete.
func moving(phase string) bool { return phase == "rolling-back" || phase == "returned" }

func runs(h *api.Host, u *api.Update) bool {
	return h.Software.Running != nil && h.Software.Running.Digest == u.Release.Digest
}

func count(u *api.Update, state string) (n int) {
	for _, hu := range u.Hosts {
		if hu.State == state {
			n++
		}
	}
	return n
}

func finished(u *api.Update) bool { return count(u, waiting)+count(u, running)+count(u, failed) == 0 }

func everywhere(u *api.Update) bool { return count(u, done) == len(u.Hosts) }

func summary(u *api.Update) string {
	var parts []string
	for _, state := range []string{done, failed, skipped} {
		if n := count(u, state); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(parts, ", ")
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
