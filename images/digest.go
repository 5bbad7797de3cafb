package images

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest names bytes by their content, in the OCI form "sha256:" followed by 64 lower-case hexadecimal digits
// (OCI image-spec, descriptor.md). The zero value names nothing and is not valid.
type Digest string

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// ParseDigest checks s and returns it as a Digest. Only SHA-256 is accepted: one algorithm, one name per content.
func ParseDigest(s string) (Digest, error) {
	algorithm, digits, ok := strings.Cut(s, ":")
	if !ok || algorithm != "sha256" {
		return "", fmt.Errorf("cannot parse digest %q: want sha256:<64 hexadecimal digits>", s)
	}
	if !isHex(digits, sha256.Size) {
		return "", fmt.Errorf("cannot parse digest %q: want 64 lower-case hexadecimal digits after the colon", s)
	}
	return Digest(s), nil
}

// Hex returns the digits without the algorithm, as file names and verity tools want them.
func (d Digest) Hex() string {
	_, digits, _ := strings.Cut(string(d), ":")
	return digits
}

func (d Digest) String() string { return string(d) }

// isHex reports whether s is size bytes in lower-case hexadecimal.
func isHex(s string, size int) bool {
	if len(s) != 2*size {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
