package software

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"roost/appliance/api"
	"roost/images"
)

// TestStep runs rollouts as text: hosts are declared, facts change, and each step prints the update and its wishes.
func TestStep(t *testing.T) {
	datadriven.Walk(t, "testdata/step", func(t *testing.T, path string) {
		site := &script{now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), hosts: map[string]*api.Host{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return site.run(t, d)
		})
	})
}

type script struct {
	now    time.Time
	hosts  map[string]*api.Host
	update *api.Update
	serial int
}

const wantedDigest = images.Digest("sha256:wanted")

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "host": // host NAME personality=worker
		name := d.CmdArgs[0].Key
		h := &api.Host{ID: name, Name: name, Phase: api.InService, Personality: "worker", Availability: api.Available}
		h.Software.Running = &api.Release{Digest: "sha256:old", Version: "1"}
		if d.HasArg("personality") {
			d.ScanArgs(t, "personality", (*string)(&h.Personality))
		}
		s.hosts[name] = h
		return ""
	case "update": // update parallelism=2
		s.update = &api.Update{ID: "u", State: api.Running, Parallelism: 1, Release: api.Release{Digest: wantedDigest, Version: "2"}, Started: s.now}
		if d.HasArg("parallelism") {
			d.ScanArgs(t, "parallelism", &s.update.Parallelism)
		}
		var names []string
		for name := range s.hosts {
			names = append(names, name)
		}
		slices.SortFunc(names, func(a, b string) int {
			if x, y := s.hosts[a].Personality.Controls(), s.hosts[b].Personality.Controls(); x != y {
				if y {
					return -1
				}
				return 1
			}
			return strings.Compare(a, b)
		})
		for _, name := range names {
			s.update.Hosts = append(s.update.Hosts, api.HostUpdate{Host: name, Name: name, State: waiting})
		}
		return s.step()
	case "fact": // fact NAME running=2 phase=… fails=reason availability=offline trial cleared gone
		s.fact(t, d)
		return s.step()
	case "wait": // wait 30m
		pause, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		s.now = s.now.Add(pause)
		return s.step()
	case "resume":
		for i := range s.update.Hosts {
			if hu := &s.update.Hosts[i]; hu.State == failed {
				hu.State = waiting
				if slices.Contains(refusals(s.hosts[hu.Host]), wantedDigest) {
					hu.State = skipped
				}
			}
		}
		s.update.State = api.Running
		return s.step()
	}
	t.Fatalf("unknown command %q", d.Cmd)
	return ""
}

func (s *script) fact(t *testing.T, d *datadriven.TestData) {
	name := d.CmdArgs[0].Key
	h := s.hosts[name]
	for _, arg := range d.CmdArgs[1:] {
		value := strings.Join(arg.Vals, " ")
		switch arg.Key {
		case "running":
			h.Software.Running = &api.Release{Digest: "sha256:old", Version: "1"}
			if value == "2" {
				h.Software.Running = &api.Release{Digest: wantedDigest, Version: "2"}
			}
		case "phase":
			h.Software.Phase = value
		case "answers":
			h.Software.Attempted = h.Software.Attempt
		case "fails":
			h.Software.Failures = []api.Failure{{Release: wantedDigest, Version: "2", Reason: value}}
		case "error":
			h.Software.Error = value
		case "cleared":
			h.Software.Cleared = []images.Digest{wantedDigest}
		case "availability":
			h.Availability = api.State(value)
		case "trial":
			h.Software.Trial = value != "no"
		case "gone":
			delete(s.hosts, name)
		default:
			t.Fatalf("unknown fact %q", arg.Key)
		}
	}
}

// step steps until nothing changes, writing wishes as the manager does, and checks that it comes to rest.
func (s *script) step() string {
	var out strings.Builder
	for round := 0; ; round++ {
		next, wishes := step(s.update, s.hosts, s.now, time.Hour)
		for _, w := range wishes {
			verb := "withdraw"
			if w.wanted {
				verb = "want"
			}
			fmt.Fprintf(&out, "%s %s\n", verb, w.host)
			if h := s.hosts[w.host]; h != nil {
				withdraw(h)
				if w.wanted {
					s.serial++
					h.Software.Wanted, h.Software.Attempt = &next.Release, fmt.Sprint(s.serial)
				}
			}
		}
		s.update = next
		if len(wishes) == 0 {
			break
		}
		if round > 10 {
			return "does not come to rest"
		}
	}
	fmt.Fprintf(&out, "%s", s.update.State)
	if s.update.Reason != "" {
		fmt.Fprintf(&out, ": %s", s.update.Reason)
	}
	for _, hu := range s.update.Hosts {
		fmt.Fprintf(&out, "\n  %s %s", hu.Name, hu.State)
		if hu.Failure != nil {
			fmt.Fprintf(&out, " (%s)", hu.Failure.Reason)
		}
	}
	return out.String() + "\n"
}
