package depot

import (
	"strings"

	"roost/images"
)

// endpoint is one of the endpoints of OCI distribution-spec 1.1.
type endpoint int

const (
	endpointNone endpoint = iota
	endpointBase
	endpointCatalog
	endpointTags
	endpointManifest
	endpointBlob
	endpointUploads
	endpointUpload
	endpointReferrers
)

// route is a parsed request path. Every part of it is checked: a repository is a repository name, argument is a tag, a
// digest or an upload id, and none of them can hold a path separator where a file name is made of it.
type route struct {
	endpoint   endpoint
	repository string
	argument   string
}

// parseRoute reads the path of a request, as net/url decoded it.
func parseRoute(path string) (route, bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v2" || (ok && rest == ""):
		return route{endpoint: endpointBase}, true
	case !ok:
		return route{}, false
	case rest == "_catalog":
		return route{endpoint: endpointCatalog}, true
	}
	r, ok := splitRoute(rest)
	return r, ok && validRepository(r.repository)
}

// splitRoute finds the endpoint from the right, as repository names may hold any number of components.
func splitRoute(rest string) (route, bool) {
	if repository, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return route{endpointTags, repository, ""}, true
	}
	for _, suffix := range []string{"/blobs/uploads/", "/blobs/uploads"} {
		if repository, ok := strings.CutSuffix(rest, suffix); ok {
			return route{endpointUploads, repository, ""}, true
		}
	}
	head, argument, ok := cutLast(rest, "/")
	if !ok {
		return route{}, false
	}
	for _, e := range []struct {
		suffix   string
		endpoint endpoint
		valid    func(string) bool
	}{
		{"/blobs/uploads", endpointUpload, validUpload},
		{"/blobs", endpointBlob, validDigest},
		{"/manifests", endpointManifest, func(s string) bool { return validTag(s) || validDigest(s) }},
		{"/referrers", endpointReferrers, validDigest},
	} {
		if repository, ok := strings.CutSuffix(head, e.suffix); ok {
			return route{e.endpoint, repository, argument}, e.valid(argument)
		}
	}
	return route{}, false
}

func validDigest(s string) bool {
	_, err := images.ParseDigest(s)
	return err == nil
}

// validUpload accepts what newUpload makes: 32 hexadecimal digits.
func validUpload(s string) bool {
	if len(s) != 32 {
		return false
	}
	_, err := images.ParseDigest("sha256:" + s + s)
	return err == nil
}
