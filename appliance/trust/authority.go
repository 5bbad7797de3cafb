// Package trust is who may speak on a site, and how a machine becomes part of it.
//
// A site has one root certificate authority. Its key is made by `roost site init` and stays with the operator; it signs
// an intermediate authority for a controller, and operators' certificates. A controller's intermediate signs the
// certificates of hosts. No private key ever crosses a wire: each side makes its own and sends a request.
//
// Enrolment is trust on first use, made inspectable: an unknown machine makes its key in RAM and shows the fingerprint on
// its console; the operator approves that fingerprint; the answer is signed by an authority under the root whose
// fingerprint the machine shows too, and binds node key, nonce, host id, disk, release and time (see [Grant]). Images can
// carry the root's fingerprint, which removes first use for the machine's side.
//
// Both sides of the protocol are here, so that a test can hold them against each other: [Manager] on the controller and
// on the seed, [Key], [Open] and [Identity] on the machine.
//
// Rejected: join tokens in kernel arguments (they travel in clear text, and ours are signed with the image); a secret
// derived from MAC addresses (guessable); one key for node and authority (a node key lives on every worker).
package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"

	"roost/appliance/api"
	"roost/images"
)

// Lifetimes of certificates. Machines come up with wrong clocks, so each is valid from a day before it is made.
const (
	lifeRoot         = 20 * 365 * 24 * time.Hour
	lifeIntermediate = 10 * 365 * 24 * time.Hour
	lifeLeaf         = 90 * 24 * time.Hour
	lifeOperator     = 2 * 365 * 24 * time.Hour
	backdate         = 24 * time.Hour
)

// serverName is the DNS name in every API server certificate; package client asks for it.
const serverName = "controller.roost.internal"

// Authority is a certificate authority with its key: the root of a site, or the intermediate of a controller.
type Authority struct {
	site  string
	chain []*x509.Certificate // own certificate first, root last
	key   crypto.Signer
}

// NewKey makes a private key: ECDSA on P-256, which every TLS client and every token knows.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	return key, nil
}

// Fingerprint names a public key: the SHA-256 of its PKIX form.
func Fingerprint(public crypto.PublicKey) images.Digest {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return ""
	}
	return images.DigestOf(der)
}

// Show writes a fingerprint for comparing by eye: eight groups of eight digits.
func Show(fingerprint images.Digest) string {
	digits := fingerprint.Hex()
	var groups []string
	for len(digits) >= 8 {
		groups = append(groups, digits[:8])
		digits = digits[8:]
	}
	return strings.Join(groups, " ")
}

// NewRoot makes the self-signed root of the named site.
func NewRoot(site string, key crypto.Signer, now time.Time) (*Authority, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Roost site " + site, Organization: []string{site}},
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	self := &Authority{site: site, key: key}
	cert, err := self.sign(template, key.Public(), now, lifeRoot)
	if err != nil {
		return nil, fmt.Errorf("cannot make root of site %s: %w", site, err)
	}
	self.chain = []*x509.Certificate{cert}
	return self, nil
}

// OpenAuthority takes a PEM chain (own certificate first, root last) and its key.
func OpenAuthority(chain []byte, key crypto.Signer) (*Authority, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, fmt.Errorf("cannot open authority: %w", err)
	}
	if len(certs) == 0 || !certs[0].IsCA {
		return nil, errors.New("cannot open authority: no CA certificate comes first")
	}
	if Fingerprint(certs[0].PublicKey) != Fingerprint(key.Public()) {
		return nil, errors.New("cannot open authority: the key is not the certificate's")
	}
	root := certs[len(certs)-1]
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("cannot open authority: the chain does not end in a root: %w", err)
	}
	if len(root.Subject.Organization) != 1 {
		return nil, errors.New("cannot open authority: the root names no site")
	}
	return &Authority{site: root.Subject.Organization[0], chain: certs, key: key}, nil
}

// Site returns the name of the site.
func (a *Authority) Site() string { return a.site }

// Root returns the site's root certificate.
func (a *Authority) Root() *x509.Certificate { return a.chain[len(a.chain)-1] }

// RootPEM returns the site's root certificate in PEM.
func (a *Authority) RootPEM() string { return encode(a.Root()) }

// IsRoot reports whether this is the root itself, which alone can make intermediates.
func (a *Authority) IsRoot() bool { return len(a.chain) == 1 }

// between returns the PEM of the chain without the root; empty for the root itself.
func (a *Authority) between() string { return encode(a.chain[:len(a.chain)-1]...) }

