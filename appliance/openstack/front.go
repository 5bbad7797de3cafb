package openstack

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// Route leads a port to a service of this host: to a socket, or where it can have none, to a port of the loopback interface.
type Route struct {
	Port   int    `json:"port"`
	Socket string `json:"socket,omitempty"`
	Local  int    `json:"local,omitempty"`
}

func (r Route) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	if r.Local != 0 {
		return dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Local)))
	}
	return dialer.DialContext(ctx, "unix", r.Socket)
}

// Front ends TLS and hands requests to services of this host, which listen on Unix sockets. It says by headers who called, and
// believes nobody else's.
type Front struct {
	Routes      []Route
	Certificate tls.Certificate
	Ready       func() error // called once all ports listen; nil: nobody asks
	Log         *slog.Logger
}

// OpenFront reads its routes from path, its certificate from where systemd puts credentials.
func OpenFront(path string, log *slog.Logger) (*Front, error) {
	b, err := os.ReadFile(path)
	f := &Front{Log: log}
	if err == nil {
		err = json.Unmarshal(b, &f.Routes)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read routes: %w", err)
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if f.Certificate, err = tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")); err != nil {
		return nil, fmt.Errorf("cannot read certificate: %w", err)
	}
	return f, nil
}

// Run serves until ctx ends; then it lets requests that are under way end, for ten seconds.
func (f *Front) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	settings := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{f.Certificate}, NextProtos: []string{"h2", "http/1.1"}}
	for _, r := range f.Routes {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(r.Port))
		if err != nil {
			return fmt.Errorf("cannot serve port %d: %w", r.Port, err)
		}
		server := &http.Server{
			Handler: f.lead(r), TLSConfig: settings, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
			ErrorLog: slog.NewLogLogger(f.Log.Handler(), slog.LevelDebug), // of clients that do not speak TLS
		}
		group.Go(func() error {
			if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("cannot serve port %d: %w", r.Port, err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return server.Shutdown(within)
		})
	}
	if f.Ready != nil {
		if err := f.Ready(); err != nil {
			f.Log.Warn("cannot tell systemd", "error", err)
		}
	}
	return group.Wait()
}

// lead hands requests to the service at the end of a route.
func (f *Front) lead(route Route) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "localhost"})
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return route.dial(ctx)
			},
			DisableKeepAlives:  true, // uwsgi ends a connection after its answer
			DisableCompression: true,
		},
		FlushInterval: -1, // consoles and downloads
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				f.Log.Warn("a service does not answer", "port", route.Port, "error", err)
			}
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the service does not answer", http.StatusServiceUnavailable)
		},
		ErrorLog: slog.NewLogLogger(f.Log.Handler(), slog.LevelDebug),
	}
}
