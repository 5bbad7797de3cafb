package release_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"roost/images"
	"roost/images/imagestest"
	"roost/images/release"
	"roost/images/release/releasetest"
)

func TestVerifyAccepts(t *testing.T) {
	key, other := releasetest.Key(t), releasetest.Key(t)
	r := imagestest.Release("edge", "2")
	both := releasetest.Bundle(t, r, other, key)
	digest := images.DigestOf(both.Manifest)
	trusted := []*ecdsa.PublicKey{&key.PublicKey}
	for name, p := range map[string]release.Policy{
		"bare":               {Keys: trusted},
		"all fields":         {Keys: trusted, Name: "edge", Architecture: "amd64", Floor: "1", Current: release.Current{Version: "1.9", Digest: "sha256:x"}},
		"at the floor":       {Keys: trusted, Floor: "2"},
		"second trusted key": {Keys: []*ecdsa.PublicKey{&releasetest.Key(t).PublicKey, &key.PublicKey}},
		"forced downgrade":   {Keys: trusted, Current: release.Current{Version: "3"}, Force: true},
		"forced rebuild":     {Keys: trusted, Current: release.Current{Version: "2", Digest: "sha256:x"}, Force: true},
		"already there":      {Keys: trusted, Current: release.Current{Version: "2", Digest: digest}, Floor: "2"},
	} {
		v, err := release.Verify(both, p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if v.Manifest.Digest != digest || v.Release.Version != "2" || !v.Key.Equal(&key.PublicKey) || v.Already != (name == "already there") {
			t.Errorf("%s: verdict %+v", name, v)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := releasetest.Key(t), releasetest.Key(t)
	good := releasetest.Bundle(t, imagestest.Release("edge", "2"), key)
	next := releasetest.Bundle(t, imagestest.Release("edge", "3"), key)
	renamed := releasetest.Bundle(t, imagestest.Release("core", "2"), key)
	digest := images.DigestOf(good.Manifest)
	policy := release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Name: "edge", Architecture: "amd64"}
	changed := func(change func(b *release.Bundle)) release.Bundle {
		b := release.Bundle{Manifest: bytes.Clone(good.Manifest), Document: bytes.Clone(good.Document)}
		for _, s := range good.Signatures {
			b.Signatures = append(b.Signatures, release.Signature{Payload: bytes.Clone(s.Payload), Bytes: bytes.Clone(s.Bytes)})
		}
		change(&b)
		return b
	}
	with := func(change func(p *release.Policy)) release.Policy {
		p := policy
		change(&p)
		return p
	}
	cases := []struct {
		name   string
		bundle release.Bundle
		policy release.Policy
		want   error
	}{
		{"no signature", changed(func(b *release.Bundle) { b.Signatures = nil }), policy, release.ErrUnsigned},
		{"wrong key", releasetest.Bundle(t, imagestest.Release("edge", "2"), other), policy, release.ErrWrongKey},
		{"no trusted key", good, release.Policy{}, release.ErrWrongKey},
		{"foreign payload of unknown signer", changed(func(b *release.Bundle) { b.Signatures[0].Payload = []byte("{}") }), policy, release.ErrWrongKey},
		{"manifest flipped", changed(func(b *release.Bundle) { b.Manifest[20] ^= 1 }), policy, release.ErrTampered},
		{"manifest of another version", changed(func(b *release.Bundle) { b.Manifest, b.Document = next.Manifest, next.Document }), policy, release.ErrTampered},
		{"document flipped", changed(func(b *release.Bundle) { b.Document[20] ^= 1 }), policy, release.ErrTampered},
		{"document of another version", changed(func(b *release.Bundle) { b.Document = next.Document }), policy, release.ErrTampered},
		{"signature flipped", changed(func(b *release.Bundle) { b.Signatures[0].Bytes[9] ^= 1 }), policy, release.ErrTampered},
		{"signature empty", changed(func(b *release.Bundle) { b.Signatures[0].Bytes = nil }), policy, release.ErrTampered},
		{"payload changed", changed(func(b *release.Bundle) {
			b.Signatures[0].Payload = bytes.Replace(b.Signatures[0].Payload, []byte("/edge"), []byte("/core"), 1)
		}), policy, release.ErrTampered},
		{"another name", renamed, policy, release.ErrIdentity},
		{"signed under another name", misnamed(t, key), with(func(p *release.Policy) { p.Name = "" }), release.ErrIdentity},
		{"payload of another type", signRaw(good, key, "atomic container signature"), policy, release.ErrIdentity},
		{"architecture", good, with(func(p *release.Policy) { p.Architecture = "arm64" }), release.ErrArchitecture},
		{"older", good, with(func(p *release.Policy) { p.Current = release.Current{Version: "2.1"} }), release.ErrOlder},
		{"rebuilt", good, with(func(p *release.Policy) { p.Current = release.Current{Version: "2", Digest: "sha256:x"} }), release.ErrOlder},
		{"below floor", good, with(func(p *release.Policy) { p.Floor = "2.0.1" }), release.ErrFloor},
		{"below floor, forced", good, with(func(p *release.Policy) { p.Floor, p.Force = "2.0.1", true }), release.ErrFloor},
		{"refused", good, with(func(p *release.Policy) { p.Refused = []images.Digest{"sha256:y", digest} }), release.ErrRefused},
		{"refused, forced", good, with(func(p *release.Policy) { p.Refused, p.Force = []images.Digest{digest}, true }), release.ErrRefused},
	}
	verdicts := []error{release.ErrUnsigned, release.ErrWrongKey, release.ErrTampered, release.ErrIdentity, release.ErrArchitecture, release.ErrOlder, release.ErrFloor, release.ErrRefused}
	for _, c := range cases {
		v, err := release.Verify(c.bundle, c.policy)
		if v != nil || err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, verdict := range verdicts {
			if errors.Is(err, verdict) != (verdict == c.want) {
				t.Errorf("%s: got %v, want %v", c.name, err, c.want)
			}
		}
	}
}

// misnamed returns a release whose signature says core and whose document says edge.
func misnamed(t *testing.T, key *ecdsa.PrivateKey) release.Bundle {
	b := releasetest.Bundle(t, imagestest.Release("edge", "2"))
	s, err := release.Sign(key, "core", images.DigestOf(b.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	b.Signatures = []release.Signature{s}
	return b
}

// signRaw signs b with a payload of another type, as a key that is used for more than releases might.
func signRaw(b release.Bundle, key *ecdsa.PrivateKey, payloadType string) release.Bundle {
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"roost.local/edge"},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`,
		images.DigestOf(b.Manifest), payloadType)
	sum := sha256.Sum256(payload)
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		panic(err)
	}
	b.Signatures = []release.Signature{{Payload: payload, Bytes: signature}}
	return b
}

// TestVerifyForeignSigner accepts what cosign itself writes: no key hint, "optional" null.
func TestVerifyForeignSigner(t *testing.T) {
	key := releasetest.Key(t)
	b := signRaw(releasetest.Bundle(t, imagestest.Release("edge", "2")), key, "cosign container image signature")
	if _, err := release.Verify(b, release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Name: "edge"}); err != nil {
		t.Error(err)
	}
}

// TestVerifyEveryFlippedBit flips each bit of manifest, document and payload: none may pass.
func TestVerifyEveryFlippedBit(t *testing.T) {
	key := releasetest.Key(t)
	b := releasetest.Bundle(t, imagestest.Release("edge", "2"), key)
	p := release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Name: "edge"}
	for what, data := range map[string][]byte{"manifest": b.Manifest, "document": b.Document, "payload": b.Signatures[0].Payload} {
		for i := range data {
			data[i] ^= 1 << (i % 8)
			if _, err := release.Verify(b, p); err == nil {
				t.Errorf("%s accepted with byte %d flipped", what, i)
			}
			data[i] ^= 1 << (i % 8)
		}
	}
	if _, err := release.Verify(b, p); err != nil {
		t.Errorf("restored release: %v", err)
	}
}

type brokenSigner struct{ *ecdsa.PrivateKey }

func (brokenSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return []byte("nonsense"), nil
}

func TestSignRefuses(t *testing.T) {
	digest := images.DigestOf(nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := releasetest.Key(t)
	for _, c := range []struct {
		signer crypto.Signer
		name   string
		digest images.Digest
		want   string
	}{
		{rsaKey, "edge", digest, "P-256"}, {p384, "edge", digest, "P-256"}, {key, "Edge", digest, "name"},
		{key, "edge", "sha256:1", "digest"}, {brokenSigner{key}, "edge", digest, "does not verify"},
	} {
		if _, err := release.Sign(c.signer, c.name, c.digest); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want an error with %q, got %v", c.want, err)
		}
	}
}

func TestParseKeys(t *testing.T) {
	a, b := releasetest.Key(t), releasetest.Key(t)
	file := slices.Concat(releasetest.PEM(t, &a.PublicKey), []byte("a comment\n"), releasetest.PEM(t, &b.PublicKey))
	keys, err := release.ParseKeys(file)
	if err != nil || len(keys) != 2 || !keys[0].Equal(&a.PublicKey) || !keys[1].Equal(&b.PublicKey) {
		t.Errorf("got %v, %v", keys, err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "no PEM": []byte("hello"), "other block": []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
		"bad DER": []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
	} {
		if _, err := release.ParseKeys(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestManifest(t *testing.T) {
	r := imagestest.Release("edge", "2")
	b := releasetest.Bundle(t, r)
	m, err := release.ParseManifest(b.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if m.Digest != images.DigestOf(b.Manifest) || m.Config.Digest != images.DigestOf(b.Document) || len(m.Parts) != 4 {
		t.Errorf("parsed %+v", m)
	}
	for _, kind := range images.Kinds() {
		if blob := releasetest.Blob(t, r, kind); m.Parts[kind].Digest != images.DigestOf(blob) || m.Parts[kind].Size != int64(len(blob)) {
			t.Errorf("part %s: %+v", kind, m.Parts[kind])
		}
	}
	if again := releasetest.Bundle(t, imagestest.Release("edge", "2")); !bytes.Equal(again.Manifest, b.Manifest) {
		t.Error("two builds of one release differ")
	}
}

func TestBuildManifestRefuses(t *testing.T) {
	r := imagestest.Release("edge", "2")
	b := releasetest.Bundle(t, r)
	m, err := release.ParseManifest(b.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := release.BuildManifest([]byte("{}"), m.Parts); err == nil {
		t.Error("manifest of an invalid document was built")
	}
	other := m.Parts[images.KindUKI]
	other.Digest = images.DigestOf([]byte("other"))
	for want, part := range map[string]*release.Descriptor{"is missing": nil, "in the document": &other} {
		parts := map[images.Kind]release.Descriptor{images.KindRoot: m.Parts[images.KindRoot], images.KindVerity: m.Parts[images.KindVerity], images.KindLoader: m.Parts[images.KindLoader]}
		if part != nil {
			parts[images.KindUKI] = *part
		}
		if _, err := release.BuildManifest(b.Document, parts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

func TestParseManifestRefuses(t *testing.T) {
	good := string(releasetest.Bundle(t, imagestest.Release("edge", "2")).Manifest)
	for _, c := range []struct{ old, new, want string }{
		{`"schemaVersion":2`, `"schemaVersion":1`, "OCI image manifest"},
		{release.MediaTypeManifest, release.MediaTypeIndex, "OCI image manifest"},
		{`"artifactType":"` + images.MediaTypeRelease, `"artifactType":"x`, "artifact type"},
		{images.MediaTypeConfig, "application/json", "config: want media type"},
		{images.MediaTypeUKI, "application/octet-stream", "layer uki.efi: want media type"},
		{`"root.erofs"`, `"uki.efi"`, "want title root.erofs"},
		{`"layers":[`, `"layers":[{"mediaType":"x","digest":"sha256:x","size":1},`, "want 4 layers"},
		{`"layers":[`, `"subject":{"mediaType":"x","digest":"sha256:x","size":1},"layers":[`, "attachment"},
		{`"size":20000`, `"size":-1`, "want a size"},
		{`"size":20000`, `"size":999999999999999`, "want a size"},
		{`"digest":"sha256:`, `"digest":"sha512:`, "digest"},
		{`{"schemaVersion"`, `{"SchemaVersion":2,"schemaVersion"`, "duplicate"},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("manifest has no %s: %s", c.old, good)
		}
		_, err := release.ParseManifest([]byte(strings.Replace(good, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.new, err, c.want)
		}
	}
}

func TestSignatureAttachment(t *testing.T) {
	b := releasetest.Bundle(t, imagestest.Release("edge", "2"), releasetest.Key(t), releasetest.Key(t))
	a, err := release.BuildSignatures(b.Signatures)
	if err != nil {
		t.Fatal(err)
	}
	read := func(d release.Descriptor) ([]byte, error) { return a.Blobs[d.Digest], nil }
	got, err := release.ParseSignatures(a.Manifest, read)
	if err != nil || len(got) != 2 || !bytes.Equal(got[1].Bytes, b.Signatures[1].Bytes) || !bytes.Equal(got[0].Payload, b.Signatures[0].Payload) {
		t.Errorf("got %+v, %v", got, err)
	}
	forged := func(release.Descriptor) ([]byte, error) { return []byte("{}"), nil }
	if _, err := release.ParseSignatures(a.Manifest, forged); !errors.Is(err, release.ErrTampered) {
		t.Errorf("another payload: %v", err)
	}
	missing := func(release.Descriptor) ([]byte, error) { return nil, io.ErrUnexpectedEOF }
	if _, err := release.ParseSignatures(a.Manifest, missing); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("unreadable payload: %v", err)
	}
	if _, err := release.BuildSignatures(nil); err == nil {
		t.Error("attachment without signatures was built")
	}
}

func TestReferrer(t *testing.T) {
	m, err := release.ParseManifest(releasetest.Bundle(t, imagestest.Release("edge", "2")).Manifest)
	if err != nil {
		t.Fatal(err)
	}
	a, err := release.BuildReferrer(m.Descriptor(), images.MediaTypeSBOM, []byte(`{"spdxVersion":"SPDX-2.3"}`))
	if err != nil {
		t.Fatal(err)
	}
	subject, paper, err := release.ParseReferrer(a.Manifest)
	if err != nil || subject.Digest != m.Digest || paper.MediaType != images.MediaTypeSBOM || a.Blobs[paper.Digest] == nil {
		t.Errorf("got %+v %+v, %v", subject, paper, err)
	}
	if _, err := release.ParseManifest(a.Manifest); err == nil {
		t.Error("a referrer was parsed as a release")
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(releasetest.Bundle(f, imagestest.Release("edge", "2")).Manifest)
	f.Add([]byte(`{"schemaVersion":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := release.ParseManifest(data)
		if err != nil {
			return
		}
		for _, kind := range images.Kinds() {
			if _, err := images.ParseDigest(string(m.Parts[kind].Digest)); err != nil || m.Parts[kind].Size <= 0 {
				t.Errorf("accepted part %s: %+v", kind, m.Parts[kind])
			}
		}
	})
}

// FuzzVerify changes everything a depot may send; only the one good combination may pass.
func FuzzVerify(f *testing.F) {
	// Fuzzing runs in several processes; all must trust the key that signed the seeds.
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	good := releasetest.Bundle(f, imagestest.Release("edge", "2"), key)
	p := release.Policy{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Name: "edge"}
	f.Add(good.Manifest, good.Document, good.Signatures[0].Payload, good.Signatures[0].Bytes)
	f.Add([]byte("{}"), []byte("{}"), []byte("{}"), []byte{0x30, 0})
	f.Fuzz(func(t *testing.T, manifest, document, payload, signature []byte) {
		b := release.Bundle{Manifest: manifest, Document: document, Signatures: []release.Signature{{Payload: payload, Bytes: signature}}}
		if _, err := release.Verify(b, p); err != nil {
			return
		}
		if !bytes.Equal(manifest, good.Manifest) || !bytes.Equal(document, good.Document) || !bytes.Equal(payload, good.Signatures[0].Payload) {
			t.Errorf("accepted %q %q %q", manifest, document, payload)
		}
	})
}

func FuzzParseAttachments(f *testing.F) {
	b := releasetest.Bundle(f, imagestest.Release("edge", "2"), releasetest.Key(f))
	a, err := release.BuildSignatures(b.Signatures)
	if err != nil {
		f.Fatal(err)
	}
	m, err := release.ParseManifest(b.Manifest)
	if err != nil {
		f.Fatal(err)
	}
	referrer, err := release.BuildReferrer(m.Descriptor(), images.MediaTypeInToto, []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	index, err := release.Index{Manifests: []release.Descriptor{m.Descriptor()}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Manifest)
	f.Add(referrer.Manifest)
	f.Add(index)
	f.Fuzz(func(t *testing.T, data []byte) {
		signatures, err := release.ParseSignatures(data, func(d release.Descriptor) ([]byte, error) {
			if d.Size > 64<<10 {
				t.Errorf("asked for a payload of %d bytes", d.Size)
			}
			return a.Blobs[d.Digest], nil
		})
		if err == nil && len(signatures) > 64 {
			t.Errorf("%d signatures", len(signatures))
		}
		if x, err := release.ParseIndex(data); err == nil {
			if _, err := x.Encode(); err != nil {
				t.Errorf("parsed index was not encoded: %v", err)
			}
		}
		if subject, _, err := release.ParseReferrer(data); err == nil {
			if _, err := images.ParseDigest(string(subject.Digest)); err != nil {
				t.Errorf("referrer of %q", subject.Digest)
			}
		}
	})
}
