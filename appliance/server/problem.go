package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"roost/appliance/api"
)

// status is the one place where kinds of error become HTTP statuses and titles.
func status(kind api.Kind) (code int, title string) {
	switch kind {
	case api.Invalid:
		return http.StatusBadRequest, "The request cannot be right"
	case api.NotFound:
		return http.StatusNotFound, "There is no such thing"
	case api.Conflict:
		return http.StatusConflict, "The request does not fit the present state"
	case api.Denied:
		return http.StatusForbidden, "The caller may not do this"
	case api.Busy:
		return http.StatusTooManyRequests, "Too much at once"
	case api.Gone:
		return http.StatusGone, "It is no longer there"
	}
	return http.StatusInternalServerError, "The server failed"
}

// fail answers with an RFC 9457 problem.
func fail(w http.ResponseWriter, err error) {
	out := api.Problem{Detail: "cannot serve request: internal error"}
	var p *api.Problem
	if errors.As(err, &p) {
		out = *p
	}
	out.Status, out.Title = status(out.Kind)
	out.Type = "about:blank"
	if out.Kind != "" {
		out.Type = "urn:roost:problem:" + string(out.Kind)
	}
	if out.Kind == api.Busy {
		w.Header().Set("Retry-After", strconv.Itoa(5))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(out.Status)
	json.NewEncoder(w).Encode(out) // the client is gone if this fails
}
