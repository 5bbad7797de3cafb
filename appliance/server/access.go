package server

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/appliance/trust"
)

// access says who may call a route.
type access string

const (
	anyone    access = "anyone"    // no certificate needed
	enrolling access = "enrolling" // proves possession of a key; nobody vouches for it
	node      access = "node"      // a host with a record whose key is that of the connection
	reader    access = "reader"    // operators who look
	operator  access = "operator"  // operators who run machines
	admin     access = "admin"     // operators who change who may do what
)

// rank orders operators' roles: each may do what the ones before it may.
func rank(role access) int { return slices.Index([]access{reader, operator, admin}, role) }

// call is one request as handlers see it.
type call struct {
	ctx     context.Context
	request *http.Request
	caller  trust.Caller
	by      store.Actor
	role    access // of an operator
}

func (c *call) path(name string) string { return c.request.PathValue(name) }

// identify tells who calls.
func (s *Server) identify(r *http.Request) *call {
	c := &call{ctx: r.Context(), request: r, caller: trust.Identify(r.TLS, s.config.Authority.Root(), s.config.Now())}
	c.by.Source, _, _ = net.SplitHostPort(r.RemoteAddr)
	switch c.caller.Kind {
	case "node":
		c.by.Name = "host/" + c.caller.ID
	case "operator":
		c.by.Name = "operator/" + c.caller.ID
	case "enrolling":
		c.by.Name = "enrolling/" + c.caller.Fingerprint.Hex()[:16]
	default:
		c.by.Name = "anyone"
	}
	return c
}

// permit checks the caller against a route's access.
func (s *Server) permit(c *call, need access) error {
	switch need {
	case anyone:
		return nil
	case enrolling:
		if c.caller.Fingerprint != "" {
			return nil
		}
		return api.Denied.Errorf("cannot enrol: the connection shows no client certificate of the machine's key")
	case node:
		return s.permitNode(c)
	}
	return s.permitOperator(c, need)
}

func (s *Server) permitNode(c *call) error {
	if c.caller.Kind != "node" {
		return api.Denied.Errorf("cannot do this as %s: only hosts of the site can", c.by.Name)
	}
	return s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		h := store.Hosts().Get(tx, c.caller.ID)
		switch {
		case h == nil:
			return api.Gone.Errorf("cannot serve host %s: it is no longer part of this site", c.caller.ID)
		case h.Fingerprint != c.caller.Fingerprint:
			return api.Denied.Errorf("cannot serve host %s: its key has been replaced", h.Name)
		}
		return nil
	})
}

func (s *Server) permitOperator(c *call, need access) error {
	if c.caller.Kind != "operator" {
		return api.Denied.Errorf("cannot do this as %s: it needs an operator's certificate", c.by.Name)
	}
	return s.config.Store.View(c.ctx, func(tx *store.Tx) error {
		site := store.Sites().Get(tx, "site")
		if site == nil {
			return api.Denied.Errorf("cannot do this: the site knows no operators yet")
		}
		name, role, ok := strings.Cut(site.Operators[c.caller.Fingerprint], " ")
		if !ok {
			return api.Denied.Errorf("cannot do this as %s: this key is not one of the site's operators", c.by.Name)
		}
		c.by.Name, c.role = "operator/"+name, access(role)
		if rank(access(role)) < rank(need) {
			return api.Denied.Errorf("cannot do this as %s: it needs the role %s, theirs is %s", c.by.Name, need, role)
		}
		return nil
	})
}

// registry guards the OCI registry: hosts of the site and operators read, operators write.
func (s *Server) registry() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.identify(r)
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		err := s.permit(c, operator)
		if err != nil && reads {
			if c.caller.Kind == "node" {
				err = s.permit(c, node)
			} else {
				err = s.permit(c, reader)
			}
		}
		if err != nil {
			fail(w, err)
			return
		}
		if !reads && strings.Contains(r.URL.Path, "/manifests/") {
			recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
			s.config.Registry.ServeHTTP(recorder, r)
			s.audit(c, strings.ToLower(r.Method)+" manifest", "registry"+strings.TrimPrefix(r.URL.Path, "/v2"), recorder.status)
			return
		}
		s.config.Registry.ServeHTTP(w, r)
	})
}

// statusRecorder remembers how a request ended.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (s *Server) audit(c *call, action, subject string, status int) {
	result := "ok"
	if status >= 300 {
		result = http.StatusText(status)
	}
	_, err := s.config.Store.Update(c.ctx, func(tx *store.Tx) error {
		tx.AuditResult(c.by, action, subject, result, "")
		return nil
	})
	if err != nil {
		s.config.Log.Error("cannot audit", "action", action, "subject", subject, "error", err)
	}
}
