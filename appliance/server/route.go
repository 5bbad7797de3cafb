package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"

	"roost/appliance/api"
	"roost/appliance/store"
)

const bodyLimit = 64 << 10 // bytes, unless the route says otherwise

// route is one line of the table.
type route struct {
	method, path string
	access       access
	summary      string
	in, out      reflect.Type // of the JSON bodies; nil: none
	query        []string     // names of the query parameters it reads
	limit        int64        // bytes of body; 0: bodyLimit
	handle       func(c *call, body []byte) (any, error)
	stream       func(c *call, w http.ResponseWriter) error // instead of handle
}

// nothing stands for the absence of a body.
type nothing struct{}

// accepted is the answer to a question that has no answer yet.
type accepted struct{}

// on makes a route of a typed function.
func on[In, Out any](method, path string, need access, summary string, f func(c *call, in *In) (Out, error)) route {
	r := route{method: method, path: path, access: need, summary: summary}
	if in := reflect.TypeFor[In](); in != reflect.TypeFor[nothing]() {
		r.in = in
	}
	if out := reflect.TypeFor[Out](); out != reflect.TypeFor[nothing]() {
		r.out = out
	}
	r.handle = func(c *call, body []byte) (any, error) {
		in := new(In)
		if r.in != nil {
			if err := decode(body, in); err != nil {
				return nil, err
			}
		}
		return f(c, in)
	}
	return r
}

func (r route) reads(query ...string) route {
	r.query = query
	return r
}

func (r route) atMost(bytes int64) route {
	r.limit = bytes
	return r
}

// decode reads one JSON value. Unknown fields are errors: a misspelt option must not pass as absent. What hosts send is
// read leniently by its route's type alone, for newer hosts may say more.
func decode(body []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	switch into.(type) {
	case *api.Enrolment, *api.Report:
	default:
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(into); err != nil {
		return api.Invalid.Errorf("cannot read request: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return api.Invalid.Errorf("cannot read request: there is more than one JSON value")
	}
	return nil
}

// guard wraps a route with everything that is the same for all.
func (s *Server) guard(r route) http.Handler {
	limit := r.limit
	if limit == 0 {
		limit = bodyLimit
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		c := s.identify(request)
		if err := s.permit(c, r.access); err != nil {
			s.refuse(c, r, w, err)
			return
		}
		if r.stream != nil {
			if err := r.stream(c, w); err != nil {
				fail(w, err)
			}
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, limit))
		if err != nil {
			s.refuse(c, r, w, api.Invalid.Errorf("cannot read request: its body is cut short or larger than %d bytes", limit))
			return
		}
		out, err := r.handle(c, body)
		if err != nil {
			s.refuse(c, r, w, err)
			return
		}
		write(w, out)
	})
}

func write(w http.ResponseWriter, out any) {
	w.Header().Set("Cache-Control", "no-store")
	switch out.(type) {
	case nothing:
		w.WriteHeader(http.StatusNoContent)
		return
	case accepted:
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out) // the client is gone if this fails
}

// refuse answers with the error. Refused mutations of operators go to the audit record; those of strangers only to the
// log, or strangers could fill it.
func (s *Server) refuse(c *call, r route, w http.ResponseWriter, err error) {
	var p *api.Problem
	if !errors.As(err, &p) {
		if c.ctx.Err() == nil {
			s.config.Log.Error("cannot serve request", "method", r.method, "path", c.request.URL.Path, "caller", c.by.Name, "error", err)
		}
		p = &api.Problem{}
	}
	if r.method != http.MethodGet && c.caller.Kind == "operator" {
		result := string(p.Kind)
		if result == "" {
			result = "fault"
		}
		_, auditErr := s.config.Store.Update(c.ctx, func(tx *store.Tx) error {
			tx.AuditResult(c.by, r.summary, strings.TrimPrefix(c.request.URL.Path, "/v1/"), result, p.Detail)
			return nil
		})
		if auditErr != nil {
			s.config.Log.Error("cannot audit", "error", auditErr)
		}
	}
	fail(w, err)
}
