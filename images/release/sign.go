package release

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"roost/images"
)

// LogicalHost is the host part of the name that a signature states. It is no machine: the name of a release must not change
// with the registry it is copied to.
const LogicalHost = "roost.local"

// Reference returns the docker-reference that the signature of a release called name states.
func Reference(name string) string { return LogicalHost + "/" + name }

// payloadType is the value that cosign's signature specification fixes.
const payloadType = "cosign container image signature"

// payload is cosign's simple signing document (SIGNATURE_SPEC.md; containers/image signature-protocols).
type payload struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest images.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional struct {
		Creator string `json:"creator,omitempty"`
		Key     string `json:"key,omitempty"` // KeyID of the signer: a hint for better errors, proves nothing by itself
	} `json:"optional"`
}

// Signature is one signature of a release.
type Signature struct {
	Payload []byte // what is signed
	Bytes   []byte // ASN.1 DER ECDSA signature over the SHA-256 of Payload
}

// Sign signs the manifest digest of the release called name. The signer's key must be ECDSA P-256; it may live in a file, a
// token or a service.
func Sign(signer crypto.Signer, name string, manifest images.Digest) (Signature, error) {
	key, err := publicKey(signer.Public())
	if err != nil {
		return Signature{}, fmt.Errorf("cannot sign release %s: %w", name, err)
	}
	if _, err := images.ParseName(name); err != nil {
		return Signature{}, fmt.Errorf("cannot sign release: %w", err)
	}
	if _, err := images.ParseDigest(string(manifest)); err != nil {
		return Signature{}, fmt.Errorf("cannot sign release %s: %w", name, err)
	}
	var p payload
	p.Critical.Identity.DockerReference = Reference(name)
	p.Critical.Image.DockerManifestDigest = manifest
	p.Critical.Type = payloadType
	p.Optional.Creator, p.Optional.Key = "roost", KeyID(key)
	data, err := encode(p)
	if err != nil {
		return Signature{}, fmt.Errorf("cannot sign release %s: %w", name, err)
	}
	sum := sha256.Sum256(data)
	signature, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return Signature{}, fmt.Errorf("cannot sign release %s: %w", name, err)
	}
	if !ecdsa.VerifyASN1(key, sum[:], signature) {
		return Signature{}, fmt.Errorf("cannot sign release %s: the signer returned a signature that does not verify", name)
	}
	return Signature{Payload: data, Bytes: signature}, nil
}

// ParseKeys reads a trust file: one or more PEM blocks "PUBLIC KEY", each an ECDSA P-256 key.
func ParseKeys(data []byte) ([]*ecdsa.PublicKey, error) {
	var keys []*ecdsa.PublicKey
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("cannot read trusted keys: want PEM blocks PUBLIC KEY, got %s", block.Type)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read trusted keys: %w", err)
		}
		key, err := publicKey(parsed)
		if err != nil {
			return nil, fmt.Errorf("cannot read trusted keys: %w", err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("cannot read trusted keys: no PEM block in %d bytes", len(data))
	}
	return keys, nil
}

// KeyID returns the SHA-256 of the key's DER form, as `openssl pkey -pubin -outform DER | sha256sum` prints it.
func KeyID(key *ecdsa.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "unknown" // not a point of the curve; such a key verifies nothing
	}
	return string(images.DigestOf(der))
}

func publicKey(key crypto.PublicKey) (*ecdsa.PublicKey, error) {
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("want an ECDSA P-256 key, got %T", key)
	}
	return k, nil
}

// SplitKeys cuts a trust file into its PEM blocks, for programs that take one key per file.
func SplitKeys(data []byte) [][]byte {
	var blocks [][]byte
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return blocks
		}
		blocks, data = append(blocks, pem.EncodeToMemory(block)), rest
	}
}
