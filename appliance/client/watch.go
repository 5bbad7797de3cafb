package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"roost/appliance/api"
)

// Watch calls each for every change after the given revision, in order, until each returns an error or ctx ends; it
// returns that error. A broken connection is made again and resumed. When the server no longer has the changes asked
// for, each gets an event of kind "resync" and must list again. Kinds limits the events; none means all.
func (c *Client) Watch(ctx context.Context, after int64, kinds []string, each func(api.Event) error) error {
	pause := time.Second
	for {
		before := after
		err := c.stream(ctx, &after, kinds, each)
		var stop *stopped
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &stop):
			return stop.cause
		case api.Denied.In(err), api.Invalid.In(err), api.NotFound.In(err):
			return err
		case after != before:
			pause = time.Second
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, 15*time.Second)
	}
}

// stopped carries the callback's error out of the reconnection loop.
type stopped struct{ cause error }

func (s *stopped) Error() string { return s.cause.Error() }

// stream reads one connection's worth of events and keeps after up to date.
func (c *Client) stream(ctx context.Context, after *int64, kinds []string, each func(api.Event) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/watch?kinds="+strings.Join(kinds, ","), nil)
	if err != nil {
		return fmt.Errorf("cannot make request: %w", err)
	}
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Last-Event-ID", strconv.FormatInt(*after, 10))
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("cannot reach controller: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return problem(response)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 64<<10), 4<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue // comments keep the connection alive; id and event repeat what data holds
		}
		var event api.Event
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			return fmt.Errorf("cannot read event: %w", err)
		}
		if err := each(event); err != nil {
			return &stopped{err}
		}
		*after = event.Revision
	}
	return lines.Err()
}
