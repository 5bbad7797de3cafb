package release

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"roost/images"
)

// Media types and annotation of cosign's signature attachment.
const (
	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	mediaTypeImageConfig   = "application/vnd.oci.image.config.v1+json"
	mediaTypeEmpty         = "application/vnd.oci.empty.v1+json"
	annotationSignature    = "dev.cosignproject.cosign/signature"
)

// maxSignatures bounds how many signatures of one release are read, maxPayload the bytes of one payload.
const (
	maxSignatures = 64
	maxPayload    = 64 << 10
)

// SignatureTag returns the tag under which a registry holds the signatures of a manifest.
func SignatureTag(manifest images.Digest) string { return "sha256-" + manifest.Hex() + ".sig" }

// ReferrersTag returns the fallback tag of the index of what refers to a manifest (OCI distribution-spec 1.1, for
// registries without the referrers API).
func ReferrersTag(manifest images.Digest) string { return "sha256-" + manifest.Hex() }

// Attachment is a manifest beside a release, with its small blobs (config and payloads) by digest.
type Attachment struct {
	Manifest []byte
	Blobs    map[images.Digest][]byte
}

// BuildSignatures returns cosign's attachment for signatures.
func BuildSignatures(signatures []Signature) (*Attachment, error) {
	if len(signatures) == 0 || len(signatures) > maxSignatures {
		return nil, fmt.Errorf("cannot build signature attachment: want 1 to %d signatures, got %d", maxSignatures, len(signatures))
	}
	type history struct{} // cosign's readers count one entry per layer
	config := struct {
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Config       struct{}  `json:"config"`
		History      []history `json:"history"`
		RootFS       struct {
			Type    string          `json:"type"`
			DiffIDs []images.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}{}
	config.RootFS.Type = "layers"
	m := manifestJSON{SchemaVersion: 2, MediaType: MediaTypeManifest}
	a := &Attachment{Blobs: map[images.Digest][]byte{}}
	for _, s := range signatures {
		digest := images.DigestOf(s.Payload)
		a.Blobs[digest] = s.Payload
		config.History = append(config.History, history{})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest)
		m.Layers = append(m.Layers, Descriptor{
			MediaType: mediaTypeSimpleSigning, Digest: digest, Size: int64(len(s.Payload)),
			Annotations: map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(s.Bytes)},
		})
	}
	configData, err := encode(config)
	if err != nil {
		return nil, fmt.Errorf("cannot build signature attachment: %w", err)
	}
	m.Config = Descriptor{MediaType: mediaTypeImageConfig, Digest: images.DigestOf(configData), Size: int64(len(configData))}
	a.Blobs[m.Config.Digest] = configData
	if a.Manifest, err = encode(m); err != nil {
		return nil, fmt.Errorf("cannot build signature attachment: %w", err)
	}
	return a, nil
}

// ParseSignatures reads a signature attachment. It calls read for each payload; read must return the blob's bytes, whose
// digest is checked here. Layers of other media types are passed over.
func ParseSignatures(manifest []byte, read func(Descriptor) ([]byte, error)) ([]Signature, error) {
	m, err := parse(manifest, "")
	if err != nil {
		return nil, fmt.Errorf("cannot parse signature attachment: %w", err)
	}
	if len(m.Layers) > maxSignatures {
		return nil, fmt.Errorf("cannot parse signature attachment: %d signatures, limit %d", len(m.Layers), maxSignatures)
	}
	var signatures []Signature
	for i, layer := range m.Layers {
		if layer.MediaType != mediaTypeSimpleSigning {
			continue
		}
		if err := layer.validate(mediaTypeSimpleSigning, maxPayload); err != nil {
			return nil, fmt.Errorf("cannot parse signature attachment: layer %d: %w", i, err)
		}
		signature, err := base64.StdEncoding.DecodeString(layer.Annotations[annotationSignature])
		if err != nil {
			return nil, fmt.Errorf("cannot parse signature attachment: layer %d: %w", i, err)
		}
		data, err := read(layer)
		if err != nil {
			return nil, fmt.Errorf("cannot read signature payload: %w", err)
		}
		if got := images.DigestOf(data); got != layer.Digest {
			return nil, fmt.Errorf("cannot parse signature attachment: %w: payload is %s, want %s", ErrTampered, got, layer.Digest)
		}
		signatures = append(signatures, Signature{Payload: data, Bytes: signature})
	}
	return signatures, nil
}

