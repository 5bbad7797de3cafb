package host

import (
	"testing"
	"time"

	"roost/appliance/api"
	"roost/images"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func joined() *api.Host {
	return &api.Host{ID: "h", Phase: api.InService, Administrative: api.Unlocked, Operational: api.Enabled, Availability: api.Available,
		BootID: "b1", Origin: "disk", LastSeen: noon}
}

func TestJoin(t *testing.T) {
	h := &api.Host{ID: "h", Phase: api.Approved, Administrative: api.Locked, Operational: api.Disabled, Availability: api.Online, LastSeen: noon}
	for _, step := range []struct {
		report       api.Report
		phase        api.Phase
		admin        api.State
		operational  api.State
		availability api.State
	}{
		{api.Report{Phase: api.Installing, Reason: "writes slot a"}, api.Installing, api.Locked, api.Disabled, api.Online},
		{api.Report{Phase: api.Installed}, api.Installed, api.Locked, api.Disabled, api.Online},
		{api.Report{Phase: api.Installing}, api.Installed, api.Locked, api.Disabled, api.Online}, // a late report does not lead back
		{api.Report{Phase: api.InService, Reason: "gate x"}, api.InService, api.Unlocked, api.Disabled, api.Failed},
		{api.Report{Phase: api.InService, Healthy: true}, api.InService, api.Unlocked, api.Enabled, api.Available},
		{api.Report{Phase: api.Installing}, api.InService, api.Unlocked, api.Disabled, api.Failed},
	} {
		if next := absorb(h, &step.report, noon); next != nil {
			h = next
		}
		if h.Phase != step.phase || h.Administrative != step.admin || h.Operational != step.operational || h.Availability != step.availability {
			t.Fatalf("after %+v: %s %s %s %s", step.report, h.Phase, h.Administrative, h.Operational, h.Availability)
		}
	}
	locked := joined()
	locked.Administrative = api.Locked
	if next := absorb(locked, &api.Report{Phase: api.InService, Healthy: true, BootID: "b2"}, noon); next.Administrative != api.Locked {
		t.Error("a report unlocked a host that an operator locked")
	}
}

func TestAbsorbWritesOnlyNews(t *testing.T) {
	h := joined()
	r := &api.Report{Phase: api.InService, Healthy: true, BootID: "b1", Origin: "disk"}
	if absorb(h, r, noon.Add(5*time.Second)) != nil {
		t.Error("an unchanged report within the half minute is written")
	}
	if absorb(h, r, noon.Add(31*time.Second)) == nil {
		t.Error("the record's last-seen is left to age")
	}
	r.Software.Progress = 40
	if absorb(h, r, noon.Add(5*time.Second)) == nil {
		t.Error("news are not written")
	}
}

func TestWishesOutliveReports(t *testing.T) {
	bad := images.Digest("sha256:bad")
	h := joined()
	h.Software = api.Software{Wanted: &api.Release{Digest: "sha256:new"}, Force: true, Attempt: "7", Rollback: "9", Cleared: []images.Digest{bad}}
	r := &api.Report{Phase: api.InService, Healthy: true, Software: api.Software{
		Wanted: &api.Release{Digest: "sha256:evil"}, Attempt: "8", Attempted: "6", Rollback: "8", Failures: []api.Failure{{Release: bad}}}}
	next := absorb(h, r, noon)
	s := next.Software
	if s.Wanted.Digest != "sha256:new" || !s.Force || s.Attempt != "7" || s.Rollback != "9" || len(s.Cleared) != 1 || s.Attempted != "6" {
		t.Errorf("wishes after a report: %+v", s)
	}
	o := orders(next, nil, r, 5*time.Second)
	if o.Wanted.Digest != "sha256:new" || o.Attempt != "7" || o.Rollback != "9" || len(o.Cleared) != 1 || o.Beat != 5000 {
		t.Errorf("orders: %+v", o)
	}
	r.Software.Rollback, r.Software.Failures = "9", nil
	if s = absorb(next, r, noon).Software; s.Rollback != "" || s.Cleared != nil {
		t.Errorf("fulfilled wishes stand: %+v", s)
	}
}

func TestReview(t *testing.T) {
	const silence = 20 * time.Second
	for _, test := range []struct {
		name    string
		change  func(*api.Host)
		last    time.Duration // since noon
		now     time.Duration
		offline bool
	}{
		{"just heard", func(*api.Host) {}, 10 * time.Second, 25 * time.Second, false},
		{"silent", func(*api.Host) {}, 10 * time.Second, 31 * time.Second, true},
		{"restarted controller gives grace", func(*api.Host) {}, 100 * time.Second, 110 * time.Second, false},
		{"stored as seen lately", func(h *api.Host) { h.LastSeen = noon.Add(15 * time.Second) }, 0, 31 * time.Second, false},
		{"offline already", func(h *api.Host) { h.Availability = api.Offline }, 0, time.Hour, false},
		{"waits for approval: not ours", func(h *api.Host) { h.Phase = api.Discovered }, 0, time.Hour, false},
		{"installing", func(h *api.Host) { h.Phase = api.Installing }, 0, time.Hour, true},
	} {
		h := joined()
		test.change(h)
		next := review(h, noon.Add(test.last), noon.Add(test.now), silence)
		if (next != nil) != test.offline {
			t.Errorf("%s: offline %v, want %v", test.name, next != nil, test.offline)
		}
		if next != nil && (next.Availability != api.Offline || next.Operational != api.Disabled || next.Reason == "") {
			t.Errorf("%s: %s %s %q", test.name, next.Operational, next.Availability, next.Reason)
		}
	}
}

func TestOrdersBringConfig(t *testing.T) {
	config := &api.Config{Revision: 5, Hostname: "w1"}
	if o := orders(joined(), config, &api.Report{Config: 4}, time.Second); o.Config != config {
		t.Error("a newer configuration is not sent")
	}
	if o := orders(joined(), config, &api.Report{Config: 5}, time.Second); o.Config != nil {
		t.Error("a known configuration is sent again")
	}
}