// Intermediate signs the authority of a controller.
func (a *Authority) Intermediate(public crypto.PublicKey, host string, now time.Time) (chain string, err error) {
	if !a.IsRoot() {
		return "", errors.New("cannot sign authority of controller: only the site's root can, and its key is with the operator")
	}
	cert, err := a.sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "Roost controller " + host, Organization: []string{a.site}},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:     []*url.URL{a.uri("authority", host)},
	}, public, now, lifeIntermediate)
	if err != nil {
		return "", fmt.Errorf("cannot sign authority of controller: %w", err)
	}
	return encode(cert), nil
}

// Node signs the certificate of a host; the PEM chain goes down to, but not including, the root.
func (a *Authority) Node(public crypto.PublicKey, host string, personality api.Personality, now time.Time) (chain string, err error) {
	cert, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: host, Organization: []string{a.site}, OrganizationalUnit: []string{string(personality)}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{a.uri("host", host)},
	}, public, now, lifeLeaf)
	if err != nil {
		return "", fmt.Errorf("cannot sign certificate of host: %w", err)
	}
	return encode(cert) + a.between(), nil
}

// Operator signs the certificate of a person. Only the root does, so a stolen controller cannot make operators.
func (a *Authority) Operator(public crypto.PublicKey, name string, now time.Time) (cert string, err error) {
	if !a.IsRoot() {
		return "", errors.New("cannot sign operator's certificate: only the site's root can, and its key is with the operator")
	}
	leaf, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{a.site}, OrganizationalUnit: []string{"operator"}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{a.uri("operator", name)},
	}, public, now, lifeOperator)
	if err != nil {
		return "", fmt.Errorf("cannot sign operator's certificate: %w", err)
	}
	return encode(leaf), nil
}

// Server makes the certificate of an API server over a key made for it. The chain includes the root, because machines
// that enrol know only the root's fingerprint.
func (a *Authority) Server(addresses []net.IP, now time.Time) (*tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: serverName, Organization: []string{a.site}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{serverName, "localhost"},
		IPAddresses: addresses,
	}, key.Public(), now, lifeLeaf)
	if err != nil {
		return nil, fmt.Errorf("cannot sign server certificate: %w", err)
	}
	out := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	for _, c := range a.chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

func (a *Authority) uri(kind, id string) *url.URL {
	return &url.URL{Scheme: "roost", Host: a.site, Path: "/" + kind + "/" + id}
}

// sign fills in serial and validity and signs; without a chain yet the certificate signs itself.
func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-backdate).UTC(), now.Add(life).UTC()
	parent := template
	if len(a.chain) > 0 {
		parent = a.chain[0]
		if parent.NotAfter.Before(template.NotAfter) {
			template.NotAfter = parent.NotAfter
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Renewable reports whether two thirds of a certificate's life are over.
func Renewable(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return now.After(cert.NotBefore.Add(life / 3 * 2))
}

func encode(certs ...*x509.Certificate) string {
	var out strings.Builder
	for _, cert := range certs {
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}) // a Builder does not fail
	}
	return out.String()
}

// parseChain reads PEM certificates; anything else in the text is an error.
func parseChain(text []byte) (certs []*x509.Certificate, err error) {
	for rest := text; len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("not a chain of PEM certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if certs = append(certs, cert); len(certs) > 8 {
			return nil, errors.New("a chain of more than 8 certificates")
		}
	}
	return certs, nil
}

// parseRequest reads a PEM certificate request and checks that its sender holds the key.
func parseRequest(text string) (crypto.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("not one PEM certificate request")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	public, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("its key is not ECDSA on P-256")
	}
	return public, nil
}

// Service answers a request, PEM, with the certificate of a service that the host offers under its own name and addresses. The API server's name is
// nobody else's.
func (a *Authority) Service(request, host string, addresses []net.IP, now time.Time) (chain string, err error) {
	if host == serverName {
		return "", fmt.Errorf("cannot sign certificate of a service: the name %s is the API server's", host)
	}
	public, err := parseRequest(request)
	if err != nil {
		return "", api.Invalid.Errorf("cannot sign certificate of a service: %v", err)
	}
	cert, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: host, Organization: []string{a.site}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{host},
		IPAddresses: addresses,
	}, public, now, lifeLeaf)
	if err != nil {
		return "", fmt.Errorf("cannot sign certificate of a service: %w", err)
	}
	return encode(cert) + a.between(), nil
}
