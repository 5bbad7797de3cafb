package software

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
)

// shelf is a shelf in memory.
type shelf struct {
	releases []api.Release
	arrived  map[images.Digest]time.Time
	swept    time.Duration
}

func (s *shelf) Release(context.Context, images.Digest) (*api.Release, *images.Needs, error) {
	return nil, nil, nil
}
func (s *shelf) Releases(context.Context) ([]api.Release, error) { return s.releases, nil }
func (s *shelf) Arrived(_ context.Context, d images.Digest) (time.Time, error) {
	return s.arrived[d], nil
}
func (s *shelf) Remove(_ context.Context, d images.Digest) error {
	s.releases = slices.DeleteFunc(s.releases, func(r api.Release) bool { return r.Digest == d })
	return nil
}
func (s *shelf) Sweep(_ context.Context, age time.Duration) (int64, error) {
	s.swept = age
	return 7, nil
}

func (s *shelf) names() string {
	var names []string
	for _, r := range s.releases {
		names = append(names, string(r.Digest))
	}
	return strings.Join(names, " ")
}

// TestPrune has a shelf of ten releases, of which hosts, the site and an update name some.
func TestPrune(t *testing.T) {
	now := time.Date(2026, 1, 9, 12, 0, 0, 0, time.UTC)
	records, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Name: "x", Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	s := &shelf{arrived: map[images.Digest]time.Time{"v3": now.Add(-time.Hour)}}
	for _, v := range []images.Version{"v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9"} {
		s.releases = append(s.releases, api.Release{Name: "edge", Version: v[1:], Digest: images.Digest(v)})
	}
	s.releases = append(s.releases, api.Release{Name: "other", Version: "1", Digest: "o1"})
	_, err = records.Update(t.Context(), func(tx *store.Tx) error {
		store.Sites().Put(tx, &api.Site{Current: "v2"})
		store.Hosts().Put(tx, &api.Host{ID: "h1", Software: api.Software{Running: &api.Release{Digest: "v1"}, Fallback: &api.Release{Digest: "v4"}, Wanted: &api.Release{Digest: "v5"}}})
		store.Updates().Put(tx, &api.Update{ID: "1", State: api.Paused, Release: api.Release{Digest: "v6"}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{Store: records, Shelf: s, Now: func() time.Time { return now }})
	by := store.Actor{Name: "operator/ada"}
	all := s.names()
	told, err := m.Prune(t.Context(), by, &api.Prune{Keep: 2, Dry: true})
	if err != nil || len(told.Removed) != 1 || told.Removed[0].Digest != "v7" || s.names() != all || s.swept != 0 {
		t.Fatalf("dry: %+v, %v, left %s", told, err, s.names())
	}
	done, err := m.Prune(t.Context(), by, &api.Prune{Keep: 2})
	if err != nil || done.Freed != 7 || s.swept != pruneAge {
		t.Fatalf("%+v, %v, swept %s", done, err, s.swept)
	}
	if got, want := s.names(), "v1 v2 v3 v4 v5 v6 v8 v9 o1"; got != want {
		t.Errorf("left %s, want %s", got, want)
	}
	now = now.Add(48 * time.Hour) // v3 is no longer new
	if _, err := m.Prune(t.Context(), by, &api.Prune{Keep: 2}); err != nil || strings.Contains(s.names(), "v3") {
		t.Errorf("left %s, %v", s.names(), err)
	}
	audited := 0
	err = records.View(t.Context(), func(tx *store.Tx) error {
		for _, r := range store.Records().List(tx) {
			if r.Action == "prune releases" && r.Actor == "operator/ada" {
				audited++
			}
		}
		return nil
	})
	if err != nil || audited != 2 {
		t.Errorf("%d audit entries, %v", audited, err)
	}
	if _, err := m.Prune(t.Context(), by, &api.Prune{Keep: -1}); !api.Invalid.In(err) {
		t.Errorf("a senseless number: %v", err)
	}
}

func TestOnlyTheOwnShelfIsPruned(t *testing.T) {
	foreign := struct{ Shelf }{&shelf{}}
	if _, err := New(Config{Shelf: foreign}).Prune(t.Context(), store.Actor{}, &api.Prune{}); !api.Conflict.In(err) {
		t.Errorf("got %v", err)
	}
}
