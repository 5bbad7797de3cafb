package pack_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"
	"google.golang.org/protobuf/encoding/protojson"
)

// judgeSBOM has SPDX's own library read a document, into exactly the fields that version 2.3 knows and without a loss, and
// checks what the specification says beyond that.
func judgeSBOM(t *testing.T, text []byte) {
	t.Helper()
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields() // holds for the document's own fields; their types read themselves
	doc := &v2_3.Document{}
	if err := strict.Decode(doc); err != nil {
		t.Fatalf("no SPDX document: %v", err)
	}
	again, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &got); err != nil {
		t.Fatal(err)
	}
	for field := range want {
		if !kept(want[field], got[field]) {
			t.Errorf("SPDX's library does not know all of %s: %.300v, of %.300v", field, got[field], want[field])
		}
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Errorf("relationships: %v", err)
	}
	if doc.SPDXVersion != spdx.Version || doc.DataLicense != spdx.DataLicense || doc.SPDXIdentifier != "DOCUMENT" {
		t.Errorf("document %q %q %q", doc.SPDXVersion, doc.DataLicense, doc.SPDXIdentifier)
	}
	if described, err := spdxlib.GetDescribedPackageIDs(doc); err != nil || len(described) != 1 {
		t.Errorf("it describes %v, %v", described, err)
	}
	judgeElements(t, doc)
}

var (
	spdxID    = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)                               // SPDX 2.3, 7.2
	spdxSpace = regexp.MustCompile(`^https?://[^#]+$`)                               // 6.5: no fragment
	spdxTime  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)              // 6.9
	spdxTool  = regexp.MustCompile(`^(Tool|Organization|Person): .+`)                // 6.8
	lengths   = map[common.ChecksumAlgorithm]int{common.SHA1: 40, common.SHA256: 64} // hexadecimal digits
)

// judgeElements checks packages and files against sections 6 to 8.
func judgeElements(t *testing.T, doc *v2_3.Document) {
	t.Helper()
	info := doc.CreationInfo
	if !spdxSpace.MatchString(doc.DocumentNamespace) || !spdxTime.MatchString(info.Created) || len(info.Creators) == 0 {
		t.Errorf("namespace %q, created %q by %v", doc.DocumentNamespace, info.Created, info.Creators)
	}
	for _, c := range info.Creators {
		if !spdxTool.MatchString(c.CreatorType + ": " + c.Creator) {
			t.Errorf("creator %+v", c)
		}
	}
	ids := map[common.ElementID]bool{doc.SPDXIdentifier: true}
	element := func(id common.ElementID) {
		if ids[id] || !spdxID.MatchString(string(id)) {
			t.Errorf("identifier %q is twice there or malformed", id)
		}
		ids[id] = true
	}
	sums := func(of string, list []common.Checksum) (sha1 bool) {
		for _, c := range list {
			if len(c.Value) != lengths[c.Algorithm] || strings.Trim(c.Value, "0123456789abcdef") != "" {
				t.Errorf("%s has checksum %+v", of, c)
			}
			sha1 = sha1 || c.Algorithm == common.SHA1
		}
		return sha1
	}
	for _, p := range doc.Packages {
		element(p.PackageSPDXIdentifier)
		sums(p.PackageName, p.PackageChecksums)
		if p.PackageName == "" || p.PackageDownloadLocation == "" || p.FilesAnalyzed != (p.PackageVerificationCode != nil) {
			t.Errorf("package %+v", p)
		}
		for _, r := range p.PackageExternalReferences {
			if r.Category != common.CategoryPackageManager || r.RefType != common.TypePackageManagerPURL || !strings.HasPrefix(r.Locator, "pkg:") {
				t.Errorf("%s refers to %+v", p.PackageName, r)
			}
		}
	}
	for _, f := range doc.Files {
		element(f.FileSPDXIdentifier)
		if !sums(f.FileName, f.Checksums) || !strings.HasPrefix(f.FileName, "./") {
			t.Errorf("file %+v", f)
		}
	}
	for _, r := range doc.Relationships {
		if !ids[r.RefA.ElementRefID] || !ids[r.RefB.ElementRefID] {
			t.Errorf("relationship %+v names what is not there", r)
		}
	}
}

// kept reports whether all of want is in got too; got may have more, as zero values.
func kept(want, got any) bool {
	switch want := want.(type) {
	case map[string]any:
		other, ok := got.(map[string]any)
		for k, v := range want {
			ok = ok && kept(v, other[k])
		}
		return ok
	case []any:
		other, ok := got.([]any)
		ok = ok && len(other) == len(want)
		for i := range want {
			ok = ok && kept(want[i], other[i])
		}
		return ok
	case bool:
		return want == (got == true)
	}
	return reflect.DeepEqual(want, got)
}

// judgeProvenance has in-toto's own library read a statement: unknown fields and missing ones are errors.
func judgeProvenance(t *testing.T, text []byte) {
	t.Helper()
	statement := &intoto.Statement{}
	if err := protojson.Unmarshal(text, statement); err != nil {
		t.Fatalf("no in-toto statement: %v", err)
	}
	if err := statement.Validate(); err != nil {
		t.Errorf("statement: %v", err)
	}
	predicate, err := protojson.Marshal(statement.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	provenance := &slsa.Provenance{}
	if err := protojson.Unmarshal(predicate, provenance); err != nil {
		t.Fatalf("no SLSA provenance: %v", err)
	}
	if err := provenance.Validate(); err != nil {
		t.Errorf("provenance: %v", err)
	}
}
