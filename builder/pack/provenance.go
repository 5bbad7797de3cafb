package pack

import (
	"context"
	"encoding/json"
	"io"

	"roost/images"
)

// statement is an in-toto v1 statement with an SLSA v1 provenance predicate.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     provenance `json:"predicate"`
}

type provenance struct {
	Definition definition `json:"buildDefinition"`
	Details    details    `json:"runDetails"`
}

type definition struct {
	Type         string            `json:"buildType"`
	External     map[string]string `json:"externalParameters"`
	Dependencies []resource        `json:"resolvedDependencies"`
}

type details struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
}

type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

func resourceOf(name, uri string, d images.Digest) resource {
	return resource{Name: name, URI: uri, Digest: map[string]string{"sha256": d.Hex()}}
}

// makeProvenance states what the parts were made of. It has no times and names no machine: the same inputs give the same
// statement, which is what makes it checkable by building again.
func makeProvenance(ctx context.Context, s stages, in Input, a *Artifacts) (File, error) {
	st := statement{Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1"}
	for _, kind := range images.Kinds() {
		st.Subject = append(st.Subject, resourceOf(string(kind), "", a.Release.Part(kind).Digest))
	}
	st.Subject = append(st.Subject, resourceOf("release.json", "", images.DigestOf(a.Document)))
	st.Predicate.Details.Builder.ID = "https://roost.local/builder"
	d := &st.Predicate.Definition
	d.Type = "https://roost.local/build/v1"
	d.External = map[string]string{"recipe": in.Name, "version": string(in.Version), "architecture": in.Architecture}
	d.Dependencies = append(d.Dependencies, resourceOf("lock", "", in.Lock))
	for _, p := range in.Packages {
		if p.Digest != "" {
			d.Dependencies = append(d.Dependencies, resourceOf("", purl(p), p.Digest))
		}
	}
	for _, m := range in.Materials {
		d.Dependencies = append(d.Dependencies, resourceOf("", m.URI, m.Digest))
	}
	text, err := json.Marshal(st)
	if err != nil {
		return File{}, err
	}
	return s.one(ctx, "provenance", keyOf("provenance 1", string(text)), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}
