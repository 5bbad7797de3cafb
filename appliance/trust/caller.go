package trust

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"roost/images"
)

// Caller is who is at the other end of a TLS connection, as far as certificates tell. Whether a node or an operator is
// still welcome is for the caller's record in the store to say.
type Caller struct {
	Kind        string        // "": no certificate; enrolling: one nobody signed; node; operator
	ID          string        // host id or operator name
	Fingerprint images.Digest // of the public key; the connection proves its possession
	Cert        *x509.Certificate
}

// Identify tells who made the connection, under the given root. A certificate that claims to be of this site but does
// not verify is treated as no certificate, never as one of an enrolling machine with rights of its own.
func Identify(state *tls.ConnectionState, root *x509.Certificate, now time.Time) Caller {
	if state == nil || len(state.PeerCertificates) == 0 {
		return Caller{}
	}
	cert := state.PeerCertificates[0]
	caller := Caller{Kind: "enrolling", Fingerprint: Fingerprint(cert.PublicKey), Cert: cert}
	if len(cert.URIs) == 0 {
		return caller
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	uri := cert.URIs[0]
	if err != nil || uri.Scheme != "roost" || len(root.Subject.Organization) != 1 || uri.Host != root.Subject.Organization[0] {
		return Caller{}
	}
	kind, id, _ := strings.Cut(strings.TrimPrefix(uri.Path, "/"), "/")
	switch kind {
	case "host":
		caller.Kind, caller.ID = "node", id
	case "operator":
		caller.Kind, caller.ID = "operator", id
	default:
		return Caller{}
	}
	return caller
}
