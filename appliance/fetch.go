package appliance

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"roost/appliance/software"
	"roost/images"
	"roost/images/depot"
	"roost/images/release"
	"roost/updater"
)

// Fetcher finds releases in the registry of the site and verifies them against the keys in this machine's own image.
// References are NAME@DIGEST.
type Fetcher struct {
	Registry  string            // base URL
	Transport http.RoundTripper // with the host's certificate
	Keys      []*ecdsa.PublicKey
	Patience  depot.Options // with a registry that stalls or breaks off, the other fields are not used; zero: as package depot has it
}

// Open finds the release and verifies its signature. Whether it is new enough, fits, or failed before is for the update
// machine to say.
func (f *Fetcher) Open(ctx context.Context, reference string) (*updater.Source, error) {
	base, err := url.Parse(f.Registry)
	if err != nil {
		return nil, fmt.Errorf("cannot use registry %q: %w", f.Registry, err)
	}
	name, digest, ok := strings.Cut(reference, "@")
	if _, err := images.ParseDigest(digest); err != nil || !ok {
		return nil, fmt.Errorf("cannot fetch %q: want NAME@sha256:…", reference)
	}
	options := depot.Options{Transport: f.Transport, Stall: f.Patience.Stall, Retries: f.Patience.Retries, Pause: f.Patience.Pause}
	shelf, err := depot.Open(ctx, "docker://"+base.Host+"/"+name, options)
	if err != nil {
		return nil, err
	}
	found, err := shelf.Get(ctx, digest)
	if err != nil {
		return nil, errors.Join(err, shelf.Close())
	}
	verified, err := release.Verify(found.Bundle, release.Policy{Keys: f.Keys, Name: name, Force: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", software.ErrUntrusted, err), shelf.Close())
	}
	return &updater.Source{
		Manifest: verified.Manifest.Digest, Release: *verified.Release,
		Open: func(ctx context.Context, kind images.Kind) (io.ReadCloser, error) {
			content, _, err := found.Content(ctx, kind)
			return content, err
		},
		Close: shelf.Close,
	}, nil
}
