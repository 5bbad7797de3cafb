package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"roost/appliance/api"
	"roost/appliance/store"
)

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: dir, Name: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *store.Store, hosts ...api.Host) int64 {
	t.Helper()
	revision, err := s.Update(t.Context(), func(tx *store.Tx) error {
		for i := range hosts {
			store.Hosts().Put(tx, &hosts[i])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestRestartKeepsAll(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, api.Host{ID: "a", Name: "one"}, api.Host{ID: "b", Name: "two"})
	put(t, s, api.Host{ID: "a", Name: "uno"})
	s.Close()
	s = open(t, dir)
	defer s.Close()
	err := s.View(t.Context(), func(tx *store.Tx) error {
		var names []string
		for _, h := range store.Hosts().List(tx) {
			names = append(names, h.Name)
		}
		if want := []string{"uno", "two"}; !reflect.DeepEqual(names, want) {
			t.Errorf("after restart: %v, want %v", names, want)
		}
		if h := store.Hosts().Get(tx, "a"); h.Revision < 2 {
			t.Errorf("host has revision %d", h.Revision)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNoSocket holds the promise that nothing but this process reaches the engine.
func TestNoSocket(t *testing.T) {
	before := listeners(t)
	s := open(t, t.TempDir())
	defer s.Close()
	if after := listeners(t); after != before {
		t.Errorf("the store listens: %d listening sockets, before %d", after, before)
	}
}

func listeners(t *testing.T) (n int) {
	t.Helper()
	own := map[string]bool{}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:[") {
			own[strings.Trim(target, "socket:[]")] = true
		}
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6", "/proc/self/net/unix"} {
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n") {
			for _, field := range strings.Fields(line) {
				if own[field] {
					n++
				}
			}
		}
	}
	return n
}

func TestUpdatesAreSerial(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 25 {
				_, err := s.Update(t.Context(), func(tx *store.Tx) error {
					h := store.Hosts().Get(tx, "counter")
					if h == nil {
						h = &api.Host{ID: "counter"}
					}
					h.Processors++
					store.Hosts().Put(tx, h)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	s.View(t.Context(), func(tx *store.Tx) error {
		if n := store.Hosts().Get(tx, "counter").Processors; n != 200 {
			t.Errorf("counted %d of 200", n)
		}
		return nil
	})
}

func TestTxSeesOwnWrites(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	put(t, s, api.Host{ID: "a"}, api.Host{ID: "b"}, api.Host{ID: "c"})
	stop := errors.New("stop")
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		store.Hosts().Delete(tx, "b")
		store.Hosts().Put(tx, &api.Host{ID: "aa"})
		ids := ""
		for _, h := range store.Hosts().List(tx) {
			ids += h.ID + " "
		}
		if ids != "a aa c " {
			t.Errorf("transaction sees %q", ids)
		}
		if store.Hosts().Get(tx, "b") != nil || store.Hosts().Get(tx, "aa") == nil {
			t.Error("get does not see own writes")
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Fatalf("got %v", err)
	}
	s.View(t.Context(), func(tx *store.Tx) error {
		if n := len(store.Hosts().List(tx)); n != 3 {
			t.Errorf("a failed transaction left %d hosts", n)
		}
		return nil
	})
}

func TestPage(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range 10 {
		put(t, s, api.Host{ID: fmt.Sprintf("h%02d", i)})
	}
	for _, limit := range []int{1, 3, 5, 9, 10, 11} {
		s.View(t.Context(), func(tx *store.Tx) error {
			var got []string
			after := ""
			for {
				items, next := store.Hosts().Page(tx, after, limit)
				for _, h := range items {
					got = append(got, h.ID)
				}
				if next == "" {
					break
				}
				after = next
			}
			if len(got) != 10 || got[0] != "h00" || got[9] != "h09" {
				t.Errorf("pages of %d give %v", limit, got)
			}
			return nil
		})
	}
}

func TestWatchResumes(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	first := put(t, s, api.Host{ID: "a", Name: "1"})
	put(t, s, api.Host{ID: "a", Name: "2"}, api.Host{ID: "b", Name: "3"})
	s.Update(t.Context(), func(tx *store.Tx) error { store.Hosts().Delete(tx, "a"); return nil })

	var seen []string
	enough := errors.New("enough")
	err := s.Watch(t.Context(), first, func(events []api.Event) error {
		for _, e := range events {
			seen = append(seen, fmt.Sprintf("%s/%s %v", e.Kind, e.ID, e.Object != nil))
		}
		if len(seen) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if want := []string{"host/a true", "host/b true", "host/a false"}; !reflect.DeepEqual(seen, want) {
		t.Errorf("watch from %d gave %v, want %v", first, seen, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Watch(ctx, 0, func([]api.Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended watch says %v", err)
	}
}

func BenchmarkUpdate(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Dir: b.TempDir(), Name: "c1"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		if _, err := s.Update(b.Context(), func(tx *store.Tx) error {
			h := store.Hosts().Get(tx, "a")
			if h == nil {
				h = &api.Host{ID: "a"}
			}
			h.Processors++
			store.Hosts().Put(tx, h)
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}
