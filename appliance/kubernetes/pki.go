package kubernetes

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Lifetimes of certificates. Machines come up with wrong clocks, so each is valid from a day before it is made.
const (
	lifeAuthority = 20 * 365 * 24 * time.Hour
	lifeLeaf      = 90 * 24 * time.Hour
	lifeOperator  = 24 * time.Hour
	backdate      = 24 * time.Hour
)

// subject is what a certificate says of its holder, and for which uses.
type subject struct {
	name, group string
	server      bool // else client
	names       []string
	addresses   []net.IP
	life        time.Duration
}

// newKey makes a private key, PEM.
func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "EC PRIVATE KEY" {
		return nil, errors.New("cannot read key: not one EC key in PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	return key, nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("cannot read certificate: not in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate: %w", err)
	}
	return cert, nil
}

// newAuthority makes a self-signed authority, and its key.
func newAuthority(name, site string, now time.Time) (cert, key []byte, err error) {
	if key, err = newKey(); err != nil {
		return nil, nil, err
	}
	signer, err := parseKey(key)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name, Organization: []string{site}},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err = sign(template, template, signer.Public(), signer, now, lifeAuthority)
	return cert, key, err
}

// newRequest asks for a certificate over key. It says nothing of its holder: the site decides that.
func newRequest(key []byte) (string, error) {
	signer, err := parseKey(key)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	if err != nil {
		return "", fmt.Errorf("cannot ask for certificate: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// answer signs a request with what the site says of its sender, who must hold the key.
func answer(request string, s subject, authority, authorityKey []byte, now time.Time) (string, error) {
	block, rest := pem.Decode([]byte(request))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return "", errors.New("not one certificate request in PEM")
	}
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "", err
	}
	if err := asked.CheckSignature(); err != nil {
		return "", err
	}
	if public, ok := asked.PublicKey.(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		return "", errors.New("its key is not ECDSA on P-256")
	}
	parent, err := parseCertificate(authority)
	if err != nil {
		return "", err
	}
	signer, err := parseKey(authorityKey)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: s.name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, DNSNames: s.names, IPAddresses: s.addresses,
	}
	if s.group != "" {
		template.Subject.Organization = []string{s.group}
	}
	if s.server {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	life := s.life
	if life == 0 {
		life = lifeLeaf
	}
	cert, err := sign(template, parent, asked.PublicKey, signer, now, life)
	return string(cert), err
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer, now time.Time, life time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("cannot sign certificate: %w", err)
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-backdate).UTC(), now.Add(life).UTC()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("cannot sign certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// usable returns nil while a certificate is over the key, under the authority, and not in the last third of its life.
func usable(cert, key, authority []byte, now time.Time) error {
	leaf, err := parseCertificate(cert)
	if err != nil {
		return err
	}
	signer, err := parseKey(key)
	if err != nil {
		return err
	}
	if !signer.PublicKey.Equal(leaf.PublicKey) {
		return errors.New("the certificate is over another key")
	}
	parent, err := parseCertificate(authority)
	if err != nil {
		return err
	}
	if err := leaf.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("the certificate is of another authority: %w", err)
	}
	if now.After(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)) {
		return fmt.Errorf("the certificate ends on %s", leaf.NotAfter.Format(time.DateOnly))
	}
	return nil
}
