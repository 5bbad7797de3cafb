package appliance

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"roost/appliance/api"
	"roost/appliance/store"
	"roost/images"
	"roost/pxe"
)

// roster tells the boot server from memory who may boot what. It follows the store.
type roster struct {
	store *store.Store
	log   *slog.Logger

	mu      sync.Mutex // guards the fields below
	known   bool
	current images.Digest
	barred  map[string]string // MAC address: why its machine gets nothing
}

// Assign decides for a machine that boots from the network: the site's current release while it is unknown or on its way to
// be installed. A host in service gets nothing, so that a lost disk never leads to a silent new installation.
func (r *roster) Assign(_ context.Context, c pxe.Client) pxe.Verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch why, barred := r.barred[strings.ToLower(c.MAC.String())]; {
	case !r.known:
		return pxe.Verdict{Refuse: "the site's records are not read yet"}
	case barred:
		return pxe.Verdict{Refuse: why}
	case r.current == "":
		return pxe.Verdict{Refuse: "the site has no release for new machines yet"}
	}
	return pxe.Verdict{Release: r.current}
}

// run follows the store until ctx ends.
func (r *roster) run(ctx context.Context) error {
	r.store.Follow(ctx, []string{"host", "site"}, 100*time.Millisecond, time.Minute, func(ctx context.Context) {
		if err := r.read(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot follow hosts for the boot server", "error", err)
		}
	})
	return nil
}

func (r *roster) read(ctx context.Context) error {
	return r.store.View(ctx, func(tx *store.Tx) error {
		site := store.Sites().Get(tx, "site")
		barred := bar(store.Hosts().Scan(tx))
		r.mu.Lock()
		defer r.mu.Unlock()
		r.known, r.barred, r.current = true, barred, ""
		if site != nil {
			r.current = site.Current
		}
		return nil
	})
}

// bar lists the machines that must not boot from the network.
func bar(hosts []*api.Host) map[string]string {
	out := map[string]string{}
	for _, h := range hosts {
		if h.Phase != api.InService && h.Phase != api.Installed {
			continue
		}
		for _, mac := range h.MACs {
			out[mac] = "host " + h.Name + " is " + string(h.Phase) + "; forget it to install it anew"
		}
	}
	return out
}

// Offer describes a release of the shelf as the boot server sends it: straight from the layout's files.
func (s *shelf) Offer(ctx context.Context, digest images.Digest) (*pxe.Offer, error) {
	r, err := s.get(ctx, digest)
	if err != nil {
		return nil, err
	}
	d := r.Document
	out := &pxe.Offer{Release: digest, Name: d.Name, Version: d.Version, Architecture: d.Architecture, RootHash: d.RootHash, Created: d.Created}
	for kind, file := range map[images.Kind]*pxe.File{images.KindUKI: &out.UKI, images.KindRoot: &out.Root, images.KindVerity: &out.Verity} {
		part, ok := r.Manifest.Parts[kind]
		if !ok {
			return nil, fmt.Errorf("cannot offer release %s: it has no %s", digest, kind)
		}
		path := filepath.Join(s.dir, "blobs", "sha256", part.Digest.Hex())
		*file = pxe.File{Digest: part.Digest, Size: part.Size, Open: func() (io.ReadSeekCloser, error) { return os.Open(path) }}
	}
	return out, nil
}
