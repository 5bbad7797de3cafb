package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Signer is the site's own authority.
type Signer interface {
	// Service signs a request, PEM, of a service that a host offers under its own name and addresses.
	Service(request, host string, addresses []net.IP, now time.Time) (chain string, err error)
	RootPEM() string
}

// Addresses are those of the host that asks: those it was given, and those it says it has.
func (a Asker) Addresses() (list []net.IP) {
	add := func(text string) {
		address, err := netip.ParseAddr(text)
		if err == nil && !slices.ContainsFunc(list, func(ip net.IP) bool { return ip.Equal(address.AsSlice()) }) {
			list = append(list, address.AsSlice())
		}
	}
	for _, i := range a.Config.Interfaces {
		for _, text := range i.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				add(prefix.Addr().String())
			}
		}
	}
	for _, text := range a.Host.Addresses {
		add(text)
	}
	return list
}

// NewRequest makes a private key, PEM (RFC 5958), and the request to have it certified (RFC 2986). It says nothing of its
// holder: the site decides that.
func NewRequest() (key []byte, request string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("cannot make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, "", fmt.Errorf("cannot make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		return nil, "", fmt.Errorf("cannot make request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), nil
}

// Usable returns nil while a service that is reached at address can be known by a certificate: it is over the key, leads to the
// root, and is not in the last third of its life. All are PEM.
func Usable(chain, key, root []byte, address string, now time.Time) error {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return errors.New("there is no certificate yet")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: address, CurrentTime: now}); err != nil {
		return err
	}
	if life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore); now.After(pair.Leaf.NotBefore.Add(life / 3 * 2)) {
		return errors.New("two thirds of its life are over")
	}
	return nil
}