// BuildReferrer returns the manifest that attaches one paper (SBOM, provenance) of the given media type to subject.
func BuildReferrer(subject Descriptor, mediaType string, paper []byte) (*Attachment, error) {
	empty := []byte("{}")
	subject = Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	m := manifestJSON{
		SchemaVersion: 2, MediaType: MediaTypeManifest, ArtifactType: mediaType,
		Config:  Descriptor{MediaType: mediaTypeEmpty, Digest: images.DigestOf(empty), Size: int64(len(empty))},
		Layers:  []Descriptor{{MediaType: mediaType, Digest: images.DigestOf(paper), Size: int64(len(paper))}},
		Subject: &subject,
	}
	data, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("cannot build referrer: %w", err)
	}
	return &Attachment{Manifest: data, Blobs: map[images.Digest][]byte{m.Config.Digest: empty, m.Layers[0].Digest: paper}}, nil
}

// ParseReferrer reads a manifest that BuildReferrer made: what it is attached to and the paper it attaches.
func ParseReferrer(manifest []byte) (subject, paper Descriptor, err error) {
	m := new(manifestJSON)
	if err := images.DecodeJSON(manifest, m); err != nil {
		return subject, paper, fmt.Errorf("cannot parse referrer: %w", err)
	}
	if m.MediaType != MediaTypeManifest || m.Subject == nil || len(m.Layers) != 1 {
		return subject, paper, fmt.Errorf("cannot parse referrer: want an image manifest with a subject and one layer")
	}
	for _, d := range []Descriptor{*m.Subject, m.Layers[0]} {
		if err := d.validate(d.MediaType, maxBlob); err != nil {
			return subject, paper, fmt.Errorf("cannot parse referrer: %w", err)
		}
	}
	return *m.Subject, m.Layers[0], nil
}

// Index is an OCI image index: the list of a layout directory, or of what refers to a manifest.
type Index struct {
	Manifests []Descriptor
}

// Encode returns the index as JSON.
func (x Index) Encode() ([]byte, error) {
	manifests := x.Manifests
	if manifests == nil {
		manifests = []Descriptor{} // the specification wants the list, be it empty
	}
	return encode(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []Descriptor `json:"manifests"`
	}{2, MediaTypeIndex, manifests})
}

// ParseIndex reads an OCI image index.
func ParseIndex(data []byte) (Index, error) {
	var x struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []Descriptor `json:"manifests"`
	}
	if err := images.DecodeJSON(data, &x); err != nil {
		return Index{}, fmt.Errorf("cannot parse index: %w", err)
	}
	if x.SchemaVersion != 2 || (x.MediaType != "" && x.MediaType != MediaTypeIndex) {
		return Index{}, fmt.Errorf("cannot parse index: schema version %d, media type %q", x.SchemaVersion, x.MediaType)
	}
	for _, d := range x.Manifests {
		if _, err := images.ParseDigest(string(d.Digest)); err != nil {
			return Index{}, fmt.Errorf("cannot parse index: %w", err)
		}
		if d.Size < 0 {
			return Index{}, fmt.Errorf("cannot parse index: size of %s is %d", d.Digest, d.Size)
		}
	}
	return Index{Manifests: x.Manifests}, nil
}

// Blobs returns the config and the layers of any OCI image manifest: what must be copied with it. Layers that the image
// specification calls non-distributable are elsewhere by definition.
func Blobs(manifest []byte) ([]Descriptor, error) {
	m := new(manifestJSON)
	if err := images.DecodeJSON(manifest, m); err != nil {
		return nil, fmt.Errorf("cannot parse manifest: %w", err)
	}
	if m.SchemaVersion != 2 || m.Config.Digest == "" {
		return nil, fmt.Errorf("cannot parse manifest: want an OCI image manifest")
	}
	blobs := append([]Descriptor{m.Config}, m.Layers...)
	blobs = slices.DeleteFunc(blobs, func(d Descriptor) bool { return strings.Contains(d.MediaType, ".nondistributable.") })
	for _, d := range blobs {
		if _, err := images.ParseDigest(string(d.Digest)); err != nil {
			return nil, fmt.Errorf("cannot parse manifest: %w", err)
		}
		if d.Size < 0 || d.Size > maxBlob {
			return nil, fmt.Errorf("cannot parse manifest: blob %s has %d bytes, limit %d", d.Digest, d.Size, int64(maxBlob))
		}
	}
	return blobs, nil
}
