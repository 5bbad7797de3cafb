package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"roost/images"
)

// Media types and annotations that the OCI image specification 1.1 and cosign fix.
const (
	MediaTypeManifest = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeIndex    = "application/vnd.oci.image.index.v1+json"

	annotationTitle   = "org.opencontainers.image.title"
	annotationVersion = "org.opencontainers.image.version"
	annotationCreated = "org.opencontainers.image.created"
)

// maxBlob is the largest transported part that a manifest may name, in bytes.
const maxBlob = 64 << 30

// Descriptor names a blob in a depot: its bytes as transported.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       images.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

func (d Descriptor) validate(mediaType string, limit int64) error {
	if d.MediaType != mediaType {
		return fmt.Errorf("want media type %s, got %q", mediaType, d.MediaType)
	}
	if _, err := images.ParseDigest(string(d.Digest)); err != nil {
		return err
	}
	if d.Size <= 0 || d.Size > limit {
		return fmt.Errorf("want a size of 1 to %d bytes, got %d", limit, d.Size)
	}
	return nil
}

// Manifest is the parsed OCI manifest of a release.
type Manifest struct {
	Digest images.Digest // of the manifest's bytes: the identity of the release
	Size   int64         // of the manifest, in bytes
	Config Descriptor    // the release document
	Parts  map[images.Kind]Descriptor
}

// manifestJSON is an OCI image manifest as every manifest of this package has it.
type manifestJSON struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        Descriptor        `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// BuildManifest returns the manifest of the release whose document is given, encoded, and whose parts are transported as
// blobs say. Of a blob, Digest and Size count; media type and title are set here. Equal input gives equal bytes.
func BuildManifest(document []byte, blobs map[images.Kind]Descriptor) ([]byte, error) {
	r, err := images.DecodeRelease(document)
	if err != nil {
		return nil, fmt.Errorf("cannot build manifest: %w", err)
	}
	m := manifestJSON{
		SchemaVersion: 2, MediaType: MediaTypeManifest, ArtifactType: images.MediaTypeRelease,
		Config: Descriptor{MediaType: images.MediaTypeConfig, Digest: images.DigestOf(document), Size: int64(len(document))},
		Annotations: map[string]string{
			annotationTitle: r.Name, annotationVersion: string(r.Version), annotationCreated: r.Created.Format(time.RFC3339),
		},
	}
	for _, kind := range images.Kinds() {
		blob, ok := blobs[kind]
		if !ok {
			return nil, fmt.Errorf("cannot build manifest: part %s is missing", kind)
		}
		m.Layers = append(m.Layers, Descriptor{
			MediaType: kind.MediaType(), Digest: blob.Digest, Size: blob.Size,
			Annotations: map[string]string{annotationTitle: string(kind)},
		})
	}
	data, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("cannot build manifest: %w", err)
	}
	// What this function writes, the strict reader must read.
	parsed, err := ParseManifest(data)
	if err == nil {
		err = parsed.matches(r)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot build manifest: %w", err)
	}
	return data, nil
}

// ParseManifest reads the manifest of a release. It refuses other artifacts, missing, doubled and unknown parts.
func ParseManifest(data []byte) (*Manifest, error) {
	m, err := parse(data, images.MediaTypeRelease)
	if err != nil {
		return nil, fmt.Errorf("cannot parse release manifest: %w", err)
	}
	if m.Subject != nil {
		return nil, fmt.Errorf("cannot parse release manifest: it is an attachment of %s", m.Subject.Digest)
	}
	if err := m.Config.validate(images.MediaTypeConfig, images.MaxDocument); err != nil {
		return nil, fmt.Errorf("cannot parse release manifest: config: %w", err)
	}
	kinds := images.Kinds()
	if len(m.Layers) != len(kinds) {
		return nil, fmt.Errorf("cannot parse release manifest: want %d layers, got %d", len(kinds), len(m.Layers))
	}
	parts := make(map[images.Kind]Descriptor, len(kinds))
	for i, kind := range kinds {
		layer := m.Layers[i]
		if title := layer.Annotations[annotationTitle]; title != string(kind) {
			return nil, fmt.Errorf("cannot parse release manifest: layer %d: want title %s, got %q", i, kind, title)
		}
		if err := layer.validate(kind.MediaType(), maxBlob); err != nil {
			return nil, fmt.Errorf("cannot parse release manifest: layer %s: %w", kind, err)
		}
		parts[kind] = layer
	}
	return &Manifest{Digest: images.DigestOf(data), Size: int64(len(data)), Config: m.Config, Parts: parts}, nil
}

// Descriptor returns the descriptor under which an index names the manifest.
func (m *Manifest) Descriptor() Descriptor {
	return Descriptor{MediaType: MediaTypeManifest, Digest: m.Digest, Size: m.Size, ArtifactType: images.MediaTypeRelease}
}

// matches checks that the parts that travel as they are used are described alike in document and manifest.
func (m *Manifest) matches(r *images.Release) error {
	for kind, blob := range m.Parts {
		part := r.Part(kind)
		if !kind.Compressed() && (part.Digest != blob.Digest || part.Size != blob.Size) {
			return fmt.Errorf("part %s is %s (%d bytes) in the manifest, %s (%d bytes) in the document", kind, blob.Digest, blob.Size, part.Digest, part.Size)
		}
	}
	return nil
}

// parse reads an OCI image manifest of one artifact type.
func parse(data []byte, artifactType string) (*manifestJSON, error) {
	m := new(manifestJSON)
	if err := images.DecodeJSON(data, m); err != nil {
		return nil, err
	}
	if m.SchemaVersion != 2 || m.MediaType != MediaTypeManifest {
		return nil, fmt.Errorf("want an OCI image manifest, got schema version %d, media type %q", m.SchemaVersion, m.MediaType)
	}
	if m.ArtifactType != artifactType {
		return nil, fmt.Errorf("want artifact type %q, got %q", artifactType, m.ArtifactType)
	}
	return m, nil
}

// encode marshals v without spaces and without HTML escapes.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
