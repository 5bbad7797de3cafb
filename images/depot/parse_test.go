package depot

import (
	"path/filepath"
	"strings"
	"testing"

	"roost/images"
)

func TestParseReference(t *testing.T) {
	digest := images.DigestOf(nil)
	for s, want := range map[string]Reference{
		"out/depot": {Kind: kindPath, Path: "out/depot"}, "out/depot:edge:1": {Kind: kindPath, Path: "out/depot", Name: "edge", Version: "1"},
		"oci:out":                                  {Kind: KindLayout, Path: "out"},
		"oci:/srv/out:edge":                        {Kind: KindLayout, Path: "/srv/out", Name: "edge"},
		"oci:/srv/out:edge:1.2~rc1":                {Kind: KindLayout, Path: "/srv/out", Name: "edge", Version: "1.2~rc1"},
		"archive:edge.roost":                       {Kind: KindArchive, Path: "edge.roost"},
		"./out":                                    {Kind: kindPath, Path: "./out"},
		"/out:edge:1":                              {Kind: kindPath, Path: "/out", Name: "edge", Version: "1"},
		"docker://localhost/edge":                  {Kind: KindRegistry, Host: "localhost", Repository: "edge"},
		"10.77.0.1:7443/a/edge:1.2":                {Kind: KindRegistry, Host: "10.77.0.1:7443", Repository: "a/edge", Version: "1.2"},
		"docker://[::1]:5000/edge":                 {Kind: KindRegistry, Host: "[::1]:5000", Repository: "edge"},
		"registry.example/edge@" + digest.String(): {Kind: KindRegistry, Host: "registry.example", Repository: "edge", Digest: digest},
		"docker://10.77.0.1:7443":                  {Kind: KindRegistry, Host: "10.77.0.1:7443"},
		"localhost:5000/edge:1_trc1":               {Kind: KindRegistry, Host: "localhost:5000", Repository: "edge", Version: "1_trc1"},
	} {
		got, err := ParseReference(s)
		if err != nil || got != want {
			t.Errorf("parse %q: got %+v, %v", s, got, err)
			continue
		}
		if again, err := ParseReference(got.String()); err != nil || again != got {
			t.Errorf("parse %q again as %q: %+v, %v", s, got.String(), again, err)
		}
	}
	for _, s := range []string{
		"", "edge", "edge:1", "oci:", "oci:out:Edge", "oci:out:edge:1+2", "docker://", "docker://host/edge", "docker://h.x/Edge", "docker://h.x/edge@sha256:1",
		"docker://h.x:", "docker://h.x/:1", "docker://h.x//edge", "docker://a@h.x/edge", "https://h.x/edge", "oci:a\nb", ".x/y", "docker://:5000/x",
	} {
		if got, err := ParseReference(s); err == nil {
			t.Errorf("parse %q: accepted as %+v", s, got)
		}
	}
}

func TestTag(t *testing.T) {
	seen := map[string]images.Version{}
	for _, v := range []images.Version{"1", "1.2", "1.2~rc1", "1.2^git", "1~~^", ".1", "-1", "~1", images.Version(strings.Repeat("9", 64)), images.Version(strings.Repeat("~", 64))} {
		tag := Tag(v)
		if !validTag(tag) {
			t.Errorf("version %q has tag %q", v, tag)
		}
		if other, ok := seen[tag]; ok {
			t.Errorf("versions %q and %q have one tag %q", v, other, tag)
		}
		seen[tag] = v
		if Tag(images.Version(tag)) != tag {
			t.Errorf("tag %q of %q has another tag %q", tag, v, Tag(images.Version(tag)))
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"oci:out:edge:1", "archive:a", "docker://h.x:1/a/b:1@sha256:", "./x", "[::1]:5/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %+v, and as %q %+v, %v", s, r, r.String(), again, err)
		}
		if r.Repository != "" && !validRepository(r.Repository) {
			t.Errorf("%q has repository %q", s, r.Repository)
		}
	})
}

// FuzzRoute holds the promise on which path safety stands: no part of a route leads out of its directory.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{
		"/v2/", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/edge/manifests/1.2", "/v2/edge/manifests/" + string(images.DigestOf(nil)),
		"/v2/edge/blobs/uploads/", "/v2/edge/blobs/uploads/0123456789abcdef0123456789abcdef", "/v2/edge/blobs/" + string(images.DigestOf(nil)),
		"/v2/edge/referrers/" + string(images.DigestOf(nil)), "/v2/a/../b/manifests/x", "/v2/blobs/uploads/manifests/x",
	} {
		f.Add(s)
	}
	l := &layout{path: "/srv/layout"}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := parseRoute(path)
		if !ok {
			return
		}
		if r.repository != "" && (!validRepository(r.repository) || strings.Contains(r.repository, "..")) {
			t.Errorf("%q: repository %q", path, r.repository)
		}
		switch r.endpoint {
		case endpointBlob:
			if name := l.blobPath(images.Digest(r.argument)); filepath.Dir(name) != "/srv/layout/blobs/sha256" || len(filepath.Base(name)) != 64 {
				t.Errorf("%q: blob at %q", path, name)
			}
		case endpointUpload:
			u := uploads{path: "/srv/layout/uploads"}
			if name := u.file(r.argument); filepath.Dir(name) != "/srv/layout/uploads" || len(filepath.Base(name)) != 32 {
				t.Errorf("%q: upload at %q", path, name)
			}
		case endpointManifest:
			if !validTag(r.argument) && !validDigest(r.argument) {
				t.Errorf("%q: manifest %q", path, r.argument)
			}
		}
	})
}
