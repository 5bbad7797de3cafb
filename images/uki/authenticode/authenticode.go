// Package authenticode signs programs that UEFI firmware starts and checks such signatures (Windows Authenticode Portable
// Executable Signature Format, 2008; UEFI 2.10, 32.5).
//
// It exists so that a key behind crypto.Signer, a file or a token, signs UKIs and the boot loader without host tools.
//
// Promises: equal file, key and certificate give equal bytes (RSA PKCS #1 v1.5, no signing time); a PE file whose layout
// would let firmware and us hash different bytes is refused.
//
// Rejected: go-uefi's authenticode (signing time from the clock, attributes unsorted, a file system abstraction and an HTTP
// client among its imports). Tests hold its verifier and sbverify against this signer.
package authenticode

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"roost/images"
	"roost/images/uki"
)

// ErrSignature is in every error of Verify that says a file is not signed by the certificate.
var ErrSignature = errors.New("no valid signature")

const (
	certHeader    = 8
	certRevision  = 0x0200
	certPKCS7     = 0x0002
	certAlignment = 8
)

// Digest returns the Authenticode digest of a PE file: what a signature covers, and what firmware compares with dbx. It is
// the same before and after signing.
func Digest(pe []byte) (images.Digest, error) {
	l, err := uki.Layout(pe)
	if err != nil {
		return "", fmt.Errorf("cannot hash program: %w", err)
	}
	return images.Digest(fmt.Sprintf("sha256:%x", digest(pe, l))), nil
}

// digest hashes everything but the checksum, the directory entry of the signatures and the signatures, padded to 8 bytes.
func digest(pe []byte, l uki.Places) []byte {
	h := sha256.New()
	h.Write(pe[:l.Checksum])
	h.Write(pe[l.Checksum+4 : l.Directory])
	h.Write(pe[l.Directory+8 : l.End])
	h.Write(make([]byte, padding(l.End)))
	return h.Sum(nil)
}

func padding(n int) int { return (certAlignment - n%certAlignment) % certAlignment }

// Sign returns the PE file with a signature by signer, an RSA key, under cert. Signatures it had are dropped.
func Sign(pe []byte, signer crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	l, err := uki.Layout(pe)
	if err != nil {
		return nil, fmt.Errorf("cannot sign program: %w", err)
	}
	if key, ok := signer.Public().(*rsa.PublicKey); !ok || !key.Equal(cert.PublicKey) {
		return nil, errors.New("cannot sign program: the certificate is not one of this RSA key")
	}
	signature, err := signedData(digest(pe, l), cert, func(sum []byte) ([]byte, error) {
		return signer.Sign(rand.Reader, sum, crypto.SHA256) // PKCS #1 v1.5 takes no randomness for the result
	})
	if err != nil {
		return nil, fmt.Errorf("cannot sign program: %w", err)
	}
	out := bytes.Clone(pe[:l.End])
	out = append(out, make([]byte, padding(len(out)))...)
	at := len(out)
	le := binary.LittleEndian
	out = le.AppendUint32(out, uint32(certHeader+len(signature)))
	out = le.AppendUint16(out, certRevision)
	out = le.AppendUint16(out, certPKCS7)
	out = append(out, signature...)
	out = append(out, make([]byte, padding(len(out)))...)
	le.PutUint32(out[l.Directory:], uint32(at))
	le.PutUint32(out[l.Directory+4:], uint32(len(out)-at))
	clear(out[l.Checksum : l.Checksum+4])
	le.PutUint32(out[l.Checksum:], uki.Checksum(out))
	return out, nil
}

// Verify checks that one of the signatures of a PE file was made by the key of cert. It does not judge the certificate.
func Verify(pe []byte, cert *x509.Certificate) error {
	l, err := uki.Layout(pe)
	if err != nil {
		return fmt.Errorf("cannot verify program: %w", err)
	}
	want := digest(pe, l)
	rest := pe[l.Certificates:]
	reason := errors.New("it is not signed")
	for len(rest) > certHeader {
		n := int64(binary.LittleEndian.Uint32(rest))
		if n < certHeader || n > int64(len(rest)) {
			return fmt.Errorf("cannot verify program: %w: signature of %d bytes where %d are left", ErrSignature, n, len(rest))
		}
		if binary.LittleEndian.Uint16(rest[6:]) == certPKCS7 {
			if reason = verifySignedData(rest[certHeader:n], want, cert); reason == nil {
				return nil
			}
		}
		rest = rest[min(int(n)+padding(int(n)), len(rest)):]
	}
	return fmt.Errorf("cannot verify program: %w: %w", ErrSignature, reason)
}
