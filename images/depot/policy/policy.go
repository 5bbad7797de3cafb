// Package policy asks containers/image for its verdict on a release in a registry: the library under podman, skopeo and
// CRI-O, with the policy that an administrator would write for them (sigstoreSigned, use-sigstore-attachments,
// exactRepository).
//
// release.Verify is what machines trust; this is the second opinion that `roost image verify` gives to operators, written
// by others from the same specification. It is a package of its own because the library weighs more than all of depot, and
// the daemon need not carry it. Nothing of the host's own containers configuration is read.
package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/image"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
	"github.com/google/go-containerregistry/pkg/authn"
	registries "github.com/google/go-containerregistry/pkg/name"

	"roost/images"
	"roost/images/depot"
	"roost/images/release"
)

// Options says how to reach the registry.
type Options struct {
	PlainHTTP    bool           // accept HTTP and unknown certificates; on this machine that goes without saying
	Certificates string         // directory with ca.crt, client.cert and client.key, as /etc/containers/certs.d has them
	Keychain     authn.Keychain // credentials; nil: none
}

// ErrRefused is wrapped by Check when containers/image has looked at the release and its policy refuses it.
var ErrRefused = errors.New("containers/image refuses the release")

// Check reports whether containers/image accepts that one of keys (PEM, as in a trust file) signed the release at ref, which
// must name one release in a registry, as the release called name.
func Check(ctx context.Context, ref string, keys []byte, name string, o Options) error {
	r, err := depot.ParseReference(ref)
	if err != nil {
		return err
	}
	if r.Kind != depot.KindRegistry || r.Repository == "" || (r.Version == "" && r.Digest == "") {
		return fmt.Errorf("cannot check %s with containers/image: want HOST/REPOSITORY:VERSION or @DIGEST", ref)
	}
	if _, err := release.ParseKeys(keys); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "roost-policy-")
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", ref, err)
	}
	defer os.RemoveAll(dir)
	if err := check(ctx, r, dir, keys, name, o); err != nil {
		return fmt.Errorf("cannot check %s: %w", ref, err)
	}
	return nil
}

func check(ctx context.Context, r depot.Reference, dir string, keys []byte, name string, o Options) error {
	system, err := systemContext(r, dir, o)
	if err != nil {
		return err
	}
	policy, err := newPolicy(r, dir, keys, name)
	if err != nil {
		return err
	}
	defer policy.Destroy() //nolint:errcheck // it frees memory only
	which := ":" + depot.Tag(images.Version(r.Version))
	if r.Digest != "" {
		which = "@" + string(r.Digest)
	}
	reference, err := docker.ParseReference("//" + r.Host + "/" + r.Repository + which)
	if err != nil {
		return err
	}
	source, err := reference.NewImageSource(ctx, system)
	if err != nil {
		return err
	}
	defer source.Close()
	accepted, err := policy.IsRunningImageAllowed(ctx, image.UnparsedInstance(source, nil))
	if accepted && err == nil {
		return nil
	}
	var requirement signature.PolicyRequirementError
	var invalid signature.InvalidSignatureError
	if err == nil || errors.As(err, &requirement) || errors.As(err, &invalid) {
		return fmt.Errorf("%w: %v", ErrRefused, err)
	}
	return err
}

// systemContext points the library at files of ours instead of the host's.
func systemContext(r depot.Reference, dir string, o Options) (*types.SystemContext, error) {
	registries, attachments := filepath.Join(dir, "registries.conf"), filepath.Join(dir, "registries.d")
	none := filepath.Join(dir, "none")
	configuration, err := json.Marshal(map[string]any{ // JSON is YAML
		"docker": map[string]any{r.Host + "/" + r.Repository: map[string]any{"use-sigstore-attachments": true}},
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		os.Mkdir(attachments, 0o700), os.Mkdir(none, 0o700), os.WriteFile(registries, nil, 0o600),
		os.WriteFile(filepath.Join(attachments, "roost.yaml"), configuration, 0o600),
		os.WriteFile(filepath.Join(dir, "auth.json"), []byte("{}"), 0o600),
	); err != nil {
		return nil, err
	}
	certificates := o.Certificates
	if certificates == "" {
		certificates = none
	}
	system := &types.SystemContext{
		RegistriesDirPath: attachments, SystemRegistriesConfPath: registries, SystemRegistriesConfDirPath: none,
		AuthFilePath: filepath.Join(dir, "auth.json"), DockerCertPath: certificates, UserShortNameAliasConfPath: filepath.Join(dir, "aliases"),
	}
	if system.DockerAuthConfig, err = credentials(r, o.Keychain); err != nil {
		return nil, err
	}
	if o.PlainHTTP || r.Loopback() {
		system.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return system, nil
}

// credentials asks the keychain for what the registry wants; nil is none.
func credentials(r depot.Reference, keychain authn.Keychain) (*types.DockerAuthConfig, error) {
	if keychain == nil {
		return nil, nil
	}
	registry, err := registries.NewRegistry(r.Host, registries.StrictValidation)
	if err != nil {
		return nil, err
	}
	auth, err := keychain.Resolve(registry)
	if err != nil || auth == authn.Anonymous {
		return nil, err
	}
	config, err := auth.Authorization()
	if err != nil {
		return nil, err
	}
	return &types.DockerAuthConfig{Username: config.Username, Password: config.Password, IdentityToken: config.IdentityToken}, nil
}

// newPolicy refuses everything but the one repository, and there everything that no key signed under the release's name.
func newPolicy(r depot.Reference, dir string, keys []byte, name string) (*signature.PolicyContext, error) {
	identity, err := signature.NewPRMExactRepository(release.Reference(name))
	if err != nil {
		return nil, err
	}
	paths, err := splitKeys(dir, keys)
	if err != nil {
		return nil, err
	}
	signed, err := signature.NewPRSigstoreSigned(signature.PRSigstoreSignedWithKeyPaths(paths), signature.PRSigstoreSignedWithSignedIdentity(identity))
	if err != nil {
		return nil, err
	}
	return signature.NewPolicyContext(&signature.Policy{
		Default: signature.PolicyRequirements{signature.NewPRReject()},
		Transports: map[string]signature.PolicyTransportScopes{
			docker.Transport.Name(): {r.Host + "/" + r.Repository: signature.PolicyRequirements{signed}},
		},
	})
}

// splitKeys writes each key to a file of its own, as the library reads one per file.
func splitKeys(dir string, keys []byte) ([]string, error) {
	var paths []string
	for i, block := range release.SplitKeys(keys) {
		path := filepath.Join(dir, fmt.Sprintf("key-%d.pem", i))
		if err := os.WriteFile(path, block, 0o600); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}
