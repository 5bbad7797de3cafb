package images

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Schema is the version of the release document that this package writes and reads. Fields may be added under the same
// number, readers ignore those they do not know; a change that an old reader must not ignore takes a new number.
const Schema = 1

// MaxDocument is the size limit of a release document and of every other JSON document of a release, in bytes: what OCI
// registries are asked to take as a manifest.
const MaxDocument = 4 << 20

// Encode returns the canonical JSON of a valid release: fields in the order of the type, no spaces, no HTML escapes, one
// newline at the end. Equal releases give equal bytes.
func (r *Release) Encode() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("cannot encode release document: %w", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("cannot encode release document: %w", err)
	}
	if b.Len() > MaxDocument {
		return nil, fmt.Errorf("cannot encode release document: %d bytes, limit %d", b.Len(), MaxDocument)
	}
	return b.Bytes(), nil
}

// DecodeRelease reads a release document and validates it. A document of a newer schema is refused.
func DecodeRelease(data []byte) (*Release, error) {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := DecodeJSON(data, &head); err != nil {
		return nil, fmt.Errorf("cannot decode release document: %w", err)
	}
	if head.Schema != Schema {
		return nil, fmt.Errorf("cannot decode release document: schema %d, this program knows %d only", head.Schema, Schema)
	}
	r := new(Release)
	if err := DecodeJSON(data, r); err != nil {
		return nil, fmt.Errorf("cannot decode release document: %w", err)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("cannot decode release document: %w", err)
	}
	return r, nil
}

// DecodeJSON decodes one JSON object from data into v, as strictly as signed documents deserve: at most MaxDocument bytes,
// nesting of at most 16, nothing after the object, and no object with two names that encoding/json would take for one
// (names that differ in case only), so that no two readers can see two different documents.
func DecodeJSON(data []byte, v any) error {
	if len(data) > MaxDocument {
		return fmt.Errorf("%d bytes, limit %d", len(data), MaxDocument)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if token, err := d.Token(); err != nil {
		return err
	} else if token != json.Delim('{') {
		return fmt.Errorf("want a JSON object, got %v", token)
	}
	if err := checkObject(d, 1); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("want nothing after the JSON object")
	}
	return json.Unmarshal(data, v)
}

const maxDepth = 16

func checkObject(d *json.Decoder, depth int) error {
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		name := strings.ToLower(token.(string)) // inside an object the decoder yields names as strings only
		if seen[name] {
			return fmt.Errorf("duplicate name %q", token)
		}
		seen[name] = true
		if err := checkValue(d, depth); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func checkValue(d *json.Decoder, depth int) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	if _, nested := token.(json.Delim); nested && depth >= maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch token {
	case json.Delim('{'):
		return checkObject(d, depth+1)
	case json.Delim('['):
		for d.More() {
			if err := checkValue(d, depth+1); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	}
	return nil
}
