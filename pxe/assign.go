package pxe

import (
	"context"
	"fmt"
	"io"
	"time"

	"roost/images"
	"roost/pxe/dhcp"
)

// Client is what is known of a machine that asks. From DHCP all it said is known; from TFTP and HTTP what its last DHCP
// request said, or, after a restart, its MAC and address alone.
type Client = dhcp.Client

// Verdict is the answer to "what may this machine boot". The zero Verdict refuses.
type Verdict struct {
	Release images.Digest // the manifest digest of the release to boot
	Refuse  string        // why it may not; shown to the operator, and to the machine where a protocol can
}

// Assigner decides who boots what. It is asked for every request, so it must answer from memory, and may be asked by many
// goroutines at one time. A refused machine gets silence from DHCP, so that its firmware goes on to its disk.
type Assigner interface {
	Assign(ctx context.Context, c Client) Verdict
}

// AssignerFunc makes a function an Assigner.
type AssignerFunc func(ctx context.Context, c Client) Verdict

// Assign calls f.
func (f AssignerFunc) Assign(ctx context.Context, c Client) Verdict { return f(ctx, c) }

// Everyone gives one release to every machine that asks, as for discovery.
func Everyone(release images.Digest) Assigner {
	return AssignerFunc(func(context.Context, Client) Verdict { return Verdict{Release: release} })
}

// Shelf is where releases lie ready to be sent.
type Shelf interface {
	// Offer describes the release with this manifest digest. It is asked for every request: it must answer from memory.
	Offer(ctx context.Context, release images.Digest) (*Offer, error)
}

// Offer is a release as the boot server sends it.
type Offer struct {
	Release      images.Digest // of the manifest
	Name         string        // of the recipe
	Version      images.Version
	Architecture string // Debian's name
	RootHash     string
	Created      time.Time
	UKI          File
	Root         File // compressed with zstd, as in the depot
	Verity       File // the same
}

// File is content to send. Opened as *os.File it goes out by sendfile.
type File struct {
	Digest images.Digest // of these bytes, for the ETag
	Size   int64
	Open   func() (io.ReadSeekCloser, error)
}

// Names of TFTP. The UKI's has part of the digest, so that a proxy in between or a stale offer cannot mix releases.
const ipxeName = "undionly.kpxe"

func (o *Offer) tftpName() string { return "roost-" + o.Release.Hex()[:12] + ".efi" }

// decide joins the verdict on c with the release it names. An error is the reason of a refusal.
func (s *Server) decide(ctx context.Context, c Client) (*Offer, error) {
	verdict := s.config.Assigner.Assign(ctx, c)
	if verdict.Refuse != "" {
		return nil, refusal(verdict.Refuse)
	}
	if verdict.Release == "" {
		return nil, refusal("no release is assigned to this machine")
	}
	offer, err := s.config.Shelf.Offer(ctx, verdict.Release)
	if err != nil {
		return nil, fmt.Errorf("cannot offer release %s: %w", verdict.Release, err)
	}
	if c.HasArch && c.Architecture() != offer.Architecture {
		return nil, refusal(fmt.Sprintf("release %s %s is for %s, the machine's firmware is %s", offer.Name, offer.Version, offer.Architecture, c.Arch))
	}
	return offer, nil
}

// refusal is a decision against a machine, as opposed to a failure of ours.
type refusal string

func (r refusal) Error() string { return string(r) }

// boot is the decision in the words of DHCP.
func (a *attendance) boot(c Client) dhcp.Boot {
	offer, err := a.decide(a.ctx, a.roster.complete(c))
	if err != nil {
		return dhcp.Boot{Refused: err.Error()}
	}
	switch c.Method {
	case dhcp.BIOS:
		if a.config.IPXE == nil {
			return dhcp.Boot{Refused: "this server has no iPXE for BIOS machines"}
		}
		return dhcp.Boot{File: ipxeName}
	case dhcp.UEFI:
		return dhcp.Boot{File: offer.tftpName()}
	case dhcp.HTTP, dhcp.IPXEUEFI:
		return dhcp.Boot{File: a.base() + routeUKI(offer)}
	case dhcp.IPXE:
		return dhcp.Boot{File: a.base() + routeScript(offer)}
	}
	return dhcp.Boot{File: a.base()}
}
