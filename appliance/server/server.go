// Package server is the REST API of the control plane: HTTPS with TLS 1.3, one table of routes that says of each who may
// call it, what it takes and what it gives.
//
// Everything else follows from that table: the mux, the access check, the limits and the OpenAPI 3.1 document at
// /v1/openapi.json. A handler decodes nothing and knows no HTTP status; it calls one manager or reads the store.
//
// Who calls is decided by certificates and records together. TLS asks for a certificate and checks none; package trust
// says what the certificate proves; the store says whether that host or operator is still welcome. So removing a record
// locks out at once, with no revocation list.
//
// Promises: every mutation, also a refused one, is in the audit record; a body larger than its route allows is refused
// before it is read; a watch resumes after any revision that is still in history; shutdown lets running requests end.
//
// Rejected: a web framework (the table is shorter than its configuration); generated handlers from a hand-written OpenAPI
// file (two sources of truth); user passwords in this cut.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"roost/appliance/api"
	"roost/appliance/host"
	"roost/appliance/service"
	"roost/appliance/software"
	"roost/appliance/store"
	"roost/appliance/trust"
)

const (
	maxConnections = 4096
	leastPatience  = 10 * time.Second // for the slowest of clients to take one piece of an answer
)

// Config of a server. All but Registry, Now and Log are needed.
type Config struct {
	Store     *store.Store
	Authority *trust.Authority
	Trust     *trust.Manager
	Host      *host.Manager
	Software  *software.Manager
	Service   *service.Manager
	Shelf     software.Shelf
	Registry  http.Handler // OCI distribution API at /v2/; nil: none
	Addresses []net.IP     // in the server's certificate beside its fixed name
	Now       func() time.Time
	Log       *slog.Logger
}

// Server serves the API.
type Server struct {
	config Config
	routes []route

	mu          sync.Mutex       // guards certificate
	certificate *tls.Certificate // renewed at two thirds of its life
}

// New makes a server.
func New(config Config) *Server {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: config}
	s.routes = s.table()
	return s
}

// Serve answers on listener until ctx ends, then lets running requests end for a few seconds.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	streams, stop := context.WithCancel(context.WithoutCancel(ctx)) // ends long requests at shutdown
	defer stop()
	server := &http.Server{
		Handler: s.Handler(),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.own() },
		},
		ReadHeaderTimeout: leastPatience, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog:    slog.NewLogLogger(quiet{s.config.Log.Handler()}, slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return streams },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(netutil.LimitListener(listener, maxConnections), "", "") }()
	select {
	case err := <-ended:
		return fmt.Errorf("cannot serve API: %w", err)
	case <-ctx.Done():
	}
	stop()
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := server.Shutdown(patience)
	if err != nil {
		server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve API: %w", err)
	}
	return nil
}

// own returns the server's certificate, making a new one when two thirds of its life are over.
func (s *Server) own() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certificate == nil || trust.Renewable(s.certificate.Leaf, s.config.Now()) {
		certificate, err := s.config.Authority.Server(s.config.Addresses, s.config.Now())
		if err != nil {
			return nil, err
		}
		s.certificate = certificate
	}
	return s.certificate, nil
}

// Handler returns the API as a handler. It needs the connection state of TLS to know callers.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes {
		mux.Handle(r.method+" "+r.path, s.guard(r))
	}
	if s.config.Registry != nil {
		mux.Handle("/v2/", s.registry())
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, api.NotFound.Errorf("cannot %s %s: no such route; /v1/openapi.json lists them", r.Method, r.URL.Path))
	})
	return mux
}

// quiet drops what strangers can make net/http log, such as failed handshakes, to debug level.
type quiet struct{ slog.Handler }

// WithGroup and WithAttrs of the embedded handler suffice: ErrorLog adds neither.
