package authenticode

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// oids are the object identifiers of PKCS #7 and Authenticode.
type oids struct {
	signedData, contentType, messageDigest, sha256, rsa, indirectData, peImage asn1.ObjectIdentifier
}

func ids() oids {
	return oids{
		signedData:    asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2},
		contentType:   asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3},
		messageDigest: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4},
		sha256:        asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1},
		rsa:           asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1},
		indirectData:  asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4},
		peImage:       asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15},
	}
}

func explicit(n uint8) casn1.Tag { return casn1.Tag(n).ContextSpecific().Constructed() }

func sequence(b *cryptobyte.Builder, f func(b *cryptobyte.Builder)) { b.AddASN1(casn1.SEQUENCE, f) }

// algorithm adds an AlgorithmIdentifier with the NULL parameters that firmware expects.
func algorithm(b *cryptobyte.Builder, oid asn1.ObjectIdentifier) {
	sequence(b, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1NULL()
	})
}

// indirectData returns the content of SpcIndirectDataContent, its outer tag and length left out: that is what is digested.
func indirectData(digest []byte) ([]byte, error) {
	var b cryptobyte.Builder
	sequence(&b, func(b *cryptobyte.Builder) { // SpcAttributeTypeAndOptionalValue
		b.AddASN1ObjectIdentifier(ids().peImage)
		sequence(b, func(b *cryptobyte.Builder) { // SpcPeImageData
			b.AddASN1BitString(nil)
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { // SpcLink
				b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { // file
					b.AddASN1(casn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { // BMPString, as the specification prescribes
						for _, c := range []byte("<<<Obsolete>>>") {
							b.AddUint16(uint16(c))
						}
					})
				})
			})
		})
	})
	sequence(&b, func(b *cryptobyte.Builder) { // DigestInfo
		algorithm(b, ids().sha256)
		b.AddASN1OctetString(digest)
	})
	return b.Bytes()
}

// attributes returns the content of the SET of signed attributes, sorted as DER asks.
func attributes(content []byte) ([]byte, error) {
	sum := sha256.Sum256(content)
	var b cryptobyte.Builder
	sequence(&b, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(ids().contentType)
		b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(ids().indirectData) })
	})
	sequence(&b, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(ids().messageDigest)
		b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { b.AddASN1OctetString(sum[:]) })
	})
	return b.Bytes()
}

// signedData returns a PKCS #7 ContentInfo over the digest of a program. sign signs a SHA-256 sum.
func signedData(digest []byte, cert *x509.Certificate, sign func(sum []byte) ([]byte, error)) ([]byte, error) {
	content, err := indirectData(digest)
	if err != nil {
		return nil, err
	}
	attrs, err := attributes(content)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(asSet(attrs))
	signature, err := sign(sum[:])
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	sequence(&b, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(ids().signedData)
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { algorithm(b, ids().sha256) })
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(ids().indirectData)
					b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
						sequence(b, func(b *cryptobyte.Builder) { b.AddBytes(content) })
					})
				})
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(cert.Raw) })
				b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { signerInfo(b, cert, attrs, signature) })
			})
		})
	})
	return b.Bytes()
}

func signerInfo(b *cryptobyte.Builder, cert *x509.Certificate, attrs, signature []byte) {
	sequence(b, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		sequence(b, func(b *cryptobyte.Builder) {
			b.AddBytes(cert.RawIssuer)
			b.AddASN1BigInt(cert.SerialNumber)
		})
		algorithm(b, ids().sha256)
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(attrs) })
		algorithm(b, ids().rsa)
		b.AddASN1OctetString(signature)
	})
}

// asSet gives signed attributes the tag under which they are signed (RFC 2315, 9.3).
func asSet(attrs []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(attrs) })
	return b.BytesOrPanic() // cannot fail: bytes in a SET
}

// verifySignedData checks a PKCS #7 signature over the digest of a program.
func verifySignedData(der, digest []byte, cert *x509.Certificate) error {
	malformed := errors.New("signature is malformed or of another kind")
	content, signers, ok := parseSignedData(der)
	if !ok {
		return malformed
	}
	want, err := indirectData(digest)
	if err != nil {
		return err
	}
	// The digest stands at the end; what is before it differs between signers.
	if len(content) < len(want) || !bytes.HasSuffix(content, want[len(want)-digestInfoSize:]) {
		return errors.New("signature is of another file")
	}
	attrs, signature, ok := parseSignerInfo(signers)
	if !ok {
		return malformed
	}
	sum := sha256.Sum256(content)
	if !hasDigest(attrs, sum[:]) {
		return errors.New("signed attributes do not cover the content")
	}
	return cert.CheckSignature(x509.SHA256WithRSA, asSet(attrs), signature)
}

// digestInfoSize is the size of a DigestInfo with SHA-256 in DER.
const digestInfoSize = 2 + 15 + 2 + sha256.Size

func parseSignedData(der []byte) (content, signers cryptobyte.String, ok bool) {
	var outer, wrap, signed, info, inner cryptobyte.String
	var kind asn1.ObjectIdentifier
	var version int
	in := cryptobyte.String(der)
	ok = in.ReadASN1(&outer, casn1.SEQUENCE) && outer.ReadASN1ObjectIdentifier(&kind) && kind.Equal(ids().signedData) &&
		outer.ReadASN1(&wrap, explicit(0)) && wrap.ReadASN1(&signed, casn1.SEQUENCE) && signed.ReadASN1Integer(&version) && version == 1 &&
		signed.SkipASN1(casn1.SET) && signed.ReadASN1(&info, casn1.SEQUENCE) &&
		info.ReadASN1ObjectIdentifier(&kind) && kind.Equal(ids().indirectData) &&
		info.ReadASN1(&inner, explicit(0)) && inner.ReadASN1(&content, casn1.SEQUENCE) && inner.Empty() &&
		signed.SkipOptionalASN1(explicit(0)) && signed.SkipOptionalASN1(explicit(1)) && signed.ReadASN1(&signers, casn1.SET)
	return content, signers, ok
}

func parseSignerInfo(signers cryptobyte.String) (attrs, signature cryptobyte.String, ok bool) {
	var info cryptobyte.String
	var version int
	var digestOID asn1.ObjectIdentifier
	var digestAlgorithm cryptobyte.String
	ok = signers.ReadASN1(&info, casn1.SEQUENCE) && signers.Empty() && info.ReadASN1Integer(&version) &&
		info.SkipASN1(casn1.SEQUENCE) && info.ReadASN1(&digestAlgorithm, casn1.SEQUENCE) &&
		digestAlgorithm.ReadASN1ObjectIdentifier(&digestOID) && digestOID.Equal(ids().sha256) &&
		info.ReadASN1(&attrs, explicit(0)) && info.SkipASN1(casn1.SEQUENCE) && info.ReadASN1(&signature, casn1.OCTET_STRING)
	return attrs, signature, ok
}

// hasDigest looks for the message digest among signed attributes.
func hasDigest(attrs cryptobyte.String, sum []byte) bool {
	for !attrs.Empty() {
		var attr, values, value cryptobyte.String
		var kind asn1.ObjectIdentifier
		if !attrs.ReadASN1(&attr, casn1.SEQUENCE) || !attr.ReadASN1ObjectIdentifier(&kind) || !attr.ReadASN1(&values, casn1.SET) {
			return false
		}
		if kind.Equal(ids().messageDigest) {
			return values.ReadASN1(&value, casn1.OCTET_STRING) && values.Empty() && bytes.Equal(value, sum)
		}
	}
	return false
}
