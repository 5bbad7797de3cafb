package release

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"roost/images"
)

// Verdicts of Verify. Each error it returns wraps exactly one of them, except for what cannot be parsed at all.
var (
	ErrUnsigned     = errors.New("release is not signed")
	ErrWrongKey     = errors.New("release is signed by a key that is not trusted")
	ErrTampered     = errors.New("release was changed after it was signed")
	ErrIdentity     = errors.New("release is not the one asked for")
	ErrArchitecture = errors.New("release is for another architecture")
	ErrOlder        = errors.New("release is not newer than the current one")
	ErrFloor        = errors.New("release is below the rollback floor")
	ErrRefused      = errors.New("release is refused")
)

// Policy says which release a machine takes. The zero value trusts nothing.
type Policy struct {
	Keys         []*ecdsa.PublicKey // any one of them must have signed
	Name         string             // the release's name; "" accepts any name, which only a listing should
	Architecture string             // "" accepts any
	Floor        images.Version     // versions below are refused, forced or not; "" is no floor
	Current      Current            // what the machine runs; the zero value is nothing
	Refused      []images.Digest    // manifests that failed here and were not cleared; forced or not
	Force        bool               // take an older or rebuilt release
}

// Current is the release that a machine runs.
type Current struct {
	Version images.Version
	Digest  images.Digest
}

// Bundle is what a depot holds of a release besides its parts.
type Bundle struct {
	Manifest   []byte
	Document   []byte // the config blob
	Signatures []Signature
}

// Verified is a release that a policy accepted. Its parts are trusted as far as they match their digests.
type Verified struct {
	Manifest *Manifest
	Release  *images.Release
	Key      *ecdsa.PublicKey // the trusted key that signed
	Already  bool             // this manifest is what the machine runs; there is nothing to do
}

// Verify judges a release by p.
func Verify(b Bundle, p Policy) (*Verified, error) {
	key, reference, err := verifySignatures(images.DigestOf(b.Manifest), b.Signatures, p)
	if err != nil {
		return nil, fmt.Errorf("cannot verify release: %w", err)
	}
	// From here on the manifest's bytes are what the owner of a trusted key signed.
	m, err := ParseManifest(b.Manifest)
	if err != nil {
		return nil, fmt.Errorf("cannot verify release: %w", err)
	}
	if got := images.DigestOf(b.Document); got != m.Config.Digest {
		return nil, fmt.Errorf("cannot verify release: %w: its document is %s, the manifest names %s", ErrTampered, got, m.Config.Digest)
	}
	r, err := images.DecodeRelease(b.Document)
	if err != nil {
		return nil, fmt.Errorf("cannot verify release: %w", err)
	}
	if err := m.matches(r); err != nil {
		return nil, fmt.Errorf("cannot verify release %s %s: %w", r.Name, r.Version, err)
	}
	if reference != Reference(r.Name) {
		return nil, fmt.Errorf("cannot verify release: %w: signed as %s, its document says %s", ErrIdentity, reference, Reference(r.Name))
	}
	v := &Verified{Manifest: m, Release: r, Key: key, Already: p.Current.Digest == m.Digest}
	if err := p.admit(v); err != nil {
		return nil, fmt.Errorf("cannot accept release %s %s: %w", r.Name, r.Version, err)
	}
	return v, nil
}

// verifySignatures returns the trusted key that signed manifest and the reference it signed for, or the verdict of the
// signature that came closest.
func verifySignatures(manifest images.Digest, signatures []Signature, p Policy) (*ecdsa.PublicKey, string, error) {
	closest := fmt.Errorf("%w: no signature of %s", ErrUnsigned, manifest)
	rank := 0
	for _, s := range signatures {
		key, reference, r, err := verifySignature(manifest, s, p)
		if err == nil {
			return key, reference, nil
		}
		if r > rank {
			closest, rank = err, r
		}
	}
	return nil, "", closest
}

// verifySignature judges one signature; rank tells how far it got.
func verifySignature(manifest images.Digest, s Signature, p Policy) (key *ecdsa.PublicKey, reference string, rank int, err error) {
	var claim payload
	parseErr := images.DecodeJSON(s.Payload, &claim)
	sum := sha256.Sum256(s.Payload)
	i := slices.IndexFunc(p.Keys, func(k *ecdsa.PublicKey) bool { return ecdsa.VerifyASN1(k, sum[:], s.Bytes) })
	switch {
	case i < 0 && slices.ContainsFunc(p.Keys, func(k *ecdsa.PublicKey) bool { return KeyID(k) == claim.Optional.Key }):
		return nil, "", 2, fmt.Errorf("%w: the signature of trusted key %s does not match its payload", ErrTampered, claim.Optional.Key)
	case i < 0 && claim.Optional.Key != "":
		return nil, "", 1, fmt.Errorf("%w: %s", ErrWrongKey, shorten(claim.Optional.Key))
	case i < 0:
		return nil, "", 1, ErrWrongKey
	case parseErr != nil:
		return nil, "", 3, fmt.Errorf("cannot parse signed payload: %w", parseErr)
	}
	critical := claim.Critical
	reference = critical.Identity.DockerReference
	switch {
	case critical.Type != payloadType:
		return nil, "", 3, fmt.Errorf("%w: a trusted key signed a payload of type %q", ErrIdentity, shorten(critical.Type))
	case critical.Image.DockerManifestDigest != manifest:
		return nil, "", 4, fmt.Errorf("%w: signed is manifest %s, this is %s", ErrTampered, shorten(string(critical.Image.DockerManifestDigest)), manifest)
	case p.Name != "" && reference != Reference(p.Name):
		return nil, "", 5, fmt.Errorf("%w: signed as %s, want %s", ErrIdentity, shorten(reference), Reference(p.Name))
	}
	return p.Keys[i], reference, 0, nil
}

// admit applies what a policy says about a release whose origin is proven.
func (p Policy) admit(v *Verified) error {
	r, digest := v.Release, v.Manifest.Digest
	if p.Architecture != "" && r.Architecture != p.Architecture {
		return fmt.Errorf("%w: %s, this machine is %s", ErrArchitecture, r.Architecture, p.Architecture)
	}
	if slices.Contains(p.Refused, digest) {
		return fmt.Errorf("%w: %s failed here before; clear it to try again", ErrRefused, digest)
	}
	if v.Already {
		return nil
	}
	if p.Floor != "" && r.Version.Compare(p.Floor) < 0 {
		return fmt.Errorf("%w: floor %s", ErrFloor, p.Floor)
	}
	if p.Current.Version == "" || p.Force {
		return nil
	}
	switch order := r.Version.Compare(p.Current.Version); {
	case order < 0:
		return fmt.Errorf("%w: current is %s", ErrOlder, p.Current.Version)
	case order == 0:
		return fmt.Errorf("%w: current is another build of version %s", ErrOlder, p.Current.Version)
	}
	return nil
}

// shorten keeps foreign text out of logs beyond a line.
func shorten(s string) string {
	const limit = 160
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return fmt.Sprintf("%q", s)
}
