package container

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
)

// checkSignature asks containers/image whether key (PEM) signed the manifest with this digest, as an image of its
// repository: policy sigstoreSigned, with the signature attached in the registry as cosign does. Nothing of the host's own
// containers configuration is read.
func checkSignature(ctx context.Context, repository registries.Repository, digest string, key []byte, keychain authn.Keychain) error {
	dir, err := os.MkdirTemp("", "roost-policy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	system, err := systemContext(repository, dir, keychain)
	if err != nil {
		return err
	}
	signed, err := signature.NewPRSigstoreSigned(signature.PRSigstoreSignedWithKeyData(key), signature.PRSigstoreSignedWithSignedIdentity(signature.NewPRMMatchRepository()))
	if err != nil {
		return fmt.Errorf("cannot use the key that must have signed it: %w", err)
	}
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signed}})
	if err != nil {
		return err
	}
	defer policy.Destroy() //nolint:errcheck // it frees memory only
	reference, err := docker.ParseReference("//" + repository.Name() + "@" + digest)
	if err != nil {
		return err
	}
	source, err := reference.NewImageSource(ctx, system)
	if err != nil {
		return err
	}
	defer source.Close()
	accepted, err := policy.IsRunningImageAllowed(ctx, image.UnparsedInstance(source, nil))
	if err == nil && !accepted {
		err = errors.New("no reason given")
	}
	if err != nil {
		return fmt.Errorf("it is not signed as the recipe wants: %w", err)
	}
	return nil
}

// systemContext points the library at files of ours instead of the host's.
func systemContext(repository registries.Repository, dir string, keychain authn.Keychain) (*types.SystemContext, error) {
	attachments, none := filepath.Join(dir, "registries.d"), filepath.Join(dir, "none")
	configuration, err := json.Marshal(map[string]any{ // JSON is YAML
		"docker": map[string]any{repository.Name(): map[string]any{"use-sigstore-attachments": true}},
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		os.Mkdir(attachments, 0o700), os.Mkdir(none, 0o700), os.WriteFile(filepath.Join(dir, "registries.conf"), nil, 0o600),
		os.WriteFile(filepath.Join(attachments, "roost.yaml"), configuration, 0o600),
		os.WriteFile(filepath.Join(dir, "auth.json"), []byte("{}"), 0o600),
	); err != nil {
		return nil, err
	}
	system := &types.SystemContext{
		RegistriesDirPath: attachments, SystemRegistriesConfPath: filepath.Join(dir, "registries.conf"), SystemRegistriesConfDirPath: none,
		AuthFilePath: filepath.Join(dir, "auth.json"), DockerCertPath: none, UserShortNameAliasConfPath: filepath.Join(dir, "aliases"),
	}
	if repository.Registry.Scheme() == "http" { // a registry on this computer
		system.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	if keychain == nil {
		return system, nil
	}
	auth, err := keychain.Resolve(repository.Registry)
	if err != nil || auth == authn.Anonymous {
		return system, err
	}
	config, err := auth.Authorization()
	if err != nil {
		return nil, err
	}
	system.DockerAuthConfig = &types.DockerAuthConfig{Username: config.Username, Password: config.Password, IdentityToken: config.IdentityToken}
	return system, nil
}
