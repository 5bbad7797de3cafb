package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"roost/appliance/api"
	"roost/images"
)

const grantPrefix = "roost grant v1\n" // keeps a grant's signature from being one of anything else

// Grant signs an assignment.
func (a *Authority) Grant(assignment *api.Assignment) (*api.Grant, error) {
	document, err := json.Marshal(assignment)
	if err != nil {
		return nil, fmt.Errorf("cannot sign grant: %w", err)
	}
	digest := sha256.Sum256(append([]byte(grantPrefix), document...))
	signature, err := a.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("cannot sign grant: %w", err)
	}
	return &api.Grant{Document: document, Signature: signature, Chain: a.between()}, nil
}

// Expect is what a machine knows about the grant it waits for.
type Expect struct {
	Root  images.Digest // SHA-256 of the site's root certificate, DER, as the machine shows it on its console
	Key   images.Digest // fingerprint of the node key
	Nonce string
}

// Open verifies a grant and returns its assignment. Every part that the grant binds must be the machine's own.
func Open(grant *api.Grant, expect Expect) (*api.Assignment, error) {
	assignment := &api.Assignment{}
	decoder := json.NewDecoder(bytes.NewReader(grant.Document))
	if err := decoder.Decode(assignment); err != nil {
		return nil, fmt.Errorf("cannot open grant: %w", err)
	}
	if assignment.Schema != 1 {
		return nil, fmt.Errorf("cannot open grant: its schema %d is not known here", assignment.Schema)
	}
	root, err := pinned(assignment.Root, expect.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot open grant: %w", err)
	}
	if err := checkSignature(grant, root, assignment.Time); err != nil {
		return nil, fmt.Errorf("cannot open grant: %w", err)
	}
	switch {
	case assignment.Fingerprint != expect.Key:
		return nil, fmt.Errorf("cannot open grant: it is for the key %s, not this machine's", assignment.Fingerprint)
	case assignment.Nonce != expect.Nonce:
		return nil, errors.New("cannot open grant: it answers another boot of this machine")
	}
	if err := checkCertificate(assignment, root, expect.Key); err != nil {
		return nil, fmt.Errorf("cannot open grant: %w", err)
	}
	return assignment, nil
}

// pinned parses the root and holds it against its fingerprint.
func pinned(text string, pin images.Digest) (*x509.Certificate, error) {
	certs, err := parseChain([]byte(text))
	if err != nil || len(certs) != 1 {
		return nil, errors.New("it does not show one root certificate")
	}
	if images.DigestOf(certs[0].Raw) != pin {
		return nil, errors.New("its root certificate is not the site's")
	}
	return certs[0], nil
}

// checkSignature verifies the grant under root. Validity is judged at the grant's own time: the machine's clock is not
// trusted before it has joined, and the nonce already proves freshness.
func checkSignature(grant *api.Grant, root *x509.Certificate, at time.Time) error {
	chain, err := parseChain([]byte(grant.Chain))
	if err != nil {
		return err
	}
	signer := root
	if len(chain) > 0 {
		signer = chain[0]
		if err := verifyUnder(root, chain, at, x509.ExtKeyUsageAny); err != nil {
			return err
		}
	}
	public, ok := signer.PublicKey.(*ecdsa.PublicKey)
	if !ok || !signer.IsCA {
		return errors.New("it is not signed by an authority")
	}
	digest := sha256.Sum256(append([]byte(grantPrefix), grant.Document...))
	if !ecdsa.VerifyASN1(public, digest[:], grant.Signature) {
		return errors.New("its signature is wrong")
	}
	return nil
}

// checkCertificate makes sure that the certificate in the assignment is over the machine's key and names the host.
func checkCertificate(assignment *api.Assignment, root *x509.Certificate, key images.Digest) error {
	chain, err := parseChain([]byte(assignment.Certificate))
	if err != nil || len(chain) == 0 {
		return errors.New("it holds no certificate for the host")
	}
	if err := verifyUnder(root, chain, assignment.Time, x509.ExtKeyUsageClientAuth); err != nil {
		return err
	}
	if Fingerprint(chain[0].PublicKey) != key {
		return errors.New("its certificate is over another key")
	}
	if len(chain[0].URIs) != 1 || chain[0].URIs[0].Path != "/host/"+assignment.Host || chain[0].URIs[0].Host != assignment.Site {
		return errors.New("its certificate names another host")
	}
	return nil
}

func verifyUnder(root *x509.Certificate, chain []*x509.Certificate, at time.Time, usage x509.ExtKeyUsage) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// request makes a PEM certificate request over key, which proves that its sender holds it.
func request(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", fmt.Errorf("cannot request certificate: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}
