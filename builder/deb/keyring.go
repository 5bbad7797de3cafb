package deb

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// minRSABits is the smallest RSA key whose signatures count.
const minRSABits = 2048

// maxSignatures bounds the work that one release file can ask for. Debian signs with three keys at most.
const maxSignatures = 32

// Keyring holds the public keys that may sign release files.
type Keyring struct{ keys openpgp.EntityList }

// Signer is a key that made a good signature.
type Signer struct {
	Fingerprint string // of the primary key, upper-case hexadecimal
	Name        string // primary user id
}

// ReadKeyring reads one or more files of public keys, each binary (as *.gpg) or armoured (as *.asc, several blocks allowed).
func ReadKeyring(files ...io.Reader) (*Keyring, error) {
	var k Keyring
	for _, r := range files {
		text, err := io.ReadAll(io.LimitReader(r, 16<<20))
		if err != nil {
			return nil, fmt.Errorf("cannot read keyring: %w", err)
		}
		keys, err := readKeys(text)
		if err != nil {
			return nil, fmt.Errorf("cannot read keyring: %w", err)
		}
		k.keys = append(k.keys, keys...)
	}
	if len(k.keys) == 0 {
		return nil, errors.New("cannot read keyring: it holds no key")
	}
	return &k, nil
}

func readKeys(text []byte) (openpgp.EntityList, error) {
	const begin = "-----BEGIN PGP"
	if !bytes.Contains(text, []byte(begin)) {
		return openpgp.ReadKeyRing(bytes.NewReader(text))
	}
	var all openpgp.EntityList
	for _, block := range bytes.Split(text, []byte(begin))[1:] { // what stands before the first block is for people
		keys, err := openpgp.ReadArmoredKeyRing(io.MultiReader(strings.NewReader(begin), bytes.NewReader(block)))
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	return all, nil
}

// OpenInRelease verifies the clear-signed text of an InRelease file and returns its content and the keys that signed it.
// At least one signature must be good at time now: made by a key of the keyring that may sign and is neither expired nor
// revoked, with SHA-256 or better. Signatures by unknown keys are ignored, as the archive signs with the keys of several
// releases; a bad signature by a known key refuses the file. Nothing may stand before or after the signed message.
func (k *Keyring) OpenInRelease(text []byte, now time.Time) (*Release, []Signer, error) {
	plain, signers, err := k.verify(text, now)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot verify InRelease: %w", err)
	}
	release, err := ParseRelease(plain)
	if err != nil {
		return nil, nil, err
	}
	if err := release.CheckFresh(now); err != nil {
		return nil, nil, err
	}
	return release, signers, nil
}

func (k *Keyring) verify(text []byte, now time.Time) ([]byte, []Signer, error) {
	if !bytes.HasPrefix(text, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, nil, errors.New("it does not begin with a PGP signed message")
	}
	block, rest := clearsign.Decode(text)
	if block == nil {
		return nil, nil, errors.New("the PGP signed message is malformed or cut short")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, errors.New("there is text after the signature")
	}
	signatures, err := readSignatures(block.ArmoredSignature.Body)
	if err != nil {
		return nil, nil, err
	}
	var signers []Signer
	var unusable []error
	for _, s := range signatures {
		signer, err := k.check(s, block.Bytes, now)
		var forged forgedError
		switch {
		case errors.As(err, &forged):
			return nil, nil, err
		case err != nil:
			unusable = append(unusable, err)
		default:
			signers = append(signers, signer)
		}
	}
	if len(signers) == 0 {
		return nil, nil, fmt.Errorf("no signature by a trusted key is good: %w", errors.Join(unusable...))
	}
	return block.Plaintext, signers, nil
}

// forgedError is a signature by a trusted key that does not fit the text.
type forgedError struct{ cause error }

func (e forgedError) Error() string { return e.cause.Error() }

func readSignatures(r io.Reader) ([]*packet.Signature, error) {
	var all []*packet.Signature
	packets := packet.NewReader(r)
	for {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read signature: %w", err)
		}
		s, ok := p.(*packet.Signature)
		if !ok || len(all) == maxSignatures {
			return nil, fmt.Errorf("cannot read signature: packet %d is not one of at most %d signatures", len(all)+1, maxSignatures)
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no signature")
	}
	return all, nil
}

