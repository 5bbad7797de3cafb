package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Source fetches from a mirror into a cache. Cache and Mirror are needed; the zero value of the rest is good.
type Source struct {
	Mirror    Mirror
	Cache     *Cache
	Offline   bool                            // use only what the cache has
	Workers   int                             // transfers at a time; 0 means 8
	Stall     time.Duration                   // a transfer that brings no byte for so long is broken off and tried again; 0 means 30 s
	Tries     int                             // attempts in a row without a byte of progress before giving up; 0 means 5
	Pause     func(attempt int) time.Duration // wait before an attempt (1, 2, …) that follows one without progress; nil means 0.5 s doubling to 16 s
	Transport http.RoundTripper               // nil means HTTP with the environment's proxies, and file URLs
	Now       func() time.Time                // nil means time.Now
	Progress  func(Progress)                  // called about ten times a second, never twice at once; nil for none
	Log       *slog.Logger                    // retries and fallbacks; nil for none
}

// maxAttempts bounds a transfer from a mirror that sends a few bytes each time.
const maxAttempts = 200

// session is one call's view of a Source with the defaults filled in.
type session struct {
	Source
	client *http.Client
	meter  *meter
}

func (s *Source) start() *session {
	run := &session{Source: *s}
	if run.Workers <= 0 {
		run.Workers = 8
	}
	if run.Stall <= 0 {
		run.Stall = 30 * time.Second
	}
	if run.Tries <= 0 {
		run.Tries = 5
	}
	if run.Pause == nil {
		run.Pause = backOff
	}
	if run.Now == nil {
		run.Now = time.Now
	}
	if run.Log == nil {
		run.Log = slog.New(slog.DiscardHandler)
	}
	if run.Transport == nil {
		run.Transport = newTransport(run.Workers)
	}
	run.client = &http.Client{Transport: run.Transport, CheckRedirect: checkRedirect}
	run.meter = &meter{report: s.Progress}
	return run
}

func (s *session) close() { s.client.CloseIdleConnections() }

// checkRedirect keeps a mirror from sending requests to this machine's files or from https to http.
func checkRedirect(next *http.Request, via []*http.Request) error {
	from, to := via[len(via)-1].URL, next.URL
	if len(via) >= 10 || to.Scheme != "https" && (to.Scheme != "http" || from.Scheme != "http") {
		return &refusal{fmt.Errorf("it redirects to %s, which is not followed", to.Redacted())}
	}
	return nil
}

// newTransport asks for bytes as they are: a transparently unpacked body would have another length and digest.
func newTransport(workers int) *http.Transport {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		DisableCompression:  true,
		MaxIdleConnsPerHost: workers,
		ForceAttemptHTTP2:   true,
	}
	t.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	return t
}

func backOff(attempt int) time.Duration {
	pause := 500 * time.Millisecond << min(attempt-1, 5)
	return pause/2 + rand.N(pause)/2 // spread, so that eight workers do not come back as one
}

// refusal is an answer that asking the same URL again will not change.
type refusal struct{ cause error }

func (e *refusal) Error() string { return e.cause.Error() }
func (e *refusal) Unwrap() error { return e.cause }

// localError is a failure on this machine: no mirror can help.
type localError struct{ cause error }

func (e *localError) Error() string { return e.cause.Error() }
func (e *localError) Unwrap() error { return e.cause }

// statusError is an HTTP answer that is no success.
type statusError struct {
	code  int
	after time.Duration // what Retry-After asked for
}

func (e *statusError) Error() string { return fmt.Sprintf("%d %s", e.code, http.StatusText(e.code)) }

// isGone reports whether err is the mirror's word that it has no such file.
func isGone(err error) bool {
	var status *statusError
	return errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusGone)
}

// retry calls attempt with each URL in turn until one succeeds. attempt says whether it brought the transfer further.
// A refusal takes its URL out; attempts without progress are bounded by tries for each URL, and spaced.
func (s *session) retry(ctx context.Context, urls []*url.URL, tries int, attempt func(u *url.URL) (progress bool, err error)) error {
	urls = slices.Clone(urls)
	var last []error
	idle := 0
	for n := 0; len(urls) > 0; n++ {
		i := n % len(urls)
		u := urls[i]
		progress, err := attempt(u)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var local *localError
		if errors.As(err, &local) {
			return err
		}
		err = fmt.Errorf("%s: %w", u.Redacted(), err)
		var refused *refusal
		if errors.As(err, &refused) {
			urls = slices.Delete(urls, i, i+1)
			last = append(last, err)
			continue
		}
		if idle++; progress {
			idle = 0
		}
		if idle >= tries*len(urls) || n >= maxAttempts {
			return errors.Join(append(last, fmt.Errorf("%w (after %d attempts)", err, n+1))...)
		}
		s.Log.Warn("transfer interrupted, trying again", "url", u.Redacted(), "cause", err, "attempt", n+1)
		if err := s.wait(ctx, idle, err); err != nil {
			return err
		}
	}
	return errors.Join(last...)
}

// wait pauses before the next attempt, longer when the mirror asked for it.
func (s *session) wait(ctx context.Context, idle int, cause error) error {
	var pause time.Duration
	if idle > 0 {
		pause = s.Pause(idle)
	}
	var status *statusError
	if errors.As(cause, &status) && status.after > pause {
		pause = min(status.after, time.Minute)
	}
	if pause <= 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// get requests u from offset on and hands the answer to consume. It breaks off when no byte comes for the stall time.
func (s *session) get(ctx context.Context, u *url.URL, offset int64, consume func(*http.Response, io.Reader) error) error {
	stalled := fmt.Errorf("no byte came for %v", s.Stall)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(s.Stall, func() { cancel(stalled) })
	defer timer.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return &refusal{err}
	}
	request.Header.Set("User-Agent", "roost")
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := s.client.Do(request)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer response.Body.Close()
	if code := response.StatusCode; code != http.StatusOK && !(code == http.StatusPartialContent && offset > 0) {
		return statusOf(response)
	}
	return causeOf(ctx, consume(response, watched{response.Body, timer, s.Stall}))
}

// causeOf puts the reason of a broken-off request in place of "context canceled".
func causeOf(ctx context.Context, err error) error {
	var wrapped *url.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &wrapped): // it repeats the URL, which the caller names
		return wrapped.Err
	}
	return err
}

func statusOf(response *http.Response) error {
	e := &statusError{code: response.StatusCode}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.after = time.Duration(min(seconds, 3600)) * time.Second
	}
	switch {
	case e.code >= 500, e.code == http.StatusTooManyRequests, e.code == http.StatusRequestTimeout,
		e.code == http.StatusRequestedRangeNotSatisfiable:
		return e
	}
	return &refusal{e}
}

// watched puts the stall timer off with every byte that comes.
type watched struct {
	body  io.Reader
	timer *time.Timer
	stall time.Duration
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	return n, err
}
