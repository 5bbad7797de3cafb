package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the Secure Boot keys, as UEFI names the variables they go to (UEFI 2.10, 32.3).
const (
	PK  = "PK"
	KEK = "KEK"
	DB  = "db"
)

const (
	rsaBits      = 2048
	validity     = 25 * 365 * 24 * time.Hour // firmware does not look at expiry; a machine may outlive any shorter promise
	releaseKey   = "release.key"
	releasePub   = "release.pub"
	ownerFile    = "owner.guid"
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
	certBlock    = "CERTIFICATE"
)

// ErrExists is returned by Init when the directory already holds something: keys are never overwritten.
var ErrExists = errors.New("already holds files")

// Set is an opened key set. Its methods are safe for concurrent use; the keys behind it are used one operation at a time
// by the signers themselves.
type Set struct {
	owner   string // GUID text, the SignatureOwner of everything enrolled
	boot    map[string]pair
	release crypto.Signer
}

type pair struct {
	signer crypto.Signer
	cert   *x509.Certificate
}

// Init makes a new key set in dir, which must not exist or be empty. name tells people whose keys these are; it becomes
// part of the certificates' common names. The directory gets mode 0700, private keys 0600.
func Init(dir, name string) (err error) {
	if strings.TrimSpace(name) == "" || len(name) > 40 {
		return fmt.Errorf("cannot make key set: name %q must have 1 to 40 characters", name)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make key set: %w", err)
	}
	present, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot make key set: %w", err)
	}
	if len(present) > 0 {
		return fmt.Errorf("cannot make key set in %s: %w; choose an empty directory", dir, ErrExists)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make key set: %w", err)
	}
	files, err := generate(name)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := writeNew(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("cannot write key set: %w", err)
		}
	}
	return syncDir(dir)
}

type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// generate returns every file of a new set. Nothing is on disk until all keys exist.
func generate(name string) ([]file, error) {
	var files []file
	for _, use := range []string{PK, KEK, DB} {
		key, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return nil, fmt.Errorf("cannot generate key %s: %w", use, err)
		}
		cert, err := selfSign(key, name+" "+use)
		if err != nil {
			return nil, fmt.Errorf("cannot certify key %s: %w", use, err)
		}
		private, err := marshalPrivate(key)
		if err != nil {
			return nil, err
		}
		files = append(files, file{use + ".key", private, 0o600}, file{use + ".crt", encode(certBlock, cert), 0o644})
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot generate release key: %w", err)
	}
	private, err := marshalPrivate(key)
	if err != nil {
		return nil, err
	}
	public, err := marshalPublic(key.Public())
	if err != nil {
		return nil, err
	}
	owner, err := newGUID()
	if err != nil {
		return nil, err
	}
	return append(files, file{releaseKey, private, 0o600}, file{releasePub, public, 0o644}, file{ownerFile, []byte(owner + "\n"), 0o644}), nil
}

// Open loads the key set in dir and checks it: every key there, modes tight, certificates matching their keys.
func Open(dir string) (*Set, error) {
	owner, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err != nil {
		return nil, fmt.Errorf("cannot open key set %s: %w", dir, err)
	}
	s := &Set{owner: strings.TrimSpace(string(owner)), boot: map[string]pair{}}
	if !isGUID(s.owner) {
		return nil, fmt.Errorf("cannot open key set %s: %s is not a GUID", dir, ownerFile)
	}
	for _, use := range []string{PK, KEK, DB} {
		p, err := loadPair(filepath.Join(dir, use))
		if err != nil {
			return nil, fmt.Errorf("cannot open key set: %w", err)
		}
		s.boot[use] = p
	}
	if s.release, err = loadPrivate(filepath.Join(dir, releaseKey)); err != nil {
		return nil, fmt.Errorf("cannot open key set: %w", err)
	}
	if public, ok := s.release.Public().(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("cannot open key set: %s is not an ECDSA P-256 key", releaseKey)
	}
	return s, nil
}

// SecureBootDB returns the key that signs what firmware starts, with its certificate.
func (s *Set) SecureBootDB() (crypto.Signer, *x509.Certificate) {
	p := s.boot[DB]
	return p.signer, p.cert
}

// Release returns the key that signs releases (ECDSA P-256).
func (s *Set) Release() crypto.Signer { return s.release }

// ReleasePublicPEM returns the public half of the release key as a PEM "PUBLIC KEY" block, as cosign and the images read it.
func (s *Set) ReleasePublicPEM() ([]byte, error) { return marshalPublic(s.release.Public()) }

// Owner returns the GUID that marks everything this set enrols into firmware.
func (s *Set) Owner() string { return s.owner }

// Certificate returns the certificate of PK, KEK or DB; nil for any other name.
func (s *Set) Certificate(use string) *x509.Certificate { return s.boot[use].cert }

// ReadCertificate reads a PEM certificate, such as db.crt of a set.
func ReadCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate: %w", err)
	}
	der, err := decode(text, "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate %s: %w", path, err)
	}
	return x509.ParseCertificate(der)
}

func loadPair(base string) (pair, error) {
	signer, err := loadPrivate(base + ".key")
	if err != nil {
		return pair{}, err
	}
	text, err := os.ReadFile(base + ".crt")
	if err != nil {
		return pair{}, err
	}
	der, err := decode(text, certBlock)
	if err != nil {
		return pair{}, fmt.Errorf("cannot read %s.crt: %w", base, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, fmt.Errorf("cannot read %s.crt: %w", base, err)
	}
	public, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return pair{}, fmt.Errorf("cannot use %s.crt: not an RSA certificate, firmware would refuse it", base)
	}
	if !public.Equal(signer.Public()) {
		return pair{}, fmt.Errorf("cannot use %s.crt: it belongs to another key than %s.key", base, base)
	}
	return pair{signer, cert}, nil
}

func loadPrivate(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot use %s: mode %#o lets others read it; run chmod 600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	der, err := decode(text, privateBlock)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("cannot use %s: it cannot sign", path)
	}
	return signer, nil
}

func selfSign(key *rsa.PrivateKey, commonName string) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-24 * time.Hour), // a builder's clock may be ahead of a verifier's
		NotAfter:              now.Add(validity),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

func marshalPrivate(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode private key: %w", err)
	}
	return encode(privateBlock, der), nil
}

func marshalPublic(key any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode public key: %w", err)
	}
	return encode(publicBlock, der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func decode(text []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("want one PEM block %q", kind)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("want one PEM block %q and nothing after it", kind)
	}
	return block.Bytes, nil
}

// writeNew writes a file that must not exist, durably.
func writeNew(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

// newGUID returns a random (version 4) GUID in text form.
func newGUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("cannot make owner GUID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		digit := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		if dash != (c == '-') || !dash && !digit {
			return false
		}
	}
	return true
}
