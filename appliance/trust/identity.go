package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"roost/appliance/api"
	"roost/images"
)

// Key is the key pair of a machine that enrols, in RAM only, with one more for the authority it would need as a
// controller, and the nonce of this boot.
type Key struct {
	Node      *ecdsa.PrivateKey
	Authority *ecdsa.PrivateKey
	Nonce     string
	self      tls.Certificate
}

// Enrol makes the keys of a machine that is not part of a site.
func Enrol(now time.Time) (*Key, error) {
	node, err := NewKey()
	if err != nil {
		return nil, err
	}
	authority, err := NewKey()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, 32)
	rand.Read(nonce) // never fails
	key := &Key{Node: node, Authority: authority, Nonce: hex.EncodeToString(nonce)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: Fingerprint(node.Public()).Hex()},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifeLeaf),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, node.Public(), node)
	if err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	key.self = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: node}
	return key, nil
}

// Fingerprint names the node key.
func (k *Key) Fingerprint() images.Digest { return Fingerprint(k.Node.Public()) }

// Certificate is the self-signed certificate that proves possession of the key while enrolling.
func (k *Key) Certificate() (*tls.Certificate, error) { return &k.self, nil }

// Requests fills in what the keys add to an enrolment.
func (k *Key) Requests(e *api.Enrolment) (err error) {
	e.Schema, e.Nonce = 1, k.Nonce
	if e.Request, err = request(k.Node); err != nil {
		return err
	}
	e.Authority, err = request(k.Authority)
	return err
}

// Identity is what makes an installed machine the host it is. It lives on the state partition and serves both slots.
type Identity struct {
	Assignment *api.Assignment
	Node       *ecdsa.PrivateKey
	Chain      string            // PEM of the node's certificate, without the root
	Authority  *ecdsa.PrivateKey // on controllers, else nil

	mu sync.Mutex // guards Chain once the identity is in use
}

// Dir is the directory of an identity, as package durable keeps one; its files are for root only.
type Dir interface {
	Read(name string) ([]byte, error)
	Write(name string, b []byte) error
}

// The files of an identity. host-id is written last: without it there is no identity.
const (
	fileHost       = "host-id"
	fileNodeKey    = "node.key"
	fileNodeCert   = "node.crt"
	fileCA         = "ca.crt"
	fileCAKey      = "authority.key"
	fileMachine    = "machine-id"
	fileHostname   = "hostname" // with machine-id, what the initrd puts in place before systemd reads it
	fileAssignment = "assignment.json"
	fileSSH        = "ssh_host_ed25519_key"
)

// Save writes a new identity. It can be repeated after a crash.
func (k *Key) Save(dir Dir, a *api.Assignment) error {
	nodeKey, err := encodeKey(k.Node)
	if err != nil {
		return err
	}
	document, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot save identity: %w", err)
	}
	private, public, err := sshKey(a.Name)
	if err != nil {
		return err
	}
	machine := strings.ReplaceAll(a.Host, "-", "") + "\n"
	type file struct {
		name    string
		content []byte
	}
	files := []file{
		{fileNodeKey, nodeKey},
		{fileNodeCert, []byte(a.Certificate)},
		{fileCA, []byte(a.Authority + a.Root)},
		{fileAssignment, document},
		{fileMachine, []byte(machine)},
		{fileHostname, []byte(a.Name + "\n")},
		{fileSSH, private},
		{fileSSH + ".pub", public},
	}
	if a.Authority != "" {
		authority, err := encodeKey(k.Authority)
		if err != nil {
			return err
		}
		files = append(files, file{fileCAKey, authority})
	}
	for _, file := range files {
		if err := dir.Write(file.name, file.content); err != nil {
			return fmt.Errorf("cannot save identity: %w", err)
		}
	}
	if err := dir.Write(fileHost, []byte(a.Host+"\n")); err != nil {
		return fmt.Errorf("cannot save identity: %w", err)
	}
	return nil
}

// LoadIdentity reads the identity in dir; without one it returns nil and no error.
func LoadIdentity(dir Dir) (*Identity, error) {
	host, err := dir.Read(fileHost)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load identity: %w", err)
	}
	document, err := dir.Read(fileAssignment)
	if err != nil {
		return nil, fmt.Errorf("cannot load identity: %w", err)
	}
	id := &Identity{Assignment: &api.Assignment{}}
	if err := json.Unmarshal(document, id.Assignment); err != nil {
		return nil, fmt.Errorf("cannot load identity: %w", err)
	}
	if strings.TrimSpace(string(host)) != id.Assignment.Host {
		return nil, fmt.Errorf("cannot load identity: host-id says %q, the assignment %q", host, id.Assignment.Host)
	}
	chain, err := dir.Read(fileNodeCert)
	if err != nil {
		return nil, fmt.Errorf("cannot load identity: %w", err)
	}
	id.Chain = string(chain)
	if id.Node, err = readKey(dir, fileNodeKey); err != nil {
		return nil, err
	}
	if id.Assignment.Authority != "" {
		id.Authority, err = readKey(dir, fileCAKey)
	}
	return id, err
}

// Certificate returns the node's certificate for a TLS handshake.
func (id *Identity) Certificate() (*tls.Certificate, error) {
	id.mu.Lock()
	chain := id.Chain
	id.mu.Unlock()
	certs, err := parseChain([]byte(chain))
	if err != nil || len(certs) == 0 {
		return nil, fmt.Errorf("cannot use certificate of host: %w", err)
	}
	out := &tls.Certificate{PrivateKey: id.Node, Leaf: certs[0]}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

// Request makes a certificate request for renewal over the same key.
func (id *Identity) Request() (string, error) { return request(id.Node) }

// Renew checks a renewed chain and stores it.
func (id *Identity) Renew(dir Dir, chain string) error {
	certs, err := parseChain([]byte(chain))
	if err != nil || len(certs) == 0 {
		return errors.New("cannot renew certificate: the answer holds none")
	}
	if Fingerprint(certs[0].PublicKey) != Fingerprint(id.Node.Public()) {
		return errors.New("cannot renew certificate: the answer is over another key")
	}
	if err := dir.Write(fileNodeCert, []byte(chain)); err != nil {
		return fmt.Errorf("cannot renew certificate: %w", err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.Chain = chain
	return nil
}

// Rename changes the host name that the next boot starts with.
func (id *Identity) Rename(dir Dir, hostname string) error {
	if err := dir.Write(fileHostname, []byte(hostname+"\n")); err != nil {
		return fmt.Errorf("cannot rename host: %w", err)
	}
	return nil
}

// OpenAuthority returns the authority of a controller.
func (id *Identity) OpenAuthority() (*Authority, error) {
	if id.Authority == nil {
		return nil, fmt.Errorf("cannot open authority: host %s is no controller", id.Assignment.Name)
	}
	return OpenAuthority([]byte(id.Assignment.Authority+id.Assignment.Root), id.Authority)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func readKey(dir Dir, name string) (*ecdsa.PrivateKey, error) {
	b, err := dir.Read(name)
	if err != nil {
		return nil, fmt.Errorf("cannot load identity: %w", err)
	}
	return ParseKey(b)
}

// ParseKey reads a PEM private key as made by [NewKey].
func ParseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("cannot read key: not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("cannot read key: not an ECDSA key")
	}
	return private, nil
}

// sshKey makes the host key of the machine's ssh server in OpenSSH's form.
func sshKey(comment string) (private, public []byte, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make ssh host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make ssh host key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make ssh host key: %w", err)
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(signer.PublicKey()), nil
}
