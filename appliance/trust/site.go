package trust

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"roost/appliance/api"
	"roost/images"
)

// SiteFile is site.yaml: the public facts of a site, as `roost site init` writes them and the seed reads them. It holds
// no secret and may be kept with the recipes.
type SiteFile struct {
	Name       string     `json:"name"`
	Controller string     `json:"controller"` // API base URL of the first controller: https://10.77.0.2:7443
	Root       string     `json:"root"`       // root CA certificate, PEM
	Operators  []Operator `json:"operators"`
	First      Selector   `json:"first"`  // the machine that becomes the first controller
	Config     api.Config `json:"config"` // its configuration
}

// Operator is a person who may use the API.
type Operator struct {
	Name string        `json:"name"`
	Key  images.Digest `json:"key"`  // fingerprint of the public key of their certificate
	Role string        `json:"role"` // admin, operator or reader
}

// Selector names the one machine that the seed admits by itself. Every given field must match; Any alone takes the
// first machine that comes, which is for labs.
type Selector struct {
	MAC         string        `json:"mac,omitempty"`
	Serial      string        `json:"serial,omitempty"`
	Fingerprint images.Digest `json:"fingerprint,omitempty"` // of its node key, as its console shows it
	Any         bool          `json:"any,omitempty"`
	Name        string        `json:"name,omitempty"`        // host name it gets; controller-0 when empty
	Personality string        `json:"personality,omitempty"` // controller when empty
	Disk        string        `json:"disk,omitempty"`
	Wipe        bool          `json:"wipe,omitempty"`
}

// Matches reports whether the machine is the selected one.
func (s *Selector) Matches(h *api.Host) bool {
	if s.MAC == "" && s.Serial == "" && s.Fingerprint == "" {
		return s.Any
	}
	return (s.MAC == "" || slices.Contains(h.MACs, strings.ToLower(s.MAC))) &&
		(s.Serial == "" || s.Serial == h.Serial) &&
		(s.Fingerprint == "" || s.Fingerprint == h.Fingerprint)
}

// ParseSite reads site.yaml. Unknown fields are errors, so that a misspelt selector does not select anything.
func ParseSite(text []byte) (*SiteFile, error) {
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("cannot read site file: %w", err)
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("cannot read site file: %w", err)
	}
	out := &SiteFile{}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(out); err != nil {
		return nil, fmt.Errorf("cannot read site file: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return out, out.validate()
}

func (f *SiteFile) validate() error {
	approval := api.Approval{Name: f.Name, Personality: "worker"}
	if f.Name == "" || approval.Validate() != nil {
		return fmt.Errorf("cannot use site name %q: want a-z, 0-9 and inner hyphens, at most 63", f.Name)
	}
	if u, err := url.Parse(f.Controller); err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("cannot use controller address %q: want https://ADDRESS:7443", f.Controller)
	}
	certs, err := parseChain([]byte(f.Root))
	if err != nil || len(certs) != 1 {
		return fmt.Errorf("cannot use root of site %s: want one PEM certificate", f.Name)
	}
	if len(f.Operators) == 0 {
		return fmt.Errorf("cannot use site file of %s: it names no operator", f.Name)
	}
	for _, o := range f.Operators {
		if _, err := images.ParseDigest(string(o.Key)); err != nil {
			return fmt.Errorf("cannot use operator %q: %w", o.Name, err)
		}
		if !slices.Contains([]string{"admin", "operator", "reader"}, o.Role) {
			return fmt.Errorf("cannot use operator %q: role %q is not admin, operator or reader", o.Name, o.Role)
		}
	}
	if err := f.Config.Components.Validate(f.Config.Interfaces); err != nil {
		return fmt.Errorf("cannot use site file of %s: %w", f.Name, err)
	}
	if err := f.Config.Resources.Validate(); err != nil {
		return fmt.Errorf("cannot use site file of %s: %w", f.Name, err)
	}
	s := f.First
	if s.MAC == "" && s.Serial == "" && s.Fingerprint == "" && !s.Any {
		return fmt.Errorf("cannot use site file of %s: first names no machine; give its mac, serial or fingerprint, or any: true", f.Name)
	}
	if s.Personality != "" && !api.Personality(s.Personality).Controls() {
		return fmt.Errorf("cannot use site file of %s: the first machine must be controller or all-in-one, not %q", f.Name, s.Personality)
	}
	return nil
}

// Encode writes site.yaml.
func (f *SiteFile) Encode() ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("cannot write site file: %w", err)
	}
	var tree yaml.Node // keeps the order of the fields, which a map would lose
	if err := yaml.Unmarshal(b, &tree); err != nil {
		return nil, fmt.Errorf("cannot write site file: %w", err)
	}
	block(&tree)
	out, err := yaml.Marshal(&tree)
	if err != nil {
		return nil, fmt.Errorf("cannot write site file: %w", err)
	}
	return out, nil
}

// block turns JSON's flow style into the block style people write.
func block(node *yaml.Node) {
	node.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	if node.Kind == yaml.ScalarNode && strings.Contains(node.Value, "\n") {
		node.Style = yaml.LiteralStyle
	}
	for _, child := range node.Content {
		block(child)
	}
}

// Secrets are what `roost site init` makes and only the operator keeps.
type Secrets struct {
	RootKey             []byte // PEM
	OperatorKey         []byte // PEM
	OperatorCertificate string // PEM
}

// NewSite makes the keys and certificates of a site and completes file with them: Root, and the first administrator
// under the given name.
func NewSite(file *SiteFile, operator string, now time.Time) (*Secrets, error) {
	rootKey, err := NewKey()
	if err != nil {
		return nil, err
	}
	root, err := NewRoot(file.Name, rootKey, now)
	if err != nil {
		return nil, err
	}
	operatorKey, err := NewKey()
	if err != nil {
		return nil, err
	}
	certificate, err := root.Operator(operatorKey.Public(), operator, now)
	if err != nil {
		return nil, err
	}
	file.Root = root.RootPEM()
	file.Operators = []Operator{{Name: operator, Key: Fingerprint(operatorKey.Public()), Role: "admin"}}
	if err := file.validate(); err != nil {
		return nil, err
	}
	secrets := &Secrets{OperatorCertificate: certificate}
	for _, pair := range []struct {
		to  *[]byte
		key *ecdsa.PrivateKey
	}{{&secrets.RootKey, rootKey}, {&secrets.OperatorKey, operatorKey}} {
		if *pair.to, err = encodeKey(pair.key); err != nil {
			return nil, err
		}
	}
	return secrets, nil
}

// RootFingerprint returns the SHA-256 of a PEM root certificate's DER, by which machines know the site.
func RootFingerprint(root string) (images.Digest, error) {
	certs, err := parseChain([]byte(root))
	if err != nil || len(certs) != 1 {
		return "", fmt.Errorf("cannot use root certificate: want one in PEM")
	}
	return images.DigestOf(certs[0].Raw), nil
}
