package debtest

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // signatures that must be refused use it
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Key is an archive's signing key.
type Key struct{ entity *openpgp.Entity }

// NewKey makes an Ed25519 key that is valid from created on for lifetime; zero means for ever.
func NewKey(t testing.TB, name string, created time.Time, lifetime time.Duration) *Key {
	t.Helper()
	config := &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256, KeyLifetimeSecs: uint32(lifetime / time.Second),
		Time: func() time.Time { return created },
	}
	entity, err := openpgp.NewEntity(name, "", name+"@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{entity}
}

// Public returns the key as a keyring file holds it.
func (k *Key) Public(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := k.entity.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Revoke adds a revocation of the key at time at.
func (k *Key) Revoke(t testing.TB, at time.Time) {
	t.Helper()
	if err := k.entity.RevokeKey(packet.KeyCompromised, "for a test", &packet.Config{Time: func() time.Time { return at }}); err != nil {
		t.Fatal(err)
	}
}

// Sign returns text clear-signed at time at with hash by all keys. It signs by hand, since the library refuses to sign with
// the weak hashes that a verifier has to be tested with. No line of text may end in a blank or begin with a hyphen.
func Sign(t testing.TB, text []byte, at time.Time, hash crypto.Hash, keys ...*Key) []byte {
	t.Helper()
	text = bytes.TrimSuffix(text, []byte("\n")) // the last line end is not signed
	var b bytes.Buffer
	fmt.Fprintf(&b, "-----BEGIN PGP SIGNED MESSAGE-----\nHash: %s\n\n%s\n", strings.ReplaceAll(hash.String(), "-", ""), text)
	w, err := armor.Encode(&b, openpgp.SignatureType, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		key := k.entity.PrivateKey
		s := &packet.Signature{
			Version: 4, SigType: packet.SigTypeText, PubKeyAlgo: key.PubKeyAlgo, Hash: hash, CreationTime: at, IssuerKeyId: &key.KeyId,
		}
		h := hash.New()
		h.Write(bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")))
		if err := s.Sign(h, key, &packet.Config{NonDeterministicSignaturesViaNotation: packet.BoolPointer(false)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Serialize(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}
