package appliance

import (
	"context"
	"crypto/ecdsa"
	"log/slog"
	"net"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/appliance/trust"
	"roost/images"
)

// ControllerConfig says what an installed controller runs with.
type ControllerConfig struct {
	Dir       string
	Identity  *trust.Identity
	Authority *trust.Authority
	Addresses []net.IP
	Keys      []*ecdsa.PublicKey // that this controller's own image trusts to sign releases
	Limits    trust.Limits
	Beat      time.Duration
	Now       func() time.Time
	Log       *slog.Logger

	pulse *pulse
}

// OpenController opens the control plane of an installed controller. At its first start the site's record, its operators
// and the controller's own record come from the assignment that the seed signed.
func OpenController(ctx context.Context, config ControllerConfig) (*Control, error) {
	a := config.Identity.Assignment
	fingerprint, err := trust.RootFingerprint(a.Root)
	if err != nil {
		return nil, err
	}
	site := api.Site{Name: a.Site, ID: fingerprint.Hex(), Root: a.Root, Controllers: a.Controllers, Current: a.Release, Operators: map[images.Digest]string{}}
	for _, line := range a.Operators {
		key, operator, _ := strings.Cut(line, " ")
		site.Operators[images.Digest(key)] = operator
	}
	self := &api.Host{
		Schema: 1, ID: a.Host, Name: a.Name, Phase: api.Installed, Personality: a.Personality, Fingerprint: a.Fingerprint, MACs: []string{}, Disk: a.Disk,
		Administrative: api.Locked, Operational: api.Disabled, Availability: api.Online, Reason: "joins",
	}
	return OpenControl(ctx, ControlConfig{
		Dir: config.Dir, Authority: config.Authority, Site: site, Self: self, Config: &a.Config, Registry: a.Controllers[0],
		Addresses: config.Addresses, Keys: config.Keys, Trust: trust.Config{Limits: config.Limits, Configure: workerConfig(a)},
		Beat: config.Beat, Now: config.Now, Log: config.Log, own: true, pulse: config.pulse,
	})
}

// workerConfig is the first configuration of the hosts this controller admits: what the site has in common.
func workerConfig(a *api.Assignment) func(*api.Host, *api.Inventory) *api.Config {
	return func(*api.Host, *api.Inventory) *api.Config {
		return &api.Config{DNS: a.Config.DNS, NTP: a.Config.NTP, Hosts: a.Config.Hosts, AuthorizedKeys: a.Config.AuthorizedKeys,
			Components: a.Config.Components, Resources: a.Config.Resources}
	}
}