// check verifies one signature over signed. Verification itself is the OpenPGP library's; the policy is here.
func (k *Keyring) check(s *packet.Signature, signed []byte, now time.Time) (Signer, error) {
	if s.IssuerKeyId == nil {
		return Signer{}, errors.New("a signature names no key")
	}
	keys := k.keys.KeysByIdUsage(*s.IssuerKeyId, packet.KeyFlagSign)
	if len(keys) == 0 {
		return Signer{}, fmt.Errorf("key %016X is not in the keyring", *s.IssuerKeyId)
	}
	key := keys[0]
	name := describeKey(key)
	if !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512}, s.Hash) {
		return Signer{}, fmt.Errorf("the signature by %s uses the weak hash %v", name, s.Hash)
	}
	if s.SigType != packet.SigTypeText && s.SigType != packet.SigTypeBinary {
		return Signer{}, fmt.Errorf("the signature by %s is not over a document", name)
	}
	if bits, err := key.PublicKey.BitLength(); err == nil && isRSA(key.PublicKey) && bits < minRSABits {
		return Signer{}, fmt.Errorf("%s has only %d bits, want at least %d", name, bits, minRSABits)
	}
	// An expired key has to be recognised here: the library's error does not say which key or when.
	if at := expiry(key); !at.IsZero() && !now.Before(at) {
		return Signer{}, fmt.Errorf("%s expired on %s", name, at.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	if s.CreationTime.After(now.Add(24 * time.Hour)) {
		return Signer{}, fmt.Errorf("the signature by %s was made in the future, at %s; is the clock right?", name, s.CreationTime.UTC().Format(time.RFC3339))
	}
	return k.checkMath(s, signed, key, now)
}

func (k *Keyring) checkMath(s *packet.Signature, signed []byte, key openpgp.Key, now time.Time) (Signer, error) {
	var raw bytes.Buffer
	if err := s.Serialize(&raw); err != nil {
		return Signer{}, fmt.Errorf("cannot verify signature by %s: %w", describeKey(key), err)
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	sig, entity, err := openpgp.VerifyDetachedSignature(k.keys, bytes.NewReader(signed), &raw, config)
	if err == nil {
		return signerOf(entity), nil
	}
	err = fmt.Errorf("signature by %s: %w", describeKey(key), err)
	if sig == nil {
		return Signer{}, forgedError{err} // the mathematics failed, not a date or a revocation
	}
	return Signer{}, err
}

func isRSA(key *packet.PublicKey) bool {
	return key.PubKeyAlgo == packet.PubKeyAlgoRSA || key.PubKeyAlgo == packet.PubKeyAlgoRSASignOnly
}

// expiry returns when key stops being usable, zero for never: the earlier of the primary key's end and its own.
func expiry(key openpgp.Key) time.Time {
	self, _ := key.Entity.PrimarySelfSignature()
	end := lifetimeEnd(key.Entity.PrimaryKey, self)
	if key.PublicKey != key.Entity.PrimaryKey {
		if own := lifetimeEnd(key.PublicKey, key.SelfSignature); end.IsZero() || (!own.IsZero() && own.Before(end)) {
			end = own
		}
	}
	return end
}

func lifetimeEnd(key *packet.PublicKey, self *packet.Signature) time.Time {
	if self == nil || self.KeyLifetimeSecs == nil || *self.KeyLifetimeSecs == 0 {
		return time.Time{}
	}
	return key.CreationTime.Add(time.Duration(*self.KeyLifetimeSecs) * time.Second)
}

// Signers lists the keys of the keyring.
func (k *Keyring) Signers() []Signer {
	all := make([]Signer, len(k.keys))
	for i, e := range k.keys {
		all[i] = signerOf(e)
	}
	return all
}

func signerOf(e *openpgp.Entity) Signer {
	s := Signer{Fingerprint: fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)}
	if id := e.PrimaryIdentity(); id != nil {
		s.Name = id.Name
	}
	return s
}

func describeKey(key openpgp.Key) string {
	s := signerOf(key.Entity)
	return fmt.Sprintf("key %s (%s)", s.Fingerprint, s.Name)
}
