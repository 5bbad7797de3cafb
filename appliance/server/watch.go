package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
)

const keepAlive = 15 * time.Second // between signs of life on an idle watch

// watched are the kinds of object that a watch may show; the others are the site's own affair.
func watched() []string { return []string{"host", "update", "site", "audit", "inventory"} }

// watch streams changes as server-sent events. The event id is the revision; Last-Event-ID (or ?after=) resumes after it,
// and without either the stream begins now. When the history is gone it sends "resync" and goes on from now.
func (s *Server) watch(c *call, w http.ResponseWriter) error {
	kinds := watched()
	if text := c.request.URL.Query().Get("kinds"); text != "" {
		asked := strings.Split(text, ",")
		for _, kind := range asked {
			if !slices.Contains(kinds, kind) {
				return api.Invalid.Errorf("cannot watch %q: kinds are %s", kind, strings.Join(kinds, ", "))
			}
		}
		kinds = asked
	}
	after, err := s.resumption(c)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	if out.comment("watching") != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	batches, ended := make(chan []api.Event), make(chan error, 1)
	go func() { ended <- s.feed(ctx, after, kinds, batches) }()
	defer func() {
		cancel()
		<-ended
	}()
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			ended <- err
			return nil
		case <-tick.C:
			err = out.comment("alive")
		case events := <-batches:
			err = out.send(events)
		}
		if err != nil {
			return nil // the client is gone or too slow; it resumes where it was
		}
	}
}

// resumption returns the revision after which the client wants events.
func (s *Server) resumption(c *call) (after int64, err error) {
	text := c.request.Header.Get("Last-Event-ID")
	if text == "" {
		text = c.request.URL.Query().Get("after")
	}
	if text != "" && text != "0" {
		after, err = strconv.ParseInt(text, 10, 64)
		if err != nil || after < 0 {
			return 0, api.Invalid.Errorf("cannot watch after %q: not a revision", text)
		}
		return after, nil
	}
	err = s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		after = tx.Revision()
		return nil
	})
	return after, err
}

// feed hands over the wanted events, one transaction at a time, waiting for each to be taken.
func (s *Server) feed(ctx context.Context, after int64, kinds []string, batches chan<- []api.Event) error {
	give := func(events []api.Event) error {
		events = slices.DeleteFunc(events, func(e api.Event) bool {
			return e.Kind != "resync" && !slices.Contains(kinds, e.Kind)
		})
		if len(events) == 0 {
			return nil
		}
		select {
		case batches <- events:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		err := s.config.Store.Watch(ctx, after, give)
		if !api.Gone.In(err) {
			if ctx.Err() == nil {
				s.config.Log.Warn("cannot feed watch", "error", err)
			}
			return err
		}
		viewErr := s.config.Store.View(ctx, func(tx *store.Tx) error {
			after = tx.Revision()
			return nil
		})
		if viewErr != nil {
			return viewErr
		}
		if err := give([]api.Event{{Revision: after, Kind: "resync"}}); err != nil {
			return err
		}
	}
}

// eventWriter writes server-sent events (WHATWG HTML, section 9.2) and gives up on a client that does not read.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (e *eventWriter) comment(text string) error {
	e.control.SetWriteDeadline(time.Now().Add(leastPatience)) // where unsupported, TCP's own timeout is the limit
	if _, err := fmt.Fprintf(e.w, ": %s\n\n", text); err != nil {
		return err
	}
	return e.control.Flush()
}

func (e *eventWriter) send(events []api.Event) error {
	e.control.SetWriteDeadline(time.Now().Add(leastPatience))
	for _, event := range events {
		data, err := json.Marshal(event)
		if err != nil {
			return errors.Join(errors.New("cannot encode event"), err)
		}
		if _, err := fmt.Fprintf(e.w, "id: %d\nevent: %s\ndata: %s\n\n", event.Revision, event.Kind, data); err != nil {
			return err
		}
	}
	return e.control.Flush()
}
