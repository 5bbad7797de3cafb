package pack

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"roost/builder/tree"
)

// spdx is the part of an SPDX 2.3 document that we write.
type spdx struct {
	Version       string             `json:"spdxVersion"`
	License       string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Files         []spdxFile         `json:"files"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID           string            `json:"SPDXID"`
	Name         string            `json:"name"`
	Version      string            `json:"versionInfo,omitempty"`
	Source       string            `json:"sourceInfo,omitempty"`
	Purpose      string            `json:"primaryPackagePurpose,omitempty"`
	Location     string            `json:"downloadLocation"`
	Analyzed     bool              `json:"filesAnalyzed"`
	Verification *spdxVerification `json:"packageVerificationCode,omitempty"`
	Checksums    []spdxChecksum    `json:"checksums,omitempty"`
	References   []spdxReference   `json:"externalRefs,omitempty"`
	Comment      string            `json:"comment,omitempty"`
}

type spdxVerification struct {
	Value string `json:"packageVerificationCodeValue"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxReference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxFile struct {
	ID        string         `json:"SPDXID"`
	Name      string         `json:"fileName"`
	Checksums []spdxChecksum `json:"checksums"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const (
	documentID = "SPDXRef-DOCUMENT"
	imageID    = "SPDXRef-Image"
	recipeID   = "SPDXRef-Recipe"
	contains   = "CONTAINS"
)

// makeSBOM writes which packages, files and Go modules an image holds. Every file belongs to a package, or to the recipe.
func makeSBOM(ctx context.Context, s stages, in Input) (File, error) {
	packages, err := json.Marshal(in.Packages)
	if err != nil {
		return File{}, err
	}
	initrd, err := goProgram(in.Init)
	if err != nil {
		return File{}, fmt.Errorf("cannot read the initrd's program: %w", err)
	}
	key := keyOf("sbom 2", fmt.Sprint(initrd), in.Name, string(in.Version), in.Architecture, fmt.Sprint(in.Created.Unix()), string(in.Tree.Digest()), string(packages))
	return s.one(ctx, "SBOM", key, func(w io.Writer) error {
		sums, err := fileSums(ctx, in)
		if err != nil {
			return err
		}
		programs, err := goPrograms(in)
		if err != nil {
			return err
		}
		programs[initrdProgram] = initrd
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return e.Encode(sbomOf(in, key, sums, programs))
	})
}

// fileSums returns the SHA-1 of every content, which SPDX demands beside the digest that we have.
func fileSums(ctx context.Context, in Input) (map[string]string, error) {
	var digests []string
	entries := map[string]tree.Entry{}
	for _, e := range in.Tree.Entries() {
		if _, known := entries[string(e.Blob)]; e.Type == tree.File && !known {
			entries[string(e.Blob)] = e
			digests = append(digests, string(e.Blob))
		}
	}
	sums := make([]string, len(digests))
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for worker := range workers {
		group.Go(func() error {
			h := sha1.New()
			for i := worker; i < len(digests); i += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				r, err := in.Store.Open(entries[digests[i]].Blob)
				if err != nil {
					return err
				}
				h.Reset()
				_, err = io.Copy(h, r)
				if err := r.Close(); err != nil {
					return err
				}
				if err != nil {
					return err
				}
				sums[i] = hex.EncodeToString(h.Sum(nil))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	byDigest := make(map[string]string, len(digests))
	for i, d := range digests {
		byDigest[d] = sums[i]
	}
	return byDigest, nil
}

// sbomOf writes the document; sums is the SHA-1 of each content by its digest, programs what Go programs say of themselves.
func sbomOf(in Input, key string, sums map[string]string, programs map[string]*debug.BuildInfo) *spdx {
	doc := &spdx{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: documentID, Name: fmt.Sprintf("%s-%s", in.Name, in.Version),
		Namespace: fmt.Sprintf("https://roost.local/spdx/%s/%s/%s", in.Name, url.PathEscape(string(in.Version)), key[:32]),
		Creation:  spdxCreation{in.Created.Format("2006-01-02T15:04:05Z"), []string{"Tool: roost"}},
	}
	doc.Packages = append(doc.Packages, spdxPackage{
		ID: imageID, Name: in.Name, Version: string(in.Version), Purpose: "OPERATING-SYSTEM", Location: "NOASSERTION",
	})
	doc.relate(documentID, "DESCRIBES", imageID)

	owner := map[string]int{} // path to package
	for i, p := range in.Packages {
		for _, f := range p.Files {
			owner[f] = i
		}
	}
	owned := make([][]string, len(in.Packages)+1) // ids of files; the last are the recipe's
	codes := make([][]string, len(in.Packages)+1)
	for _, e := range in.Tree.Entries() {
		if e.Type != tree.File {
			continue
		}
		i, ok := owner[e.Path]
		if !ok {
			i = len(in.Packages)
		}
		id, sum := fmt.Sprintf("SPDXRef-File-%d", len(doc.Files)), sums[string(e.Blob)]
		doc.Files = append(doc.Files, spdxFile{id, "." + e.Path, []spdxChecksum{{"SHA1", sum}, {"SHA256", e.Blob.Hex()}}})
		owned[i], codes[i] = append(owned[i], id), append(codes[i], sum)
	}
	for i, p := range in.Packages {
		doc.add(debianPackage(p, i), owned[i], codes[i])
	}
	known := map[string]string{}
	for _, f := range doc.Files {
		if info := cmp.Or(programs["sha256:"+f.Checksums[1].Value], programs[strings.TrimPrefix(f.Name, ".")]); info != nil {
			doc.modules(f.ID, info, known)
		}
	}
	if info := programs[initrdProgram]; info != nil {
		doc.modules(imageID, info, known)
	}
	doc.add(spdxPackage{
		ID: recipeID, Name: in.Name + "-recipe", Version: string(in.Version), Location: "NOASSERTION",
		Comment: "files that the recipe adds or changes, or that assembly makes from the packages: accounts, indexes, presets, programs",
	}, owned[len(in.Packages)], codes[len(in.Packages)])
	return doc
}

func debianPackage(p Package, number int) spdxPackage {
	out := spdxPackage{
		ID: fmt.Sprintf("SPDXRef-Package-%d", number), Name: p.Name, Version: p.Version, Location: "NOASSERTION",
		References: []spdxReference{{"PACKAGE-MANAGER", "purl", purl(p)}},
	}
	if p.Source != "" {
		out.Source = fmt.Sprintf("built from source package: %s %s", p.Source, p.SourceVersion)
	}
	if p.Digest != "" {
		out.Checksums = []spdxChecksum{{"SHA256", p.Digest.Hex()}}
	}
	return out
}

// add puts a package and its files into the document.
func (doc *spdx) add(p spdxPackage, files, sums []string) {
	if len(files) > 0 {
		slices.Sort(sums)
		code := sha1.Sum([]byte(strings.Join(sums, ""))) // SPDX 2.3, 7.9
		p.Analyzed, p.Verification = true, &spdxVerification{hex.EncodeToString(code[:])}
	}
	doc.Packages = append(doc.Packages, p)
	doc.relate(imageID, contains, p.ID)
	for _, f := range files {
		doc.relate(p.ID, contains, f)
	}
}

func (doc *spdx) relate(from, kind, to string) {
	doc.Relationships = append(doc.Relationships, spdxRelationship{from, kind, to})
}

// purl names a Debian package (package-url's debian type).
func purl(p Package) string {
	query := url.Values{"arch": {p.Architecture}}
	if p.Source != "" && (p.Source != p.Name || p.SourceVersion != p.Version) {
		query.Set("upstream", p.Source+"@"+p.SourceVersion)
	}
	return "pkg:deb/debian/" + purlEscape(p.Name) + "@" + purlEscape(p.Version) + "?" + query.Encode()
}

// purlEscape escapes as package URLs ask: '+' too, ':' not.
func purlEscape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(url.PathEscape(s), "+", "%2B"), "%3A", ":")
}
