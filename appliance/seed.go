package appliance

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"time"

	"roost/appliance/api"
	"roost/appliance/trust"
	"roost/images"
)

// SeedConfig says which site to seed.
type SeedConfig struct {
	Site    *trust.SiteFile
	RootKey crypto.Signer // the site's root; used here, sent nowhere
	Dir     string        // remembers which machine was admitted, across restarts
	Depot   string        // OCI layout directory with the release
	Release images.Digest // that the first controller gets
	Address string        // HOST:PORT at which machines reach this server
	Limits  trust.Limits
	Now     func() time.Time
	Log     *slog.Logger
}

// OpenSeed opens the control plane that makes a site's first controller: it takes any machine's report and admits the one
// that the site file selects. Operators can look at it as at a controller.
func OpenSeed(ctx context.Context, config SeedConfig) (*Control, error) {
	root, err := trust.OpenAuthority([]byte(config.Site.Root), config.RootKey)
	if err != nil {
		return nil, err
	}
	address, _, err := net.SplitHostPort(config.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot seed site %s: address %q is not HOST:PORT", config.Site.Name, config.Address)
	}
	site := siteRecord(config.Site)
	site.Current = config.Release
	return OpenControl(ctx, ControlConfig{
		Dir: config.Dir, Depot: config.Depot, Authority: root, Site: site, Registry: "https://" + config.Address,
		Addresses: []net.IP{net.ParseIP(address)}, Now: config.Now, Log: config.Log,
		Trust: trust.Config{Limits: config.Limits, Auto: admits(&config.Site.First), Configure: func(h *api.Host, _ *api.Inventory) *api.Config {
			first := config.Site.Config
			return &first
		}},
	})
}

func siteRecord(file *trust.SiteFile) api.Site {
	site := api.Site{Schema: 1, Name: file.Name, Root: file.Root, Controllers: []string{file.Controller}, Operators: map[images.Digest]string{}}
	if fingerprint, err := trust.RootFingerprint(file.Root); err == nil {
		site.ID = fingerprint.Hex()
	}
	for _, o := range file.Operators {
		site.Operators[o.Key] = o.Name + " " + o.Role
	}
	return site
}

// admits approves the machine that the selector names. Its name is taken once, so a second machine that matches waits.
func admits(s *trust.Selector) trust.Auto {
	return func(h *api.Host, _ *api.Inventory) *api.Approval {
		if !s.Matches(h) {
			return nil
		}
		a := &api.Approval{Personality: "controller", Name: "controller-0", Fingerprint: h.Fingerprint, Disk: s.Disk, Wipe: s.Wipe}
		if s.Personality != "" {
			a.Personality = api.Personality(s.Personality)
		}
		if s.Name != "" {
			a.Name = s.Name
		}
		return a
	}
}

// SiteFacts is what a boot server tells machines at /v1/site: where to enrol, and the root they may trust.
func SiteFacts(name, controller, root string) ([]byte, error) {
	fingerprint, err := trust.RootFingerprint(root)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"name": name, "controller": controller, "caFingerprint": string(fingerprint)})
}
