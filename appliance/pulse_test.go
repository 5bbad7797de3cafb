package appliance

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roost/appliance/api"
	"roost/appliance/client"
	"roost/appliance/software"
	"roost/appliance/trust"
	"roost/images"
	"roost/updater"
	"roost/updater/slot"
)

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := newPulse(time.Now, slog.New(slog.NewTextHandler(&log, nil)))
		hosts, updates := p.loop("hosts"), p.part("updates")
		check := func(what string, want bool) {
			t.Helper()
			if got := p.alive(); got != want {
				t.Errorf("%s: alive is %v", what, got)
			}
		}
		check("nothing has begun", true)
		hosts()
		updates(time.Hour)
		time.Sleep(roundLimit)
		check("just in time", true)
		time.Sleep(time.Second)
		check("one part is late", false)
		check("still late", false)
		if got := strings.Count(log.String(), "parts=[hosts]"); got != 1 {
			t.Errorf("told %d times which part is stuck:\n%s", got, log.String())
		}
		hosts()
		check("it came round", true)
		for range 9 {
			time.Sleep(roundLimit)
			hosts()
		}
		check("a long task was announced", true)
		updates(0)
		time.Sleep(time.Minute)
		check("a part that waits is not late", true)
		var none *pulse
		none.loop("x")()
	})
}

// TestStuckNodeStopsFeeding has a host whose facts never come, as when a disk hangs: the pulse must miss it.
func TestStuckNodeStopsFeeding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := newPulse(time.Now, slog.New(slog.DiscardHandler))
		files := &remembered{configFile: `{"schema":1}`}
		stuck, release := false, make(chan struct{})
		node := &Node{State: files, Alive: p.loop("node"), Log: slog.New(slog.DiscardHandler),
			Identity: &trust.Identity{Assignment: &api.Assignment{Controllers: []string{"https://127.0.0.1:1"}}},
			Dial:     func(c *client.Config) { c.Root, c.Pin = nil, images.DigestOf(nil) },

			Agent: &software.Agent{Engine: idleEngine{}, Files: files, Records: func() ([]slot.Installed, error) { return nil, nil }},
			Facts: func(context.Context) api.Report {
				if stuck {
					<-release
				}
				return api.Report{}
			},
			Hardware: func() (*api.Inventory, error) { return nil, context.DeadlineExceeded },
		}
		done := make(chan error)
		go func() { done <- node.Run(ctx) }()
		time.Sleep(10 * roundLimit)
		if !p.alive() {
			t.Error("a host that works is taken for stuck")
		}
		stuck = true
		time.Sleep(roundLimit + time.Minute)
		if p.alive() {
			t.Error("a stuck host is taken for alive")
		}
		close(release)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// remembered is a directory in memory.
type remembered map[string]string

func (r remembered) Read(name string) ([]byte, error) {
	if text, ok := r[name]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

func (r remembered) Write(name string, b []byte) error {
	r[name] = string(b)
	return nil
}

// idleEngine is an update engine with nothing to do.
type idleEngine struct{ software.Engine }

func (idleEngine) Status() updater.State { return updater.State{Phase: updater.Idle} }
